//! Services and their claims brought together again, at start and every [`PERIOD`]: a service whose address or node port is
//! not claimed claims it, and a claim without a service is given back.
//!
//! Contract: any number of API servers may do it at once. A claim is made before its service is written, therefore young
//! claims are left alone. What two services hold is said in the log; nobody but their owners can tell who shall keep it.

use std::collections::BTreeMap;
use std::time::Duration;

use apimachinery::meta;
use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::claims::{Claim, Good, Owner, claimed_by, owner};
use super::{Allocators, addresses, ports};
use crate::bootstrap::progress::{Hook, Progress};

/// Between two rounds.
pub const PERIOD: Duration = Duration::from_secs(180);
/// After a round that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Claims younger than this may belong to a service that is just being written.
const YOUNG_SECONDS: i64 = 60;

/// One thing to be done.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The service holds it without a claim.
    Claim(Good, Owner),
    /// No service holds it.
    Free(Good, Owner),
}

/// What must be done, given the services and all claims.
fn plan(services: &[Value], claims: &[(Good, Value)], now: Timestamp) -> Vec<Step> {
    let mut held: BTreeMap<(Good, Owner), bool> = BTreeMap::new();
    for service in services {
        let ips = addresses::held(service).into_iter().map(Good::Address);
        for good in ips.chain(ports::held(service).into_iter().map(Good::Port)) {
            held.insert((good, owner(service)), false);
        }
    }
    let mut steps = Vec::new();
    for (good, record) in claims {
        // An address can be somebody else's, made by hand.
        let Some(owner) = claimed_by(record) else { continue };
        let old = meta::creation_timestamp(record).is_none_or(|at| now.as_second() - at.as_second() > YOUNG_SECONDS);
        match held.get_mut(&(*good, owner.clone())) {
            Some(claimed) => *claimed = true,
            None if old => steps.push(Step::Free(*good, owner)),
            None => {}
        }
    }
    // Given back first: another service may have waited for it.
    steps.extend(held.into_iter().filter(|(_, claimed)| !claimed).map(|((good, owner), _)| Step::Claim(good, owner)));
    steps
}

/// Repairs until shutdown.
pub async fn run(allocators: Allocators, progress: &Progress, stop: CancellationToken) {
    loop {
        let pause = match allocators.repair(Timestamp::now()).await {
            Ok(()) => {
                progress.reached(Hook::ServiceRepair);
                PERIOD
            }
            Err(error) => {
                tracing::warn!(%error, "Cannot compare services with what they hold");
                RETRY
            }
        };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

impl Allocators {
    /// One round.
    ///
    /// # Errors
    /// Storage does not answer.
    pub async fn repair(&self, now: Timestamp) -> Result<(), Status> {
        let mut claims = self.port_claims().await?;
        let services = self.objects("/registry/services/specs/");
        let address = |record: Value| Some((Good::Address(meta::name(&record).parse().ok()?), record));
        claims.extend(self.objects("/registry/ipaddresses/").into_iter().filter_map(address));
        for step in plan(&services, &claims, now) {
            match step {
                Step::Free(good, owner) => {
                    tracing::info!(%good, service = format!("{}/{}", owner.0, owner.1), "No service holds it: it is free again");
                    self.free(good, &owner).await;
                }
                Step::Claim(good, owner) => {
                    let service = format!("{}/{}", owner.0, owner.1);
                    match self.claim(good, &owner, now, false).await? {
                        Claim::Made => tracing::info!(%good, service, "Claimed for the service that holds it"),
                        Claim::Held => {}
                        Claim::Taken => tracing::error!(%good, service, "Two services hold it; make one of them anew"),
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_and_what_is_left() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let service = |name: &str, ip: &str, port: u16| {
            json!({"metadata": {"namespace": "ns", "name": name},
                "spec": {"type": "NodePort", "clusterIPs": [ip], "ports": [{"port": 80, "nodePort": port}]}})
        };
        let claim = |good: Good, name: &str, made: &str| {
            let parent = json!({"resource": "services", "namespace": "ns", "name": name});
            (good, json!({"metadata": {"creationTimestamp": made}, "spec": {"parentRef": parent}}))
        };
        let ip = |text: &str| Good::Address(text.parse().unwrap());
        let of = |name: &str| ("ns".to_owned(), name.to_owned());
        let (old, young) = ("2026-01-01T00:00:00Z", "2026-01-01T00:09:30Z");
        let services = [service("a", "10.0.0.5", 30001), service("b", "10.0.0.6", 30002)];
        let claims = [
            claim(ip("10.0.0.5"), "a", old),
            claim(Good::Port(30001), "a", old),
            claim(ip("10.0.0.7"), "gone", old),
            claim(Good::Port(30009), "coming", young),
            // Another service's claim on what b holds.
            claim(Good::Port(30002), "gone", old),
            (ip("10.0.0.8"), json!({"spec": {"parentRef": {"resource": "gateways"}}})),
        ];
        let expected = [
            Step::Free(ip("10.0.0.7"), of("gone")),
            Step::Free(Good::Port(30002), of("gone")),
            Step::Claim(ip("10.0.0.6"), of("b")),
            Step::Claim(Good::Port(30002), of("b")),
        ];
        assert_eq!(plan(&services, &claims, now), expected);
    }
}
