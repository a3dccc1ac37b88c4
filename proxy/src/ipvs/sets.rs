//! The ipsets: which there are, and what `ipset restore` must be told to make their entries right. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::core::Family;

macro_rules! sets {
    ($($doc:literal $variant:ident = $name:literal $kind:literal;)*) => {
        /// An ipset.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Set {
            $(#[doc = $doc] $variant,)*
        }

        impl Set {
            /// All of them, in the order in which entries are added.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn facts(self) -> (&'static str, &'static str, &'static str) {
                match self {
                    $(Self::$variant => ($name, $kind, $doc),)*
                }
            }
        }
    };
}

sets! {
    "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose" LoopBack = "LOOP-BACK" "hash:ip,port,ip";
    "Kubernetes service cluster ip + port for masquerade purpose" ClusterIp = "CLUSTER-IP" "hash:ip,port";
    "Kubernetes service external ip + port for masquerade and filter purpose" ExternalIp = "EXTERNAL-IP" "hash:ip,port";
    "Kubernetes service external ip + port with externalTrafficPolicy=local" ExternalIpLocal = "EXTERNAL-IP-LOCAL" "hash:ip,port";
    "Kubernetes service lb portal" LoadBalancer = "LOAD-BALANCER" "hash:ip,port";
    "Kubernetes service load balancer ip + port for load balancer with sourceRange" LoadBalancerFw = "LOAD-BALANCER-FW" "hash:ip,port";
    "Kubernetes service load balancer ip + port with externalTrafficPolicy=local" LoadBalancerLocal = "LOAD-BALANCER-LOCAL" "hash:ip,port";
    "Kubernetes service load balancer ip + port + source IP for packet filter purpose" LoadBalancerSourceIp = "LOAD-BALANCER-SOURCE-IP" "hash:ip,port,ip";
    "Kubernetes service load balancer ip + port + source cidr for packet filter purpose" LoadBalancerSourceCidr = "LOAD-BALANCER-SOURCE-CIDR" "hash:ip,port,net";
    "Kubernetes nodeport TCP port for masquerade purpose" NodePortTcp = "NODE-PORT-TCP" "bitmap:port";
    "Kubernetes nodeport TCP port with externalTrafficPolicy=local" NodePortLocalTcp = "NODE-PORT-LOCAL-TCP" "bitmap:port";
    "Kubernetes nodeport UDP port for masquerade purpose" NodePortUdp = "NODE-PORT-UDP" "bitmap:port";
    "Kubernetes nodeport UDP port with externalTrafficPolicy=local" NodePortLocalUdp = "NODE-PORT-LOCAL-UDP" "bitmap:port";
    "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'" NodePortSctp = "NODE-PORT-SCTP-HASH" "hash:ip,port";
    "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'" NodePortLocalSctp = "NODE-PORT-LOCAL-SCTP-HASH" "hash:ip,port";
    "Kubernetes health check node port" HealthCheckNodePort = "HEALTH-CHECK-NODE-PORT" "bitmap:port";
    "Addresses on the ipvs interface" IpvsIps = "IPVS-IPS" "hash:ip";
}

/// The kernel's limit.
const MAX_NAME_BYTES: usize = 31;

impl Set {
    /// The name in one family.
    pub fn name(self, family: Family) -> String {
        let prefix = if family == Family::V4 { "KUBE" } else { "KUBE-6" };
        let mut name = format!("{prefix}-{}", self.facts().0);
        name.truncate(MAX_NAME_BYTES);
        name
    }

    /// For people.
    pub fn comment(self) -> &'static str {
        self.facts().2
    }

    /// The line that makes it.
    fn create(self, family: Family) -> String {
        let family_name = if family == Family::V4 { "inet" } else { "inet6" };
        let kind = match self.facts().1 {
            "bitmap:port" => "bitmap:port range 0-65535".to_owned(),
            hash => format!("{hash} family {family_name} hashsize 1024 maxelem 65536"),
        };
        format!("create {} {kind} -exist\n", self.name(family))
    }
}

/// Entries to be added (true) and deleted.
pub type Edits = BTreeMap<(Set, String), bool>;

/// The script that makes edits; entries go in the opposite order of that in which they come.
pub fn script(family: Family, edits: &Edits) -> String {
    let mut out = String::new();
    for ((set, entry), _) in edits.iter().rev().filter(|(_, added)| !**added) {
        // writing to a String cannot fail
        let _ = writeln!(out, "del {} {entry} -exist", set.name(family));
    }
    for ((set, entry), _) in edits.iter().filter(|(_, added)| **added) {
        let _ = writeln!(out, "add {} {entry} -exist", set.name(family));
    }
    out
}

/// The script that makes all sets, and the edits from what `ipset save` prints to these entries.
pub fn full<'a>(family: Family, saved: &str, wanted: impl Iterator<Item = (Set, &'a str)>) -> (String, Edits) {
    let names: BTreeMap<String, Set> = Set::ALL.iter().map(|set| (set.name(family), *set)).collect();
    let parse = |line: &str| {
        let mut words = line.strip_prefix("add ")?.split(' ');
        let set = *names.get(words.next()?)?;
        Some((set, words.next()?.to_owned()))
    };
    let mut found: BTreeSet<(Set, String)> = saved.lines().filter_map(parse).collect();
    let mut edits = Edits::new();
    for (set, entry) in wanted {
        let key = (set, entry.to_owned());
        if !found.remove(&key) {
            edits.insert(key, true);
        }
    }
    edits.extend(found.into_iter().map(|key| (key, false)));
    (Set::ALL.iter().map(|set| set.create(family)).collect(), edits)
}
