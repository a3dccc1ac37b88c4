//! Cluster IPs and node ports of services.
//!
//! Guarantees: no two services hold one address or node port, since each is claimed, with a condition on its absence, before
//! the service is written; what a failed write claimed is given back. There is no state in memory: claims are in storage,
//! ranges are the ServiceCIDR objects and the server's flags. A restart loses nothing, several API servers need not know of
//! each other. Follows upstream's `allocateCreate` and `allocateUpdate`.

pub mod addresses;
pub mod claims;
pub mod ports;
pub mod repair;

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::field::{ErrorList, FieldError, Path};
use apimachinery::gvk::GroupKind;
use apimachinery::meta;
use apimachinery::status::Status;
use component_base::net::Cidr;
use futures::future::BoxFuture;
use serde_json::Value;

use self::claims::{Claim, Good, Owner, owner};
use crate::resources::check::same;
use crate::resources::core::service::families;
use crate::resources::{HookContext, Rollback};
use crate::storage::cache::ResourceCache;
use crate::storage::clock::Clock;
use crate::storage::etcd::Etcd;

/// Gives out addresses and ports.
#[derive(Clone)]
pub struct Allocators {
    etcd: Etcd,
    clock: Arc<Clock>,
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
        let goods = |service: &Value| -> Vec<Good> {
            let ips = addresses::held(service).into_iter().map(Good::Address);
            ips.chain(ports::held(service).into_iter().map(Good::Port)).collect()
        };
        let kept = new.map(goods).unwrap_or_default();
        for good in goods(old).into_iter().filter(|good| !kept.contains(good)) {
            allocators.free(good, &owner(old)).await;
        }
    })
}

impl Allocators {
    /// Over the server's caches.
    pub fn new(etcd: Etcd, clock: Arc<Clock>) -> Self {
        Self { etcd, clock }
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
        let owner = owner(service);
        let mut mine: Vec<Good> = Vec::new();
        let mut outcome = self.allocate_addresses(service, old, cx, &ranges, &owner, &mut mine).await;
        if outcome.is_ok() {
            outcome = self.allocate_ports(service, old, cx, &owner, &mut mine).await;
        }
        let this = self.clone();
        let undo = async move {
            for good in mine {
                this.free(good, &owner).await;
            }
        };
        match outcome {
            Ok(()) => Ok(Rollback::new(undo)),
            Err(refused) => {
                undo.await;
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
        owner: &Owner,
        mine: &mut Vec<Good>,
    ) -> Result<(), Status> {
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
                    // A dry run looks no further.
                    if cx.request.dry_run {
                        addresses::place(service, need.index, ip);
                        continue;
                    }
                    match self.claim(Good::Address(ip), owner, cx.request.now, false).await? {
                        Claim::Taken => return Err(refuse("provided IP is already allocated")),
                        Claim::Made => mine.push(Good::Address(ip)),
                        Claim::Held => {}
                    }
                    ip
                }
                None => self.next(&need.family, ranges, owner, cx, mine).await?,
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
        owner: &Owner,
        cx: &HookContext<'_>,
        mine: &mut Vec<Good>,
    ) -> Result<IpAddr, Status> {
        let cache = self.cache("/registry/ipaddresses/");
        for range in ranges.iter().filter(|range| families::family(range.network()) == family) {
            // In a dry run the address of the network stands for the one that would be found.
            if cx.request.dry_run {
                return Ok(range.network());
            }
            for ip in addresses::candidates(range, rand::random()) {
                let seen = cache.as_ref().is_some_and(|cache| cache.get(&ip.to_string()).is_some());
                if seen {
                    continue;
                }
                match self.claim(Good::Address(ip), owner, cx.request.now, false).await? {
                    Claim::Taken => {}
                    Claim::Held => return Ok(ip),
                    Claim::Made => {
                        mine.push(Good::Address(ip));
                        return Ok(ip);
                    }
                }
            }
        }
        Err(Status::internal("failed to allocate a serviceIP: range is full"))
    }

    /// Ports are chosen by what this server sees of the services and claimed; one that turns out to be taken elsewhere is
    /// left out of the next choice.
    async fn allocate_ports(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        cx: &HookContext<'_>,
        owner: &Owner,
        mine: &mut Vec<Good>,
    ) -> Result<(), Status> {
        let unchanged = old.is_some_and(|old| same(&service["spec"], &old["spec"]));
        if unchanged || !families::has_node_ports(service) {
            return Ok(());
        }
        let others =
            self.objects("/registry/services/specs/").into_iter().filter(|other| claims::owner(other) != *owner);
        let mut used: Vec<u16> = others.flat_map(|other| ports::held(&other)).collect();
        loop {
            let mut attempt = service.clone();
            let new = self.choose_ports(&mut attempt, old, cx, &used).map_err(|error| match error {
                ports::PortError::Refused(errors) => invalid(&owner.1, &errors),
                ports::PortError::Full => Status::internal("failed to allocate a nodePort: range is full"),
            })?;
            let (mut made, mut contested) = (Vec::new(), false);
            for port in new {
                match self.claim(Good::Port(port), owner, cx.request.now, cx.request.dry_run).await? {
                    Claim::Made => made.push(Good::Port(port)),
                    Claim::Held => {}
                    Claim::Taken => {
                        used.push(port);
                        contested = true;
                    }
                }
            }
            if !contested {
                mine.append(&mut made);
                *service = attempt;
                return Ok(());
            }
            for good in made {
                self.free(good, owner).await;
            }
        }
    }

    fn choose_ports(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        cx: &HookContext<'_>,
        used: &[u16],
    ) -> Result<Vec<u16>, ports::PortError> {
        let taken = |port: u16| used.contains(&port);
        let seed = u64::from(rand::random::<u32>());
        ports::assign(service, old, &ports::Ports { range: cx.options.node_port_range, taken: &taken, seed })
    }
}
