//! Keeps one family's tables equal to the service ports. After a failure, or when someone flushed the tables, everything is
//! written again; otherwise only the chains of what changed.

use std::collections::{BTreeMap, BTreeSet};

use super::render::{SHARED, frame, node_ports, service_port};
use super::{Ruleset, Table, Tables, sync};
use crate::backend::Work;
use crate::core::{Change, Desired, Family, Protocol, ServicePort};
use crate::metrics;
use crate::program::WriteError;
use crate::settings::Settings;

/// One family's rules.
#[derive(Debug)]
pub struct Executor {
    tables: Tables,
    state: Option<State>,
}

impl Executor {
    /// Knows nothing of the kernel's state yet.
    pub fn new(family: Family) -> Self {
        Self { tables: Tables(family), state: None }
    }

    /// Whether the next write may be a difference.
    pub fn is_partial(&self) -> bool {
        self.state.is_some()
    }

    /// Makes the kernel's rules follow.
    ///
    /// # Errors
    /// What the programs said; only everything may be written next.
    pub async fn apply(&mut self, settings: &Settings, work: Work<'_>) -> Result<(), WriteError> {
        let (state, written) = match (self.state.take(), work) {
            (Some(mut state), Work::Changes(changes)) => {
                let script = state.change(settings, changes);
                self.tables.restore(&script).await?;
                (state, count(&script))
            }
            (_, Work::Changes(_)) => return Ok(()),
            (_, Work::All(desired)) => {
                let (state, rules) = State::of(settings, desired);
                self.tables.write(&rules).await?;
                let total = state.total();
                (state, total)
            }
        };
        let total = state.total();
        for (at, table) in ["filter", "nat"].into_iter().enumerate() {
            let labels = [table, settings.family.label()];
            metrics::RULES.with(&labels).set(metrics::number(total[at]));
            metrics::RULES_WRITTEN.with(&labels).set(metrics::number(written[at]));
        }
        self.state = Some(state);
        Ok(())
    }

    /// Whether what was written is still there; forgets it otherwise.
    pub async fn check(&mut self) -> bool {
        let whole = self.tables.check().await;
        if !whole {
            self.state = None;
        }
        whole
    }
}

/// What must be remembered to write a difference: the chains that many Services share. Per table: filter, nat.
#[derive(Debug, Default)]
pub struct State {
    shared: [BTreeMap<&'static str, BTreeMap<PortId, Vec<String>>>; 2],
    node_ports: Vec<String>,
    /// Number of rules in other chains.
    own: [usize; 2],
}

type PortId = (String, Protocol);

impl State {
    /// Everything.
    pub fn of(settings: &Settings, desired: &Desired) -> (Self, Ruleset) {
        let (mut state, mut rules, mut last) = (Self::default(), frame(settings), Table::default());
        node_ports(settings, &mut last);
        state.node_ports = last.chains.remove("KUBE-SERVICES").unwrap_or_default();
        for port in desired.ports() {
            let mut own = Ruleset::default();
            service_port(settings, port, &mut own);
            state.take_shared(port, &mut own);
            for (all, own) in rules.tables_mut().into_iter().zip(own.tables_mut()) {
                // not `append`, which goes through all that is there
                all.chains.extend(std::mem::take(&mut own.chains));
            }
        }
        state.own = rules.tables().map(|(_, table)| table.len());
        for (at, table) in rules.tables_mut().into_iter().enumerate() {
            for (chain, rules) in table.chains.iter_mut().filter(|(chain, _)| SHARED.contains(&chain.as_str())) {
                *rules = state.content(at, chain);
            }
        }
        (state, rules)
    }

    /// The script for a difference. Shared chains are written whole when their part of a changed Service changes.
    pub fn change(&mut self, settings: &Settings, changes: &[Change]) -> String {
        let (mut old, mut new, mut touched) = (Ruleset::default(), Ruleset::default(), BTreeSet::new());
        for change in changes {
            let mut parts = [(&change.old, &mut old), (&change.new, &mut new)].map(|(ports, rules)| {
                let mut shared = Self::default();
                for port in ports.iter() {
                    service_port(settings, port, rules);
                    shared.take_shared(port, rules);
                }
                shared.shared
            });
            for (at, chain) in (0..2).flat_map(|at| SHARED.map(|chain| (at, chain))) {
                let [was, now] = parts.each_mut().map(|part| part[at].remove(chain).unwrap_or_default());
                if was != now {
                    let all = self.shared[at].entry(chain).or_default();
                    all.retain(|id, _| !was.contains_key(id));
                    all.extend(now);
                    touched.insert((at, chain));
                }
            }
        }
        for at in 0..2 {
            self.own[at] = self.own[at] + new.tables()[at].1.len() - old.tables()[at].1.len().min(self.own[at]);
        }
        for (at, chain) in touched {
            new.tables_mut()[at].chains.insert(chain.to_owned(), self.content(at, chain));
        }
        sync::partial(&old, &new)
    }

    /// Number of rules per table.
    fn total(&self) -> [usize; 2] {
        let shared = |at: usize| self.shared[at].values().flat_map(BTreeMap::values).map(Vec::len).sum::<usize>();
        [self.own[0] + shared(0), self.own[1] + shared(1) + self.node_ports.len()]
    }

    fn take_shared(&mut self, port: &ServicePort, rules: &mut Ruleset) {
        for (at, table) in rules.tables_mut().into_iter().enumerate() {
            for chain in SHARED {
                if let Some(rules) = table.chains.remove(chain) {
                    let id = (port.name.clone(), port.protocol);
                    self.shared[at].entry(chain).or_default().insert(id, rules);
                }
            }
        }
    }

    fn content(&self, at: usize, chain: &str) -> Vec<String> {
        let last = if at == 1 && chain == "KUBE-SERVICES" { self.node_ports.as_slice() } else { &[] };
        let services = self.shared[at].get(chain).into_iter().flat_map(BTreeMap::values).flatten();
        services.chain(last).cloned().collect()
    }
}

/// Rules that a script writes, per table.
fn count(script: &str) -> [usize; 2] {
    ["*filter", "*nat"].map(|table| {
        let lines = script.lines().skip_while(|line| *line != table).take_while(|line| *line != "COMMIT");
        lines.filter(|line| line.starts_with("-A ")).count()
    })
}
