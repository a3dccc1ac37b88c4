//! Figures: `/stats/summary`, `/metrics/resource`, `/metrics/cadvisor`, from the runtime and /proc.

use std::fmt::Write;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Refusal, State, find};
use crate::cri::{api, labels};
use crate::node::machine::meminfo;

/// One container's use.
struct Usage {
    pod: String,
    namespace: String,
    uid: String,
    container: String,
    at_nanoseconds: i64,
    cpu_core_nanoseconds: u64,
    cpu_nano_cores: u64,
    memory_working_set_bytes: u64,
    memory_usage_bytes: u64,
    disk_used_bytes: u64,
    disk_inodes: u64,
}

async fn usages(state: &State) -> Result<Vec<Usage>, Refusal> {
    let request = api::ListContainerStatsRequest { filter: None };
    let stats = state.context.runtime.list_container_stats(request).await;
    let stats = stats.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(stats.stats.into_iter().filter_map(usage).collect())
}

fn usage(stats: api::ContainerStats) -> Option<Usage> {
    let attributes = stats.attributes?;
    let label = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
    let value = |v: Option<api::UInt64Value>| v.map_or(0, |v| v.value);
    let cpu = stats.cpu.unwrap_or_default();
    let memory = stats.memory.unwrap_or_default();
    let layer = stats.writable_layer.unwrap_or_default();
    Some(Usage {
        pod: label(labels::POD_NAME),
        namespace: label(labels::POD_NAMESPACE),
        uid: label(labels::POD_UID),
        container: label(labels::CONTAINER_NAME),
        at_nanoseconds: cpu.timestamp,
        cpu_core_nanoseconds: value(cpu.usage_core_nano_seconds),
        cpu_nano_cores: value(cpu.usage_nano_cores),
        memory_working_set_bytes: value(memory.working_set_bytes),
        memory_usage_bytes: value(memory.usage_bytes),
        disk_used_bytes: value(layer.used_bytes),
        disk_inodes: value(layer.inodes_used),
    })
}

/// The whole node's CPU time in nanoseconds.
fn node_cpu_nanoseconds() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    // Guest time is part of user time.
    let busy = ticks.iter().take(8).sum::<u64>().saturating_sub(idle);
    busy * 10_000_000
}

/// Total and available memory in bytes.
fn node_memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let get = |key| u64::try_from(meminfo(&text, key)).unwrap_or(0);
    (get("MemTotal"), get("MemAvailable"))
}

fn time(nanoseconds: i64) -> String {
    let at = Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `/stats/summary`
pub async fn summary(state: &State) -> Result<Value, Refusal> {
    let usages = usages(state).await?;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (total, available) = node_memory();
    let disk = crate::images::gc::disk(&state.context.dirs.root).unwrap_or((0, 0));
    let fs = json!({"time": now, "capacityBytes": disk.0, "availableBytes": disk.1, "usedBytes": disk.0 - disk.1.min(disk.0)});
    let mut pods = Vec::new();
    for view in find::pods(state).await? {
        let own: Vec<&Usage> = usages.iter().filter(|u| u.uid == view.pod.uid()).collect();
        if own.is_empty() {
            continue;
        }
        let sum = |get: fn(&Usage) -> u64| own.iter().map(|u| get(u)).sum::<u64>();
        let container = |u: &&Usage| {
            json!({"name": u.container, "startTime": start_time(&view, &u.container),
                "cpu": {"time": time(u.at_nanoseconds), "usageNanoCores": u.cpu_nano_cores,
                    "usageCoreNanoSeconds": u.cpu_core_nanoseconds},
                "memory": {"time": time(u.at_nanoseconds), "workingSetBytes": u.memory_working_set_bytes,
                    "usageBytes": u.memory_usage_bytes},
                "rootfs": {"time": now, "usedBytes": u.disk_used_bytes, "inodesUsed": u.disk_inodes,
                    "capacityBytes": disk.0, "availableBytes": disk.1}})
        };
        pods.push(json!({
            "podRef": {"name": view.pod.name(), "namespace": view.pod.namespace(), "uid": view.pod.uid()},
            "startTime": view.status.start_time,
            "containers": own.iter().map(container).collect::<Vec<_>>(),
            "cpu": {"time": now, "usageNanoCores": sum(|u| u.cpu_nano_cores), "usageCoreNanoSeconds": sum(|u| u.cpu_core_nanoseconds)},
            "memory": {"time": now, "workingSetBytes": sum(|u| u.memory_working_set_bytes), "usageBytes": sum(|u| u.memory_usage_bytes)},
            "ephemeral-storage": {"time": now, "usedBytes": sum(|u| u.disk_used_bytes)}}));
    }
    Ok(json!({"node": {"nodeName": state.context.node_name, "startTime": now,
        "cpu": {"time": now, "usageCoreNanoSeconds": node_cpu_nanoseconds()},
        "memory": {"time": now, "availableBytes": available, "usageBytes": total - available.min(total),
            "workingSetBytes": total - available.min(total)},
        "fs": fs, "runtime": {"imageFs": fs}}, "pods": pods}))
}

fn start_time(view: &crate::pods::manager::PodView, container: &str) -> Value {
    let running = find::status(view, container).and_then(|s| s.state.as_ref()?.running.as_ref()?.started_at.clone());
    json!(running)
}

/// Writes metric families as text.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, type_: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} [STABLE] {help}\n# TYPE {name} {type_}\n");
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

/// `/metrics/resource`, what the metrics server reads.
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
