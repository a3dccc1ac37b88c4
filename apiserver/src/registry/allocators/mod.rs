//! Cluster IPs and node ports of services.
//!
//! Guarantees: no two services hold one address, since an address is an IPAddress object, made with a condition on its
//! absence before the service is written; what a failed write reserved is given back. There is no state of its own but
//! ports that were promised moments ago: addresses are the IPAddress objects, ports are in the services, ranges are the
//! ServiceCIDR objects and the server's flags. A restart loses nothing. Follows upstream's `allocateCreate` and
//! `allocateUpdate`.

pub mod addresses;
pub mod ports;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use apimachinery::field::{ErrorList, FieldError, Path};
use apimachinery::gvk::GroupKind;
use apimachinery::meta;
use apimachinery::status::Status;
use component_base::net::Cidr;
use futures::future::BoxFuture;
use serde_json::Value;

use super::metadata;
use crate::resources::check::same;
use crate::resources::core::service::families;
use crate::resources::{HookContext, Rollback};
use crate::storage::cache::ResourceCache;
use crate::storage::clock::Clock;
use crate::storage::etcd::{Etcd, Written};

/// How long a promised port counts as taken although no service shows it: a write takes no longer.
const PROMISE: Duration = Duration::from_secs(30);

/// Gives out addresses and ports; clones share the promises.
#[derive(Clone)]
pub struct Allocators {
    etcd: Etcd,
    clock: Arc<Clock>,
    promised: Arc<Mutex<HashMap<u16, Instant>>>,
}

/// What became of an address that was asked for.
enum Claim {
    /// It was nobody's, and is the service's now.
    Made,
    /// It already was the service's, or nothing was made because it is a dry run.
    Held,
    /// It is somebody else's.
    Taken,
}

fn invalid(name: &str, errors: &ErrorList) -> Status {
    Status::invalid(&GroupKind { group: String::new(), kind: "Service".to_owned() }, name, errors)
}

/// The hook of the services strategy.
pub fn allocate<'a>(
    service: &'a mut Value,
    old: Option<&'a Value>,
    cx: &'a HookContext<'a>,
) -> BoxFuture<'a, Result<Rollback, Status>> {
    Box::pin(async move {
        let Some(allocators) = cx.allocators else { return Ok(Rollback::none()) };
        allocators.allocate(service, old, cx).await
    })
}

/// The hook that gives back what a service no longer holds.
pub fn release<'a>(old: &'a Value, new: Option<&'a Value>, cx: &'a HookContext<'a>) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        let Some(allocators) = cx.allocators else { return };
        let (kept_ips, kept_ports) = new.map(|new| (addresses::held(new), ports::held(new))).unwrap_or_default();
        allocators.forget(ports::held(old).into_iter().filter(|port| !kept_ports.contains(port)));
        for ip in addresses::held(old).into_iter().filter(|ip| !kept_ips.contains(ip)) {
            allocators.free(ip, meta::namespace(old), meta::name(old)).await;
        }
    })
}

impl Allocators {
    /// Over the server's caches.
    pub fn new(etcd: Etcd, clock: Arc<Clock>) -> Self {
        Self { etcd, clock, promised: Arc::default() }
    }

    fn cache(&self, prefix: &str) -> Option<Arc<ResourceCache>> {
        self.clock.cache(&self.etcd.key_prefix(prefix))
    }

    fn objects(&self, prefix: &str) -> Vec<Value> {
        let Some(cache) = self.cache(prefix) else { return Vec::new() };
        cache.snapshot(0).map.values().map(|entry| entry.value()).collect()
    }

    /// The ranges that may be used: the flags', and those of ServiceCIDRs that are not going away.
    fn ranges(&self, flags: &[Cidr]) -> Vec<Cidr> {
        let mut ranges = flags.to_vec();
        for object in self.objects("/registry/servicecidrs/") {
            if meta::deletion_timestamp(&object).is_some() {
                continue;
            }
            let cidrs = object["spec"]["cidrs"].as_array().into_iter().flatten();
            ranges.extend(cidrs.filter_map(|cidr| cidr.as_str()?.parse().ok()).filter(|cidr| !flags.contains(cidr)));
        }
        ranges
    }

    async fn allocate(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        cx: &HookContext<'_>,
    ) -> Result<Rollback, Status> {
        let ranges = self.ranges(&cx.options.service_cidrs);
        let mut configured: Vec<&str> = Vec::new();
        for range in &ranges {
            let family = families::family(range.network());
            if !configured.contains(&family) {
                configured.push(family);
            }
        }
        let name = meta::name(service).to_owned();
        families::settle(service, old, &configured).map_err(|errors| invalid(&name, &errors))?;
        let mut mine: Vec<IpAddr> = Vec::new();
        let outcome = self.allocate_addresses(service, old, cx, &ranges, &mut mine).await;
        let outcome = outcome.and_then(|()| self.allocate_ports(service, old, cx));
        let (this, owner) = (self.clone(), (meta::namespace(service).to_owned(), name));
        let undo = move |ports: Vec<u16>| async move {
            this.forget(ports.into_iter());
            for ip in mine {
                this.free(ip, &owner.0, &owner.1).await;
            }
        };
        match outcome {
            Ok(ports) => Ok(Rollback::new(undo(ports))),
            Err(refused) => {
                undo(Vec::new()).await;
                Err(refused)
            }
        }
    }

    async fn allocate_addresses(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        cx: &HookContext<'_>,
        ranges: &[Cidr],
        mine: &mut Vec<IpAddr>,
    ) -> Result<(), Status> {
        let owner = (meta::namespace(service).to_owned(), meta::name(service).to_owned());
        for need in addresses::needs(service, old) {
            let ip = match need.wanted {
                Some(ip) => {
                    let refuse = |why: &str| {
                        let ips = service["spec"]["clusterIPs"].clone();
                        let why = format!("failed to allocate IP {ip}: {why}");
                        let error = FieldError::invalid(Path::new("spec").child("clusterIPs"), ips, why);
                        invalid(&owner.1, &vec![error])
                    };
                    if !ranges.iter().any(|range| addresses::usable(range, ip)) {
                        return Err(refuse("the provided IP is not in a valid range"));
                    }
                    match self.claim(ip, &owner, cx).await? {
                        Claim::Taken => return Err(refuse("provided IP is already allocated")),
                        Claim::Made => mine.push(ip),
                        Claim::Held => {}
                    }
                    ip
                }
                None => self.next(&need.family, ranges, &owner, cx, mine).await?,
            };
            addresses::place(service, need.index, ip);
        }
        Ok(())
    }

    /// Any free address of a family.
    async fn next(
        &self,
        family: &str,
        ranges: &[Cidr],
        owner: &(String, String),
        cx: &HookContext<'_>,
        mine: &mut Vec<IpAddr>,
    ) -> Result<IpAddr, Status> {
        let cache = self.cache("/registry/ipaddresses/");
        for range in ranges.iter().filter(|range| families::family(range.network()) == family) {
            for ip in addresses::candidates(range, rand::random()) {
                let seen = cache.as_ref().is_some_and(|cache| cache.get(&ip.to_string()).is_some());
                if seen {
                    continue;
                }
                match self.claim(ip, owner, cx).await? {
                    Claim::Taken => {}
                    Claim::Held => return Ok(ip),
                    Claim::Made => {
                        mine.push(ip);
                        return Ok(ip);
                    }
                }
            }
        }
        Err(Status::internal("failed to allocate a serviceIP: range is full"))
    }

    /// Makes an address the service's. Nothing is made in a dry run.
    async fn claim(&self, ip: IpAddr, owner: &(String, String), cx: &HookContext<'_>) -> Result<Claim, Status> {
        let key = self.key(ip);
        let whose = |json: &[u8]| {
            let record: Value = serde_json::from_slice(json).unwrap_or_default();
            if addresses::belongs(&record, &owner.0, &owner.1) { Claim::Held } else { Claim::Taken }
        };
        if cx.request.dry_run {
            return Ok(self.etcd.get(&key).await?.map_or(Claim::Held, |there| whose(&there.json)));
        }
        let mut record = addresses::record(ip, &owner.0, &owner.1);
        metadata::fill_new(&mut record, cx.request.now);
        let json = serde_json::to_vec(&record).map_err(Status::internal)?;
        match self.etcd.create(&key, json, None).await? {
            Written::Done(_) => Ok(Claim::Made),
            // It may be the service's own, left by a write that did not come to its end.
            Written::Refused(there) => Ok(there.map_or(Claim::Taken, |there| whose(&there.json))),
        }
    }

    fn key(&self, ip: IpAddr) -> String {
        format!("{}{ip}", self.etcd.key_prefix("/registry/ipaddresses/"))
    }

    /// Gives an address back if it is still the service's. What fails here is found and repaired later.
    async fn free(&self, ip: IpAddr, namespace: &str, name: &str) {
        let key = self.key(ip);
        match self.etcd.get(&key).await {
            Ok(Some(there)) => {
                let record: Value = serde_json::from_slice(&there.json).unwrap_or_default();
                if !addresses::belongs(&record, namespace, name) {
                    return;
                }
                if let Err(error) = self.etcd.delete(&key, there.revision).await {
                    tracing::warn!(%ip, %error, "an address of a removed service stays taken");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%ip, %error, "an address of a removed service stays taken"),
        }
    }

    fn allocate_ports(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        cx: &HookContext<'_>,
    ) -> Result<Vec<u16>, Status> {
        let unchanged = old.is_some_and(|old| same(&service["spec"], &old["spec"]));
        if unchanged || !families::has_node_ports(service) {
            return Ok(Vec::new());
        }
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        promised.retain(|_, since| since.elapsed() < PROMISE);
        let (namespace, name) = (meta::namespace(service).to_owned(), meta::name(service).to_owned());
        let mut used: Vec<u16> = Vec::new();
        for other in self.objects("/registry/services/specs/") {
            if meta::namespace(&other) != namespace || meta::name(&other) != name {
                used.extend(ports::held(&other));
            }
        }
        let taken = |port: u16| used.contains(&port) || promised.contains_key(&port);
        let range =
            ports::Ports { range: cx.options.node_port_range, taken: &taken, seed: u64::from(rand::random::<u32>()) };
        let new = ports::assign(service, old, &range).map_err(|error| match error {
            ports::PortError::Refused(errors) => invalid(&name, &errors),
            ports::PortError::Full => Status::internal("failed to allocate a nodePort: range is full"),
        })?;
        promised.extend(new.iter().map(|port| (*port, Instant::now())));
        Ok(new)
    }

    fn forget(&self, ports: impl Iterator<Item = u16>) {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        for port in ports {
            promised.remove(&port);
        }
    }
}
