//! The node's conditions. Pure; reasons and messages are upstream's, causes come with a remedy.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What the conditions are made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the node is not ready; empty when it is.
    pub causes: Vec<String>,
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub pid_pressure: bool,
}

/// The conditions; `previous` gives the times of the last changes.
pub fn generate(health: &Health, previous: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let pressure = |type_: &str, on: bool, yes: (&str, &str), no: (&str, &str)| {
        let (reason, message) = if on { yes } else { no };
        (type_.to_owned(), on, reason.to_owned(), message.to_owned())
    };
    let ready = health.causes.is_empty();
    let (reason, message) = if ready {
        ("KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        let joined = health.causes.join(", ");
        ("KubeletNotReady", if health.causes.len() > 1 { format!("[{joined}]") } else { joined })
    };
    let all = [
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            health.pid_pressure,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ("Ready".to_owned(), ready, reason.to_owned(), message),
    ];
    let condition = |(type_, holds, reason, message): (String, bool, String, String)| {
        let status = if holds { "True" } else { "False" };
        let same = previous.iter().find(|c| c.type_ == type_ && c.status == status);
        NodeCondition {
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
            last_heartbeat_time: Some(Time(now)),
            status: status.to_owned(),
            reason: Some(reason),
            message: Some(message),
            type_,
        }
    };
    all.into_iter().map(condition).collect()
}

/// The events of conditions that changed: upstream's reasons, in the conditions' order.
pub fn events(old: &[NodeCondition], new: &[NodeCondition]) -> Vec<&'static str> {
    let changed = |c: &&NodeCondition| !old.iter().any(|o| o.type_ == c.type_ && o.status == c.status);
    let reason = |c: &NodeCondition| match (c.type_.as_str(), c.status == "True") {
        ("MemoryPressure", true) => Some("NodeHasInsufficientMemory"),
        ("MemoryPressure", false) => Some("NodeHasSufficientMemory"),
        ("DiskPressure", true) => Some("NodeHasDiskPressure"),
        ("DiskPressure", false) => Some("NodeHasNoDiskPressure"),
        ("PIDPressure", true) => Some("NodeHasInsufficientPID"),
        ("PIDPressure", false) => Some("NodeHasSufficientPID"),
        ("Ready", true) => Some("NodeReady"),
        ("Ready", false) => Some("NodeNotReady"),
        _ => None,
    };
    new.iter().filter(changed).filter_map(reason).collect()
}

/// What the runtime's own conditions say against readiness.
pub fn runtime_causes(conditions: &[crate::cri::api::RuntimeCondition]) -> Vec<String> {
    let mut causes = Vec::new();
    for (type_, what) in [("RuntimeReady", "container runtime"), ("NetworkReady", "container runtime network")] {
        match conditions.iter().find(|c| c.r#type == type_) {
            Some(c) if c.status => {}
            Some(c) => causes.push(format!(
                "{what} not ready: {type_}={} reason:{} message:{}; {}",
                c.status,
                c.reason,
                c.message,
                if type_ == "NetworkReady" {
                    "put a CNI configuration into /etc/cni/net.d and its plugins into the runtime's bin_dir"
                } else {
                    "see the container runtime's log"
                }
            )),
            None => causes.push(format!("{what} is unknown: the runtime does not report {type_}")),
        }
    }
    causes
}

/// What a runtime that does not answer says against readiness.
pub fn runtime_down(socket: &str, error: &str) -> String {
    let remedy = "start the container runtime, or correct containerRuntimeEndpoint";
    if std::path::Path::new(socket).exists() {
        format!("container runtime is down: {error}; {remedy}")
    } else {
        format!("container runtime is down: its socket {socket} does not exist; {remedy}")
    }
}

/// How far this machine's clock is from the one that wrote an HTTP date, when it is too far.
pub fn clock_skew(date: &str, now: Timestamp) -> Option<String> {
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    let seconds = now.duration_since(theirs).as_secs();
    let side = if seconds > 0 { "ahead of" } else { "behind" };
    (seconds.abs() > MAX_SKEW_SECONDS)
        .then(|| format!("This node's clock is {} s {side} the API server's", seconds.abs()))
}

/// Clocks may differ by this much before it is worth a word.
const MAX_SKEW_SECONDS: i64 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::api::RuntimeCondition;

    #[test]
    fn ready_or_why_not() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let first = generate(&Health::default(), &[], at(1));
        let ready = first.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("True", Some("KubeletReady")));
        let later = generate(&Health { causes: vec!["x".into()], ..Health::default() }, &first, at(9));
        let ready = later.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.message.as_deref()), ("False", Some("x")));
        assert_eq!(ready.last_transition_time, Some(Time(at(9))));
        assert_eq!(later[0].last_transition_time, Some(Time(at(1))));
        let all = ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"];
        assert_eq!(events(&[], &first), all);
        assert_eq!(events(&first, &later), ["NodeNotReady"]);
    }

    #[test]
    fn missing_network() {
        let condition = |type_: &str, status, reason: &str| RuntimeCondition {
            r#type: type_.into(),
            status,
            reason: reason.into(),
            message: "cni plugin not initialized".into(),
        };
        let causes = runtime_causes(&[
            condition("RuntimeReady", true, ""),
            condition("NetworkReady", false, "NetworkPluginNotReady"),
        ]);
        assert_eq!(causes.len(), 1);
        assert!(causes[0].starts_with(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized; put a CNI configuration into /etc/cni/net.d"
        ));
    }

    #[test]
    fn a_runtime_that_is_not_there() {
        let words = runtime_down("/nonexistent/x.sock", "transport error");
        assert!(words.contains("socket /nonexistent/x.sock does not exist; start the container runtime"), "{words}");
        assert!(runtime_down("/", "transport error").contains("down: transport error; start"));
    }

    #[test]
    fn clocks() {
        let now: Timestamp = "2026-11-21T13:00:30Z".parse().unwrap();
        assert_eq!(clock_skew("Sat, 21 Nov 2026 13:00:25 GMT", now), None);
        let words = clock_skew("Sat, 21 Nov 2026 13:02:00 GMT", now).unwrap();
        assert_eq!(words, "This node's clock is 90 s behind the API server's");
        assert_eq!(clock_skew("nonsense", now), None);
    }
}
