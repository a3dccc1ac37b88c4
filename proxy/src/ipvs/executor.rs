//! Keeps the kernel's virtual servers, addresses, sets and rules of one family equal to the service ports. After a failure,
//! or when someone took some away, everything is compared with what is there; otherwise only what changed is written.
//!
//! An endpoint that goes keeps its TCP connections: it gets no new ones and is deleted once it has none.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use super::kernel::Ipvs;
use super::plan::{Action, Key, Server, State, actions, claims};
use super::rules::rules;
use super::sets::{self, Edits, Set};
use super::{DEVICE, Options};
use crate::backend::Work;
use crate::core::ledger::{Differences, Ledger};
use crate::core::{Desired, Family, Ports, Protocol};
use crate::iptables::{Ruleset, Tables, sync};
use crate::netlink::{self, Socket};
use crate::program::{WriteError, run};
use crate::settings::Settings;

/// One family's part of the kernel.
#[derive(Debug)]
pub struct Executor {
    family: Family,
    options: Options,
    tables: Tables,
    written: Option<Written>,
    /// Endpoints without weight that still have connections.
    draining: BTreeSet<(Server, SocketAddr)>,
}

#[derive(Debug, Default)]
struct Written {
    claims: Ledger<Key, State>,
    entries: BTreeMap<Set, usize>,
    no_node_access: BTreeSet<Server>,
    rules: Ruleset,
}

impl Written {
    /// Counts entries and remembers load balancers; returns the edits of the sets.
    fn count(&mut self, differences: &Differences<Key, State>) -> Edits {
        let mut edits = Edits::new();
        for (key, (_, after)) in differences {
            let added = after.is_some();
            match key {
                Key::Entry(set, entry) => {
                    let count = self.entries.entry(*set).or_default();
                    *count = if added { *count + 1 } else { count.saturating_sub(1) };
                    edits.insert((*set, entry.clone()), added);
                }
                Key::NoNodeAccess(server) if added => drop(self.no_node_access.insert(*server)),
                Key::NoNodeAccess(server) => drop(self.no_node_access.remove(server)),
                Key::Address(_) | Key::Server(_) => {}
            }
        }
        edits
    }

    fn make_rules(&self, settings: &Settings) -> Ruleset {
        let filled = self.entries.iter().filter(|(_, count)| **count > 0).map(|(set, _)| *set).collect();
        rules(settings, &filled, &self.no_node_access)
    }
}

impl Executor {
    /// Knows nothing of the kernel's state yet.
    pub fn new(family: Family, options: Options) -> Self {
        let draining = BTreeSet::new();
        Self { family, options, tables: Tables(family), written: None, draining }
    }

    /// Whether the kernel has IPVS and the scheduler, and there is ipset.
    ///
    /// # Errors
    /// What is missing.
    pub async fn is_supported(options: &Options) -> Result<(), WriteError> {
        run("ipset", &["--version"], "").await?;
        let scheduler = options.scheduler.clone();
        blocking("do IPVS with this scheduler (modules ip_vs and ip_vs_*)", move || {
            // a documentation address that nobody has
            let server = Server { protocol: Protocol::Tcp, address: ([198, 51, 100, 0], 20_000).into() };
            let mut ipvs = Ipvs::open()?;
            ipvs.delete_server(&server)?;
            ipvs.set_server(&server, &scheduler, None, true)?;
            ipvs.delete_server(&server)
        })
        .await
    }

    /// Whether the next write may be a difference.
    pub fn is_partial(&self) -> bool {
        self.written.is_some()
    }

    /// Makes the kernel follow.
    ///
    /// # Errors
    /// What programs or the kernel said; only everything may be written next.
    pub async fn apply(&mut self, settings: &Settings, work: Work<'_>) -> Result<(), WriteError> {
        let written = match (self.written.take(), work) {
            (Some(mut written), Work::Changes(changes)) => {
                let all = |ports: fn(&crate::core::Change) -> &Ports| {
                    changes.iter().flat_map(|c| ports(c).iter()).flat_map(|port| claims(settings, port)).collect()
                };
                let differences = written.claims.change(all(|c| &c.old), all(|c| &c.new));
                let edits = written.count(&differences);
                self.write_sets(&sets::script(self.family, &edits)).await?;
                self.act(plan(&differences)).await?;
                let rules = written.make_rules(settings);
                self.tables.restore(&sync::partial(&written.rules, &rules)).await?;
                Written { rules, ..written }
            }
            (_, Work::Changes(_)) => return Ok(()),
            (_, Work::All(desired)) => self.all(settings, desired).await?,
        };
        self.written = Some(written);
        Ok(())
    }

    async fn all(&mut self, settings: &Settings, desired: &Desired) -> Result<Written, WriteError> {
        let mut written = Written::default();
        let claims = desired.ports().flat_map(|port| claims(settings, port)).collect();
        let wanted = written.claims.change(Vec::new(), claims);
        written.count(&wanted);
        let (family, exclude) = (self.family, self.options.exclude_cidrs.clone());
        let found = blocking("list virtual servers", move || found(family, &exclude)).await?;
        let mut actions = found.compare(&wanted, &self.options.scheduler);
        self.draining = found.idle;
        let entries = wanted.keys().filter_map(|key| match key {
            Key::Entry(set, entry) => Some((*set, entry.as_str())),
            _ => None,
        });
        let saved = run("ipset", &["save"], "").await?;
        let (create, edits) = sets::full(family, &saved, entries);
        self.write_sets(&(create + &sets::script(family, &edits))).await?;
        // what goes, goes after the rules know
        let is_removal = |action: &Action| matches!(action, Action::Delete(_) | Action::Unbind(_));
        let removals = actions.extract_if(.., |action| is_removal(action)).collect();
        self.act(actions).await?;
        written.rules = written.make_rules(settings);
        self.tables.write(&written.rules).await?;
        self.act(removals).await?;
        Ok(written)
    }

    async fn write_sets(&self, script: &str) -> Result<(), WriteError> {
        if script.is_empty() { Ok(()) } else { run("ipset", &["restore"], script).await.map(drop) }
    }

    async fn act(&mut self, actions: Vec<Action>) -> Result<(), WriteError> {
        let (scheduler, mut draining) = (self.options.scheduler.clone(), std::mem::take(&mut self.draining));
        let what = "change virtual servers";
        self.draining = blocking(what, move || {
            let (mut ipvs, mut route) = (Ipvs::open()?, Socket::route()?);
            let device = match netlink::interface(&mut route, DEVICE)? {
                Some(device) => device,
                None => {
                    netlink::add_dummy(&mut route, DEVICE)?;
                    netlink::interface(&mut route, DEVICE)?.unwrap_or_default()
                }
            };
            for action in &actions {
                perform(&mut ipvs, &mut route, device, &scheduler, action, &mut draining)?;
            }
            sweep(&mut ipvs, &mut draining)?;
            Ok(draining)
        })
        .await?;
        Ok(())
    }

    /// Whether what was written is still there; deletes endpoints whose connections ended.
    pub async fn check(&mut self) -> bool {
        let Some(written) = &self.written else { return false };
        let mut draining = std::mem::take(&mut self.draining);
        let looked = blocking("list virtual servers", move || {
            let mut ipvs = Ipvs::open()?;
            sweep(&mut ipvs, &mut draining)?;
            let device = netlink::interface(&mut Socket::route()?, DEVICE)?;
            let servers: BTreeSet<Server> = ipvs.servers()?.into_iter().map(|(server, _, _)| server).collect();
            Ok((draining, servers, device.is_some()))
        })
        .await;
        let listed = run("ipset", &["list", "-t"], "").await.unwrap_or_default();
        let sets_whole = Set::ALL.iter().all(|set| {
            let header = format!("Name: {}", set.name(self.family));
            let counts = listed.lines().skip_while(|line| *line != header);
            let count = counts.filter_map(|line| line.strip_prefix("Number of entries: ")).next();
            count.and_then(|count| count.parse().ok()) == Some(written.entries.get(set).copied().unwrap_or(0))
        });
        let servers_whole = looked.is_ok_and(|(draining, servers, device)| {
            self.draining = draining;
            device && written.claims.iter().all(|(key, _)| !matches!(key, Key::Server(s) if !servers.contains(s)))
        });
        let whole = sets_whole && servers_whole && self.tables.check().await;
        if !whole {
            self.written = None;
        }
        whole
    }

    /// Removes everything of ours but iptables rules. The dummy interface says whether there is anything.
    ///
    /// # Errors
    /// What the kernel or the program said.
    pub async fn cleanup(family: Family) -> Result<(), WriteError> {
        blocking("remove virtual servers", || {
            let mut route = Socket::route()?;
            if netlink::interface(&mut route, DEVICE)?.is_none() {
                return Ok(());
            }
            Ipvs::open()?.flush()?;
            netlink::delete_interface(&mut route, DEVICE)
        })
        .await?;
        let Ok(names) = run("ipset", &["list", "-n"], "").await else { return Ok(()) };
        let ours = Set::ALL.iter().map(|set| set.name(family)).filter(|name| names.lines().any(|n| n == name));
        let script: String = ours.map(|name| format!("destroy {name}\n")).collect();
        if script.is_empty() { Ok(()) } else { run("ipset", &["restore"], &script).await.map(drop) }
    }
}

/// What there is.
struct Found {
    servers: BTreeMap<Server, (String, State)>,
    addresses: BTreeSet<std::net::IpAddr>,
    idle: BTreeSet<(Server, SocketAddr)>,
}

fn found(family: Family, exclude: &[component_base::net::Cidr]) -> io::Result<Found> {
    let (mut ipvs, mut route) = (Ipvs::open()?, Socket::route()?);
    let mut out = Found { servers: BTreeMap::new(), addresses: BTreeSet::new(), idle: BTreeSet::new() };
    for (server, scheduler, affinity) in ipvs.servers()? {
        let ip = server.address.ip();
        if !family.has(&ip) || exclude.iter().any(|range| range.contains(ip)) {
            continue;
        }
        let (state, idle) = ipvs.state(&server, affinity)?;
        out.idle.extend(idle.into_iter().map(|endpoint| (server, endpoint)));
        out.servers.insert(server, (scheduler, state));
    }
    if let Some(device) = netlink::interface(&mut route, DEVICE)? {
        let here = netlink::addresses(&mut route)?.into_iter().filter(|(at, ip)| *at == device && family.has(ip));
        let link_local = |ip: &std::net::IpAddr| matches!(ip, std::net::IpAddr::V6(ip) if ip.is_unicast_link_local());
        out.addresses = here.map(|(_, ip)| ip).filter(|ip| !link_local(ip)).collect();
    }
    Ok(out)
}

impl Found {
    /// What has to be done so that there is what is wanted.
    fn compare(&self, wanted: &Differences<Key, State>, configured: &str) -> Vec<Action> {
        let mut differences = wanted.clone();
        let mut out = Vec::new();
        for (server, (scheduler, state)) in &self.servers {
            let wanted = differences.entry(Key::Server(*server)).or_default();
            wanted.0 = Some(state.clone());
            if let Some(after) = wanted.1.as_ref().filter(|_| scheduler != configured) {
                out.push(Action::Change(*server, after.affinity_seconds));
            }
        }
        for ip in &self.addresses {
            differences.entry(Key::Address(*ip)).or_default().0 = Some(State::default());
        }
        out.extend(plan(&differences));
        out
    }
}

/// Actions of differences, in an order in which nothing is missing what it needs.
fn plan(differences: &Differences<Key, State>) -> Vec<Action> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for (key, (before, after)) in differences {
        match (key, before, after) {
            (Key::Address(ip), None, Some(_)) => first.push(Action::Bind(*ip)),
            (Key::Address(ip), Some(_), None) => last.push(Action::Unbind(*ip)),
            (Key::Server(server), before, after) => actions(*server, before.as_ref(), after.as_ref(), &mut first),
            _ => {}
        }
    }
    first.append(&mut last);
    first
}

fn perform(
    ipvs: &mut Ipvs,
    route: &mut Socket,
    device: u32,
    scheduler: &str,
    action: &Action,
    draining: &mut BTreeSet<(Server, SocketAddr)>,
) -> io::Result<()> {
    match action {
        Action::Bind(ip) => netlink::set_address(route, device, *ip, true),
        Action::Unbind(ip) => netlink::set_address(route, device, *ip, false),
        Action::Add(server, affinity) => ipvs.set_server(server, scheduler, *affinity, true),
        Action::Change(server, affinity) => ipvs.set_server(server, scheduler, *affinity, false),
        Action::Delete(server) => {
            draining.retain(|(of, _)| of != server);
            ipvs.delete_server(server)
        }
        Action::Open(server, endpoint) => {
            draining.remove(&(*server, *endpoint));
            ipvs.set_destination(server, *endpoint, 1)
        }
        Action::Drain(server, endpoint) if server.protocol == Protocol::Tcp => {
            draining.insert((*server, *endpoint));
            ipvs.set_destination(server, *endpoint, 0)
        }
        // flows of other protocols are ended by the kernel with their endpoint
        Action::Drain(server, endpoint) => ipvs.delete_destination(server, *endpoint),
    }
}

/// Deletes endpoints without weight that have no connections any more.
fn sweep(ipvs: &mut Ipvs, draining: &mut BTreeSet<(Server, SocketAddr)>) -> io::Result<()> {
    let servers: BTreeSet<Server> = draining.iter().map(|(server, _)| *server).collect();
    for server in servers {
        let there = ipvs.destinations(&server)?;
        draining.retain(|(of, endpoint)| of != &server || there.iter().any(|d| d.endpoint == *endpoint));
        for idle in there.iter().filter(|d| d.connections == 0) {
            if draining.remove(&(server, idle.endpoint)) {
                ipvs.delete_destination(&server, idle.endpoint)?;
            }
        }
    }
    Ok(())
}

/// Runs netlink requests, which block, on a thread of their own.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, WriteError> {
    let failed = |source| WriteError::Kernel { what: what.to_owned(), source };
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
}
