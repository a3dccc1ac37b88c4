//! The pod lifecycle event generator: tells which pods changed in the runtime.
//!
//! Guarantees: after any change of a sandbox or container state its pod's uid is reported, at the latest one relist
//! period later; the first report holds every pod the runtime has. It reports uids only: whoever acts looks at the
//! runtime again. With CRI events the stream reports at once and the relist is a safety net (upstream: 5 minutes);
//! without them it is upstream's generic period of one second, made of two list calls whatever the number of pods.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use component_base::metrics::{self, Family, Histogram};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::api;
use super::client::{CriError, Runtime};
use super::labels;

/// Period of upstream's generic generator.
const RELIST_PERIOD: Duration = Duration::from_secs(1);
/// Relist period while the runtime sends events.
const RELIST_PERIOD_WITH_EVENTS: Duration = Duration::from_secs(300);

/// A report of the generator.
#[derive(Debug)]
pub enum RuntimeReport {
    /// Pods in which something changed since the last report, and whether the runtime still has anything of them.
    Changed(Vec<(String, bool)>),
    /// The runtime could not be asked.
    Down(CriError),
}

/// State of every sandbox and container of the last relist: id → (state, pod uid).
type Seen = HashMap<String, (i32, String)>;

async fn relist(runtime: &Runtime) -> Result<Seen, CriError> {
    let mut seen = Seen::new();
    let sandboxes = runtime.list_pod_sandbox(api::ListPodSandboxRequest { filter: None }).await?;
    for sandbox in sandboxes.items {
        if let Some(uid) = sandbox.labels.get(labels::POD_UID) {
            seen.insert(sandbox.id, (sandbox.state, uid.clone()));
        }
    }
    let containers = runtime.list_containers(api::ListContainersRequest { filter: None }).await?;
    for container in containers.containers {
        if let Some(uid) = container.labels.get(labels::POD_UID) {
            seen.insert(container.id, (container.state, uid.clone()));
        }
    }
    Ok(seen)
}

/// The pods that differ between two relists, and whether they are in the new one.
fn changed(old: &Seen, new: &Seen) -> Vec<(String, bool)> {
    let mut pods = HashSet::new();
    for (id, (state, uid)) in new {
        if old.get(id).is_none_or(|(before, _)| before != state) {
            pods.insert(uid.clone());
        }
    }
    for (id, (_, uid)) in old {
        if !new.contains_key(id) {
            pods.insert(uid.clone());
        }
    }
    let present: HashSet<&String> = new.values().map(|(_, uid)| uid).collect();
    pods.into_iter().map(|uid| (present.contains(&uid), uid)).map(|(here, uid)| (uid, here)).collect()
}

static RELIST: LazyLock<Family<Histogram>> = LazyLock::new(|| {
    let help = "Duration in seconds for relisting pods in PLEG.";
    metrics::histogram("kubelet_pleg_relist_duration_seconds", help, &[], metrics::DEFAULT_BUCKETS)
});

/// Runs until shutdown, sending reports.
pub async fn run(runtime: Runtime, reports: mpsc::Sender<RuntimeReport>, shutdown: CancellationToken) {
    let mut seen = Seen::new();
    let mut first = true;
    let mut stream = runtime.container_events().await.ok();
    loop {
        let period = if stream.is_some() { RELIST_PERIOD_WITH_EVENTS } else { RELIST_PERIOD };
        let began = Instant::now();
        let listed = relist(&runtime).await;
        RELIST.one().observe_duration(began.elapsed());
        let report = match listed {
            Ok(now) => {
                let pods = changed(&seen, &now);
                seen = now;
                (first || !pods.is_empty()).then_some(RuntimeReport::Changed(pods))
            }
            Err(error) => Some(RuntimeReport::Down(error)),
        };
        if let Some(report) = report {
            first &= matches!(report, RuntimeReport::Down(_));
            if reports.send(report).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(period) => {}
            () = follow(&mut stream, &reports) => {}
        }
    }
}

/// Passes events on until the stream ends; then there is none and the relist takes over.
async fn follow(
    stream: &mut Option<tonic::Streaming<api::ContainerEventResponse>>,
    reports: &mpsc::Sender<RuntimeReport>,
) {
    let Some(events) = stream else { return std::future::pending().await };
    while let Ok(Some(event)) = events.message().await {
        let uid = event.pod_sandbox_status.and_then(|s| s.metadata).map(|m| m.uid).unwrap_or_default();
        if !uid.is_empty() && reports.send(RuntimeReport::Changed(vec![(uid, true)])).await.is_err() {
            return;
        }
    }
    *stream = None;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences() {
        let seen = |items: &[(&str, i32, &str)]| {
            items.iter().map(|(id, s, u)| ((*id).to_owned(), (*s, (*u).to_owned()))).collect::<Seen>()
        };
        let old = seen(&[("a", 0, "p1"), ("b", 1, "p2"), ("c", 1, "p3")]);
        let new = seen(&[("a", 0, "p1"), ("b", 2, "p2"), ("d", 1, "p4")]);
        let mut pods: Vec<_> = changed(&old, &new).into_iter().collect();
        pods.sort();
        assert_eq!(pods, [("p2".into(), true), ("p3".into(), false), ("p4".into(), true)]);
    }
}
