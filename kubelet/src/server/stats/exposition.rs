//! Metrics that are measured when they are asked for: `/metrics/resource`, `/metrics/cadvisor`, and the volumes' part of
//! `/metrics`.

use std::fmt::Write;

use super::{Usage, find, node_cpu_nanoseconds, node_memory, usages, volumes};
use crate::server::{Refusal, State};
use crate::volumes::usage;

/// Writes metric families as text.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, type_: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {type_}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
        let braces = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{braces} {value}");
    }
}

#[allow(clippy::cast_precision_loss, reason = "metrics are floats")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[allow(clippy::cast_precision_loss, reason = "metrics are floats")]
fn float(value: u64) -> f64 {
    value as f64
}

/// `/metrics/resource`: what the metrics server reads.
pub async fn resource_metrics(state: &State) -> Result<String, Refusal> {
    let usages = usages(state).await?;
    let views = find::pods(state).await?;
    let mut out = Exposition::default();
    let (total, available) = node_memory();
    out.family("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds");
    out.sample("node_cpu_usage_seconds_total", &[], seconds(node_cpu_nanoseconds()));
    out.family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    out.sample("node_memory_working_set_bytes", &[], float(total - available.min(total)));
    out.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    for u in &usages {
        let labels = [("container", &*u.container), ("namespace", &*u.namespace), ("pod", &*u.pod)];
        out.sample("container_cpu_usage_seconds_total", &labels, seconds(u.cpu_core_nanoseconds));
    }
    out.family("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
    for u in &usages {
        let labels = [("container", &*u.container), ("namespace", &*u.namespace), ("pod", &*u.pod)];
        out.sample("container_memory_working_set_bytes", &labels, float(u.memory_working_set_bytes));
    }
    for (name, type_, help, get) in [
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
            (|u| seconds(u.cpu_core_nanoseconds)) as fn(&Usage) -> f64,
        ),
        ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", |u| {
            float(u.memory_working_set_bytes)
        }),
    ] {
        out.family(name, type_, help);
        for view in &views {
            let own: Vec<f64> = usages.iter().filter(|u| u.uid == view.pod.uid()).map(get).collect();
            if !own.is_empty() {
                let labels = [("namespace", view.pod.namespace()), ("pod", view.pod.name())];
                out.sample(name, &labels, own.iter().sum());
            }
        }
    }
    out.family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample("resource_scrape_error", &[], 0.0);
    Ok(out.0)
}

/// `/metrics/cadvisor`: the part of cAdvisor's families that the runtime's figures give.
pub async fn cadvisor_metrics(state: &State) -> Result<String, Refusal> {
    let usages = usages(state).await?;
    let mut out = Exposition::default();
    for (name, type_, get) in [
        ("container_cpu_usage_seconds_total", "counter", (|u| seconds(u.cpu_core_nanoseconds)) as fn(&Usage) -> f64),
        ("container_memory_working_set_bytes", "gauge", |u| float(u.memory_working_set_bytes)),
        ("container_memory_usage_bytes", "gauge", |u| float(u.memory_usage_bytes)),
        ("container_fs_usage_bytes", "gauge", |u| float(u.disk_used_bytes)),
    ] {
        out.family(name, type_, "From the container runtime");
        for u in &usages {
            let labels = [("container", &*u.container), ("namespace", &*u.namespace), ("pod", &*u.pod)];
            out.sample(name, &labels, get(u));
        }
    }
    out.family("machine_memory_bytes", "gauge", "Memory of the machine");
    out.sample("machine_memory_bytes", &[], float(node_memory().0));
    Ok(out.0)
}

/// What claims use, part of `/metrics`; a claim that several pods use is told once.
pub async fn volume_metrics(state: &State) -> Result<String, Refusal> {
    let pods = volumes(state).await?;
    let mut claims = std::collections::BTreeMap::new();
    for (view, volumes) in &pods {
        for volume in volumes {
            let Some(claim) = &volume.claim else { continue };
            claims.insert((view.pod.namespace(), claim.as_str()), volume.usage);
        }
    }
    let mut out = Exposition::default();
    for (name, help, get) in [
        ("capacity_bytes", "Capacity in bytes of the volume", (|u| u.capacity_bytes) as fn(&usage::Usage) -> u64),
        ("available_bytes", "Number of available bytes in the volume", |u| u.available_bytes),
        ("used_bytes", "Number of used bytes in the volume", |u| u.used_bytes),
        ("inodes", "Maximum number of inodes in the volume", |u| u.inodes),
        ("inodes_free", "Number of free inodes in the volume", |u| u.inodes_free),
        ("inodes_used", "Number of used inodes in the volume", |u| u.inodes_used),
    ] {
        let name = format!("kubelet_volume_stats_{name}");
        if !claims.is_empty() {
            out.family(&name, "gauge", help);
        }
        for ((namespace, claim), usage) in &claims {
            out.sample(&name, &[("namespace", namespace), ("persistentvolumeclaim", claim)], float(get(usage)));
        }
    }
    Ok(out.0)
}
