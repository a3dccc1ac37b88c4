//! Local storage that a pod limits itself: emptyDir sizes and ephemeral-storage limits of containers and pods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{IMMEDIATE_SECONDS, Parts, end, pods};
use crate::cri::{api, labels};
use crate::pods::container::log_directory;
use crate::pods::hosts::hosts_path;
use crate::pods::manager::PodView;
use crate::pods::resources::{amount, sum_of_limits};
use crate::pods::types::Pod;
use crate::volumes::{usage, volume_dir};

const STORAGE: &str = "ephemeral-storage";

fn bytes(quantity: &Quantity) -> u64 {
    u64::try_from(amount(STORAGE, quantity)).unwrap_or(0)
}

fn limit(container: &k8s_openapi::api::core::v1::Container) -> Option<&Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(STORAGE).filter(|q| bytes(q) > 0)
}

/// emptyDir volumes with their limits.
fn empty_dirs(pod: &Pod) -> impl Iterator<Item = (&str, Option<&Quantity>)> {
    let volumes = pod.spec.volumes.iter().flatten();
    volumes.filter_map(|v| v.empty_dir.as_ref().map(|e| (v.name.as_str(), e.size_limit.as_ref())))
}

/// What a pod uses, by emptyDir and by container (writable layer and logs).
#[derive(Default)]
struct Used {
    volumes: BTreeMap<String, u64>,
    containers: BTreeMap<String, u64>,
    /// The hosts file, which containers may write to.
    hosts: u64,
}

/// Why the pod must end, if it must.
fn verdict(pod: &Pod, used: &Used) -> Option<String> {
    for (name, size) in empty_dirs(pod) {
        let Some(size) = size.filter(|s| bytes(s) > 0) else { continue };
        if used.volumes.get(name).is_some_and(|u| *u > bytes(size)) {
            return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ", size.0));
        }
    }
    let total = used.volumes.values().chain(used.containers.values()).sum::<u64>() + used.hosts;
    let whole = sum_of_limits(&pod.spec).get(STORAGE).copied().and_then(|l| u64::try_from(l).ok()).filter(|l| *l > 0);
    if whole.is_some_and(|limit| total > limit) {
        let limit = whole.unwrap_or(0);
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
    }
    pod.containers().find_map(|(_, c)| {
        let limit = limit(c)?;
        let over = used.containers.get(&c.name).is_some_and(|u| *u > bytes(limit));
        over.then(|| format!("Container {} exceeded its local ephemeral storage limit \"{}\". ", c.name, limit.0))
    })
}

/// Bytes that a directory takes; none when it is not there.
fn disk_usage(path: &Path) -> u64 {
    usage::directory(path).map_or(0, |u| u.used_bytes)
}

/// Ends the pods that use more than they may; true when one was.
pub async fn enforce(parts: &Parts) -> bool {
    let limited = |v: &PodView| {
        let sized = empty_dirs(&v.pod).any(|(_, size)| size.is_some());
        !v.finished && !v.pod.deletion_requested() && (sized || v.pod.containers().any(|(_, c)| limit(c).is_some()))
    };
    let views: Vec<PodView> = pods(parts).await.into_iter().filter(limited).collect();
    if views.is_empty() {
        return false;
    }
    let request = api::ListContainerStatsRequest { filter: None };
    let stats = parts.context.runtime.list_container_stats(request).await.map(|s| s.stats).unwrap_or_default();
    let dirs = parts.context.dirs.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let measure =
            |view: PodView| (verdict(&view.pod, &measure(&view.pod, &dirs.root, &dirs.pod_logs, &stats)), view);
        views.into_iter().map(measure).collect::<Vec<_>>()
    });
    let mut any = false;
    for (message, view) in measured.await.unwrap_or_default() {
        let Some(message) = message else { continue };
        any = true;
        end(parts, &view, IMMEDIATE_SECONDS, message).await;
    }
    any
}

fn measure(pod: &Pod, root: &Path, logs: &str, stats: &[api::ContainerStats]) -> Used {
    let volume = |(name, _): (&str, Option<&Quantity>)| {
        (name.to_owned(), disk_usage(&volume_dir(root, pod.uid(), "empty-dir", name)))
    };
    let hosts = disk_usage(&hosts_path(root, pod.uid()));
    let mut used = Used { volumes: empty_dirs(pod).map(volume).collect(), hosts, ..Used::default() };
    for stat in stats {
        let Some(attributes) = &stat.attributes else { continue };
        let label = |name: &str| attributes.labels.get(name).map_or("", String::as_str);
        if label(labels::POD_UID) == pod.uid() {
            let layer = stat.writable_layer.as_ref().and_then(|l| l.used_bytes).map_or(0, |u| u.value);
            *used.containers.entry(label(labels::CONTAINER_NAME).to_owned()).or_default() += layer;
        }
    }
    let logs = PathBuf::from(log_directory(logs, pod.namespace(), pod.name(), pod.uid()));
    for (name, used) in &mut used.containers {
        *used += disk_usage(&logs.join(name));
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use serde_json::json;

    #[test]
    fn limits_of_the_pod_itself() {
        let pod = pod(json!({"spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Ki"}}],
            "containers": [{"name": "a", "resources": {"limits": {"ephemeral-storage": "2Ki"}}}, {"name": "b"}]}}));
        let used = |volume, container| Used {
            volumes: BTreeMap::from([("v".into(), volume)]),
            containers: BTreeMap::from([("a".into(), container)]),
            hosts: 0,
        };
        assert_eq!(verdict(&pod, &used(1024, 1024)), None);
        assert!(verdict(&pod, &used(1025, 0)).unwrap().contains("EmptyDir volume \"v\" exceeds the limit \"1Ki\""));
        let error = verdict(&pod, &used(0, 2049)).unwrap();
        assert!(error.contains("exceeds the total limit of containers 2048"), "{error}");
        // CVE-2020-8557: what a container writes to its hosts file counts.
        assert!(verdict(&pod, &Used { hosts: 4096, ..used(0, 0) }).is_some());
    }
}
