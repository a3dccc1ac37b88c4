//! Facts of this machine: size, identity, system, addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use crate::pods::resources::Amounts;

/// Identity and system, as `status.nodeInfo` shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    pub swap_bytes: i64,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Reads the identity.
pub fn identity() -> Identity {
    let machine_id = ["/etc/machine-id", "/var/lib/dbus/machine-id"].map(read).into_iter().find(|id| !id.is_empty());
    let machine_id = machine_id.unwrap_or_default();
    let uuid = read("/sys/class/dmi/id/product_uuid");
    Identity {
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel_version: rustix::system::uname().release().to_string_lossy().into_owned(),
        os_image: os_image(&read("/etc/os-release")),
        swap_bytes: meminfo(&read("/proc/meminfo"), "SwapTotal"),
    }
}

fn os_image(os_release: &str) -> String {
    let line = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |l| l.trim_matches('"').to_owned())
}

/// A value of /proc/meminfo in bytes.
pub fn meminfo(text: &str, key: &str) -> i64 {
    let line = text.lines().find_map(|l| l.strip_prefix(key).and_then(|l| l.strip_prefix(':')));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The number of CPUs in a list such as `0-3,8`.
fn count_cpus(list: &str) -> i64 {
    let ranges = list.trim().split(',').filter(|r| !r.is_empty());
    ranges
        .map(|range| match range.split_once('-') {
            Some((a, b)) => match (a.parse::<i64>(), b.parse::<i64>()) {
                (Ok(a), Ok(b)) => b - a + 1,
                _ => 0,
            },
            None => 1,
        })
        .sum()
}

/// What the machine has; CPU in thousandths.
pub fn capacity(root_dir: &Path, max_pods: i64, pods_per_core: i64) -> Amounts {
    let cpus = count_cpus(&read("/sys/devices/system/cpu/online")).max(1);
    let pods = if pods_per_core > 0 { max_pods.min(cpus * pods_per_core) } else { max_pods };
    let mut amounts = Amounts::from([
        ("cpu".to_owned(), cpus * 1000),
        ("memory".to_owned(), meminfo(&read("/proc/meminfo"), "MemTotal")),
        ("pods".to_owned(), pods),
    ]);
    if let Ok((size, _)) = crate::images::gc::disk(root_dir) {
        amounts.insert("ephemeral-storage".to_owned(), i64::try_from(size).unwrap_or(i64::MAX));
    }
    for (size, pages) in huge_pages() {
        let unit = if size >= 1 << 30 { format!("{}Gi", size >> 30) } else { format!("{}Mi", size >> 20) };
        amounts.insert(format!("hugepages-{unit}"), pages * size);
    }
    amounts
}

/// The kernel's huge page sizes in bytes, with how many there are of each.
pub fn huge_pages() -> Vec<(i64, i64)> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<i64>().ok()?;
        Some((kib * 1024, read(&format!("/sys/kernel/mm/hugepages/{name}/nr_hugepages")).parse().unwrap_or(0)))
    };
    entries.filter_map(size).collect()
}

/// Capacity without what is reserved; huge pages are taken from memory.
pub fn allocatable(capacity: &Amounts, reserved: &Amounts) -> Amounts {
    let huge: i64 = capacity.iter().filter(|(name, _)| name.starts_with("hugepages-")).map(|(_, bytes)| bytes).sum();
    let rest = |(name, value): (&String, &i64)| {
        let own = if name == "memory" { huge } else { 0 };
        let reserved = reserved.get(name).copied().unwrap_or(0) + own;
        (name.clone(), (value - reserved).max(0))
    };
    capacity.iter().map(rest).collect()
}

/// The address that this machine speaks with to the world, or any of its own.
pub fn detect_address() -> IpAddr {
    // Nothing is sent: connecting a datagram socket only asks for the route.
    let route = |bind: &str, to: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    };
    route("0.0.0.0:0", "192.0.2.1:9")
        .or_else(|| local_addresses(&read("/proc/net/fib_trie")).into_iter().next())
        .or_else(|| route("[::]:0", "[2001:db8::1]:9"))
        .unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

/// The machine's own IPv4 addresses in the kernel's route table, without loopback.
fn local_addresses(trie: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut last = "";
    for line in trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address;
        } else if line == "/32 host LOCAL"
            && let Ok(address) = last.parse::<IpAddr>()
            && !address.is_loopback()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// Labels every node has.
pub fn labels(node_name: &str) -> BTreeMap<String, String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    [
        ("kubernetes.io/hostname", node_name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts() {
        assert_eq!(count_cpus("0-3,8,10-11\n"), 7);
        assert_eq!(meminfo("MemTotal:   16 kB\nSwapTotal: 0 kB\n", "MemTotal"), 16384);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        let trie = "     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(local_addresses(trie), [IpAddr::from([10, 1, 2, 3])]);
        let capacity = Amounts::from([("cpu".into(), 2000), ("pods".into(), 110)]);
        let rest = allocatable(&capacity, &Amounts::from([("cpu".into(), 500)]));
        assert_eq!((rest["cpu"], rest["pods"]), (1500, 110));
        let capacity = Amounts::from([("memory".into(), 100), ("hugepages-2Mi".into(), 30)]);
        assert_eq!(allocatable(&capacity, &Amounts::new())["memory"], 70);
    }
}
