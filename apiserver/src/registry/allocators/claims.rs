//! What services claim: addresses as IPAddress objects, node ports as keys of their own beside them.
//!
//! Guarantees: a claim is made with a condition on its absence, so that of several API servers one gets it; only a claim
//! that is still the owner's is given back.

use std::net::IpAddr;

use apimachinery::meta;
use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Allocators, addresses};
use crate::registry::metadata;
use crate::storage::etcd::Written;

/// Claims of node ports lie below.
const PORT_PREFIX: &str = "/registry/ranges/servicenodeports/";

/// An address or a node port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Good {
    /// A cluster IP.
    Address(IpAddr),
    /// A port of every node.
    Port(u16),
}

impl std::fmt::Display for Good {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(ip) => write!(f, "address {ip}"),
            Self::Port(port) => write!(f, "node port {port}"),
        }
    }
}

/// Namespace and name of a service.
pub type Owner = (String, String);

/// The owner that a service is.
pub fn owner(service: &Value) -> Owner {
    (meta::namespace(service).to_owned(), meta::name(service).to_owned())
}

/// What became of something that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It was nobody's, and is the service's now.
    Made,
    /// It already was the service's, or nothing was made because it is a dry run.
    Held,
    /// It is somebody else's.
    Taken,
}

impl Allocators {
    fn key(&self, good: Good) -> String {
        match good {
            Good::Address(ip) => format!("{}{ip}", self.etcd.key_prefix("/registry/ipaddresses/")),
            Good::Port(port) => format!("{}{port}", self.etcd.key_prefix(PORT_PREFIX)),
        }
    }

    /// Makes something the service's. Nothing is made in a dry run.
    ///
    /// # Errors
    /// Storage does not answer.
    pub(super) async fn claim(
        &self,
        good: Good,
        owner: &Owner,
        now: Timestamp,
        dry_run: bool,
    ) -> Result<Claim, Status> {
        let key = self.key(good);
        let whose = |json: &[u8]| {
            let record: Value = serde_json::from_slice(json).unwrap_or_default();
            if belongs(&record, owner) { Claim::Held } else { Claim::Taken }
        };
        if dry_run {
            return Ok(self.etcd.get(&key).await?.map_or(Claim::Held, |there| whose(&there.json)));
        }
        let mut record = match good {
            Good::Address(ip) => addresses::record(ip, &owner.0, &owner.1),
            Good::Port(port) => json!({"metadata": {"name": port.to_string()},
                "spec": {"parentRef": addresses::parent(&owner.0, &owner.1)}}),
        };
        metadata::fill_new(&mut record, now);
        let json = serde_json::to_vec(&record).map_err(Status::internal)?;
        match self.etcd.create(&key, &json, None).await? {
            Written::Done(_) => Ok(Claim::Made),
            // It may be the service's own, left by a write that did not come to its end.
            Written::Refused(there) => Ok(there.map_or(Claim::Taken, |there| whose(&there.json))),
        }
    }

    /// Gives something back if it is still the service's. What fails here is found and repaired later.
    pub(super) async fn free(&self, good: Good, owner: &Owner) {
        let key = self.key(good);
        let freed = async {
            let Some(there) = self.etcd.get(&key).await? else { return Ok(()) };
            let record: Value = serde_json::from_slice(&there.json).unwrap_or_default();
            if belongs(&record, owner) {
                self.etcd.delete(&key, there.revision).await?;
            }
            Ok::<_, crate::storage::StorageError>(())
        };
        if let Err(error) = freed.await {
            tracing::warn!(%good, %error, "something of a removed service stays taken until it is repaired");
        }
    }

    /// All claims of node ports, live.
    ///
    /// # Errors
    /// Storage does not answer.
    pub(super) async fn port_claims(&self) -> Result<Vec<(Good, Value)>, Status> {
        let prefix = self.etcd.key_prefix(PORT_PREFIX);
        let mut found = Vec::new();
        let note = |key: &str, stored: &[u8], _: u64| {
            let port = key.strip_prefix(prefix.as_str()).and_then(|port| port.parse().ok());
            found.extend(port.map(|port| (Good::Port(port), serde_json::from_slice(stored).unwrap_or_default())));
        };
        self.etcd.list(&prefix, note).await?;
        Ok(found)
    }
}

/// Whether a claim is a service's.
pub(super) fn belongs(record: &Value, owner: &Owner) -> bool {
    claimed_by(record).as_ref() == Some(owner)
}

/// The service that a claim is for; `None` when it is for something else.
pub(super) fn claimed_by(record: &Value) -> Option<Owner> {
    let parent = &record["spec"]["parentRef"];
    let text = |field: &str| parent[field].as_str().map(str::to_owned);
    (parent["resource"] == "services").then(|| Some((text("namespace")?, text("name")?)))?
}
