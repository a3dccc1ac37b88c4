//! `/stats/summary`: the node, its pods, their containers and volumes.

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Usage, find, node_cpu_nanoseconds, node_memory, usages, volumes};
use crate::images;
use crate::node::machine::meminfo;
use crate::pods::container::log_directory;
use crate::pods::manager::PodView;
use crate::server::{Refusal, State};
use crate::volumes::usage::{self, VolumeUsage};

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn nanoseconds(at: i64) -> String {
    time(Timestamp::from_nanosecond(i128::from(at)).unwrap_or_default())
}

/// A file system; `used` replaces what is used of it by somebody's part.
fn file_system(now: &str, fs: &usage::Usage, used_bytes: u64, inodes_used: u64) -> Value {
    json!({"time": now, "availableBytes": fs.available_bytes, "capacityBytes": fs.capacity_bytes,
        "usedBytes": used_bytes, "inodesFree": fs.inodes_free, "inodes": fs.inodes, "inodesUsed": inodes_used})
}

/// `/stats/summary`
pub async fn summary(state: &State) -> Result<Value, Refusal> {
    let usages = usages(state).await?;
    let now = time(Timestamp::now());
    let context = &state.context;
    let root = usage::file_system(&context.dirs.root).unwrap_or_default();
    let images = images::gc::place(context).await;
    let images = images.and_then(|path| usage::file_system(&path).ok()).unwrap_or(root);
    let measure = Measure { now: &now, root, images, logs: &context.dirs.pod_logs };
    let pods = volumes(state).await?;
    let pods: Vec<Value> = pods.iter().filter_map(|(view, volumes)| measure.pod(view, volumes, &usages)).collect();
    let whole = |fs: &usage::Usage| file_system(&now, fs, fs.used_bytes, fs.inodes_used);
    let (total, available) = node_memory();
    let used = total.saturating_sub(available);
    let mut node = json!({"nodeName": context.node_name, "startTime": time(boot_time()),
        "cpu": {"time": now, "usageCoreNanoSeconds": node_cpu_nanoseconds()},
        "memory": {"time": now, "availableBytes": available, "usageBytes": used, "workingSetBytes": used},
        "fs": whole(&root), "runtime": {"imageFs": whole(&images), "containerFs": whole(&images)}});
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let swap = read("/proc/meminfo");
    let (swap, free) = (meminfo(&swap, "SwapTotal"), meminfo(&swap, "SwapFree"));
    node["swap"] = json!({"time": now, "swapAvailableBytes": free, "swapUsageBytes": swap - free});
    if let (Ok(max), Some(running)) =
        (read("/proc/sys/kernel/pid_max").trim().parse::<i64>(), tasks(&read("/proc/loadavg")))
    {
        node["rlimit"] = json!({"time": now, "maxpid": max, "curproc": running});
    }
    if let Some(network) = network(&now, &read("/proc/net/dev"), &read("/proc/net/route")) {
        node["network"] = network;
    }
    Ok(json!({"node": node, "pods": pods}))
}

/// When the machine was started.
fn boot_time() -> Timestamp {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("btime "));
    line.and_then(|s| Timestamp::from_second(s.trim().parse().ok()?).ok()).unwrap_or_default()
}

/// The number of tasks in the kernel's load averages.
fn tasks(loadavg: &str) -> Option<i64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// Counters of the interfaces; those of the one that has the default route stand for the node.
fn network(now: &str, devices: &str, routes: &str) -> Option<Value> {
    let default = routes.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        (words.next()? == "00000000").then_some(name)
    })?;
    let interface = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        Some(json!({"name": name.trim(), "rxBytes": figures.first()?, "rxErrors": figures.get(2)?,
            "txBytes": figures.get(8)?, "txErrors": figures.get(10)?}))
    };
    let all: Vec<Value> = devices.lines().filter_map(interface).filter(|i| i["name"] != "lo").collect();
    let mut network = all.iter().find(|i| i["name"] == default)?.clone();
    network["time"] = json!(now);
    network["interfaces"] = json!(all);
    Some(network)
}

/// What pods' figures are told against.
struct Measure<'a> {
    now: &'a str,
    root: usage::Usage,
    images: usage::Usage,
    logs: &'a str,
}

impl Measure<'_> {
    /// A pod with containers that the runtime measures.
    fn pod(&self, view: &PodView, volumes: &[VolumeUsage], usages: &[Usage]) -> Option<Value> {
        let (pod, now) = (&view.pod, self.now);
        let own: Vec<&Usage> = usages.iter().filter(|u| u.uid == pod.uid()).collect();
        if own.is_empty() {
            return None;
        }
        let dir = log_directory(self.logs, pod.namespace(), pod.name(), pod.uid());
        let logs: Vec<usage::Usage> =
            own.iter().map(|u| usage::directory(&Path::new(&dir).join(&u.container)).unwrap_or_default()).collect();
        let sum = |get: fn(&Usage) -> u64| own.iter().map(|u| get(u)).sum::<u64>();
        let local = |v: &&VolumeUsage| {
            let mut volumes = pod.spec.volumes.iter().flatten();
            volumes.any(|s| {
                s.name == v.name
                    && s.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref().unwrap_or_default().is_empty())
            })
        };
        let local: Vec<&usage::Usage> = volumes.iter().filter(local).map(|v| &v.usage).chain(&logs).collect();
        let bytes = sum(|u| u.disk_used_bytes) + local.iter().map(|u| u.used_bytes).sum::<u64>();
        let inodes = sum(|u| u.disk_inodes) + local.iter().map(|u| u.inodes_used).sum::<u64>();
        let containers: Vec<Value> = own.iter().zip(&logs).map(|(u, logs)| self.container(view, u, logs)).collect();
        Some(json!({
            "podRef": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
            "startTime": view.status.start_time,
            "containers": containers,
            "cpu": {"time": now, "usageNanoCores": sum(|u| u.cpu_nano_cores),
                "usageCoreNanoSeconds": sum(|u| u.cpu_core_nanoseconds)},
            "memory": {"time": now, "workingSetBytes": sum(|u| u.memory_working_set_bytes),
                "usageBytes": sum(|u| u.memory_usage_bytes)},
            "volume": volumes.iter().map(|v| self.volume(view, v)).collect::<Vec<_>>(),
            "ephemeral-storage": file_system(now, &self.root, bytes, inodes)}))
    }

    fn container(&self, view: &PodView, usage: &Usage, logs: &usage::Usage) -> Value {
        let at = nanoseconds(usage.at_nanoseconds);
        let status = find::status(view, &usage.container);
        let started = status.and_then(|s| s.state.as_ref()?.running.as_ref()?.started_at.clone());
        json!({"name": usage.container, "startTime": started,
            "cpu": {"time": at, "usageNanoCores": usage.cpu_nano_cores,
                "usageCoreNanoSeconds": usage.cpu_core_nanoseconds},
            "memory": {"time": at, "workingSetBytes": usage.memory_working_set_bytes,
                "usageBytes": usage.memory_usage_bytes},
            "rootfs": file_system(self.now, &self.images, usage.disk_used_bytes, usage.disk_inodes),
            "logs": file_system(self.now, &self.root, logs.used_bytes, logs.inodes_used)})
    }

    fn volume(&self, view: &PodView, volume: &VolumeUsage) -> Value {
        let usage = &volume.usage;
        let mut value = file_system(self.now, usage, usage.used_bytes, usage.inodes_used);
        value["name"] = json!(volume.name);
        if let Some(claim) = &volume.claim {
            value["pvcRef"] = json!({"name": claim, "namespace": view.pod.namespace()});
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_interface_stands_for_the_node() {
        let devices = "Inter-| Receive | Transmit\n face |bytes\n  lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n\
            eth0: 100 2 3 0 0 0 0 0 200 4 5 0 0 0 0 0\n";
        let routes = "Iface Destination Gateway\neth0 00000000 010011AC\n";
        let found = network("t", devices, routes).unwrap();
        assert_eq!((&found["name"], &found["rxBytes"], &found["txErrors"]), (&json!("eth0"), &json!(100), &json!(5)));
        assert_eq!(found["interfaces"].as_array().unwrap().len(), 1);
        assert_eq!(network("t", devices, "Iface Destination\n"), None);
        assert_eq!(tasks("0.1 0.2 0.3 2/345 999"), Some(345));
    }
}
