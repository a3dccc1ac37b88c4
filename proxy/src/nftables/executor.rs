//! Keeps one family's table equal to the service ports. After a failure, or when someone flushed the table, everything is
//! written again; otherwise only what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::render::{ElementKey, Parts, Value, frame, service_port};
use super::script::{Transaction, difference};
use crate::backend::Work;
use crate::core::ledger::Ledger;
use crate::core::{Change, Desired, Family, Ports};
use crate::iptables::sync;
use crate::program::{WriteError, run};
use crate::settings::Settings;
use crate::{metrics, netlink};

/// How long the kernel may take to notice that nothing leads to a chain any more.
const STALE: Duration = Duration::from_secs(1);
/// The first version that does not read everybody's tables at its start.
const MIN_NFT: [u32; 3] = [1, 0, 1];
/// The first kernel that may be expected on machines whose own nft understands our rules.
const MIN_KERNEL: [u32; 3] = [5, 13, 0];
const SKIP_KERNEL_CHECK: &str = "KUBE_PROXY_NFTABLES_SKIP_KERNEL_VERSION_CHECK";

/// One family's rules.
#[derive(Debug)]
pub struct Executor {
    family: Family,
    /// Elements that were written; none while nothing is known of the kernel's state.
    elements: Option<Ledger<ElementKey, Value>>,
    /// How many rules the chain has that every packet passes; fewer say that somebody flushed the table.
    dispatch_rules: usize,
    /// Emptied chains and since when.
    stale: BTreeMap<String, Instant>,
}

impl Executor {
    /// Knows nothing of the kernel's state yet.
    pub fn new(family: Family) -> Self {
        Self { family, elements: None, dispatch_rules: 0, stale: BTreeMap::new() }
    }

    /// Whether the kernel and the program can do it.
    ///
    /// # Errors
    /// What is missing.
    pub async fn is_supported(family: Family) -> Result<(), WriteError> {
        let nft = run("nft", &["--version"], "").await?;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let skip = std::env::var_os(SKIP_KERNEL_CHECK).is_some_and(|value| !value.is_empty());
        for (what, text, least) in [("nft", nft, MIN_NFT), ("the kernel", kernel, MIN_KERNEL)] {
            if version(&text) < least && !(least == MIN_KERNEL && skip) {
                let least = least.map(|part| part.to_string()).join(".");
                let words = format!("{what} is {}, the nftables mode needs {least} or later", text.trim());
                return Err(WriteError::Refused { program: "kube-proxy".to_owned(), words, hint: String::new() });
            }
        }
        let check = format!("add table {} kube-proxy-check\n", family.nft());
        run("nft", &["--check", "-f", "-"], &check).await.map(drop)
    }

    /// Whether the next write may be a difference.
    pub fn is_partial(&self) -> bool {
        self.elements.is_some()
    }

    /// Makes the kernel's rules follow.
    ///
    /// # Errors
    /// What the program said; only everything may be written next.
    pub async fn apply(&mut self, settings: &Settings, work: Work<'_>) -> Result<(), WriteError> {
        let result = match (self.elements.take(), work) {
            (Some(elements), Work::Changes(changes)) => {
                self.delete_stale().await;
                self.change(settings, elements, changes).await
            }
            (_, Work::Changes(_)) => return Ok(()),
            (_, Work::All(desired)) => self.all(settings, desired).await,
        };
        if result.is_err() {
            metrics::NFT_FAILURES.with(&[self.family.label()]).inc();
        }
        self.elements = Some(result?);
        Ok(())
    }

    async fn change(
        &mut self,
        settings: &Settings,
        mut elements: Ledger<ElementKey, Value>,
        changes: &[Change],
    ) -> Result<Ledger<ElementKey, Value>, WriteError> {
        let (mut old, mut new) = (Parts::default(), Parts::default());
        for change in changes {
            parts(settings, &change.old, &mut old);
            parts(settings, &change.new, &mut new);
        }
        let (before, after) = (std::mem::take(&mut old.elements), std::mem::take(&mut new.elements));
        let mut transaction = difference(&old, &new);
        transaction.elements = elements.change(before, after);
        let text = transaction.text(self.family, &[]);
        if !text.is_empty() {
            run("nft", &["-f", "-"], &text).await?;
        }
        for (name, _) in &transaction.chains {
            self.stale.remove(name);
        }
        self.stale.extend(transaction.stale.into_iter().map(|name| (name, Instant::now())));
        Ok(elements)
    }

    async fn all(&mut self, settings: &Settings, desired: &Desired) -> Result<Ledger<ElementKey, Value>, WriteError> {
        let mut new = Parts::default();
        for port in desired.ports() {
            service_port(settings, port, &mut new);
        }
        let mut elements = Ledger::default();
        let added = elements.change(Vec::new(), std::mem::take(&mut new.elements));
        let nothing = Parts::default();
        let mut transaction = difference(&nothing, &new);
        transaction.elements = added;
        let table = ["table", self.family.nft(), "kube-proxy"];
        self.mark_stale(&new, &mut transaction).await;
        let mut frame = frame(settings);
        let dispatch = format!("add rule {} kube-proxy services ", self.family.nft());
        self.dispatch_rules = frame.iter().filter(|line| line.starts_with(&dispatch)).count();
        if run("nft", &["-f", "-"], &transaction.text(self.family, &frame)).await.is_err() {
            // whatever somebody made of the table is in the way; clients' affinity is forgotten
            frame.insert(1, format!("delete {}", table.join(" ")));
            frame.insert(2, frame[0].clone());
            (transaction.stale, transaction.forget) = (BTreeSet::new(), BTreeSet::new());
            run("nft", &["-f", "-"], &transaction.text(self.family, &frame)).await?;
        }
        self.stale = transaction.stale.into_iter().map(|name| (name, Instant::now())).collect();
        Ok(elements)
    }

    /// Chains and sets of Services (their names have a slash) that are there and not wanted go.
    async fn mark_stale(&self, wanted: &Parts, transaction: &mut Transaction<'_>) {
        let family = self.family.nft();
        let chains: BTreeSet<&str> = wanted.chains.iter().map(|(name, _)| name.as_str()).collect();
        let sets: BTreeSet<&str> = wanted.affinity.iter().map(|(name, _)| name.as_str()).collect();
        for (kind, wanted, stale) in [("chain", chains, &mut transaction.stale), ("set", sets, &mut transaction.forget)]
        {
            let listed = run("nft", &["-t", "list", &format!("{kind}s"), family], "").await.unwrap_or_default();
            let there = sync::names(&listed, family, "kube-proxy", kind).into_iter();
            let gone = there.filter(|name| name.contains('/') && !wanted.contains(name));
            stale.extend(gone.map(str::to_owned));
        }
    }

    /// Deletes chains that were emptied a while ago. A failure costs nothing but their names; the next full write sees them.
    async fn delete_stale(&mut self) {
        let old = |since: &Instant| since.elapsed() > STALE;
        let delete = |name: &String| format!("delete chain {} kube-proxy {name}\n", self.family.nft());
        let text: String = self.stale.iter().filter(|(_, since)| old(since)).map(|(name, _)| delete(name)).collect();
        if text.is_empty() {
            return;
        }
        self.stale.retain(|_, since| !old(since));
        if let Err(error) = run("nft", &["-f", "-"], &text).await {
            metrics::NFT_CLEANUP_FAILURES.with(&[self.family.label()]).inc();
            tracing::warn!("cannot delete chains that are not needed any more: {error}");
        }
    }

    /// Whether what was written is still there; forgets it otherwise.
    pub async fn check(&mut self) -> bool {
        self.delete_stale().await;
        // nft itself would read the whole table to list one chain
        let family = self.family;
        let count = tokio::task::spawn_blocking(move || netlink::count_rules(family, "kube-proxy", "services")).await;
        let whole = count.is_ok_and(|count| count.is_ok_and(|count| count == self.dispatch_rules));
        if !whole {
            self.elements = None;
        }
        whole
    }

    /// Removes the table, if there is one.
    ///
    /// # Errors
    /// What the program said.
    pub async fn cleanup(family: Family) -> Result<(), WriteError> {
        let table = ["table", family.nft(), "kube-proxy"];
        // no table, no program or no nftables in the kernel: nothing to remove
        match run("nft", &[&["-t", "list"][..], &table].concat(), "").await {
            Ok(_) => run("nft", &[&["delete"][..], &table].concat(), "").await.map(drop),
            Err(_) => Ok(()),
        }
    }
}

fn parts(settings: &Settings, ports: &Ports, out: &mut Parts) {
    for port in ports.iter() {
        service_port(settings, port, out);
    }
}

/// The first three numbers with dots in between.
fn version(text: &str) -> [u32; 3] {
    let start = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
    let mut parts = text[start..].split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}
