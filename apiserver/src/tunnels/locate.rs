//! Pure: from a pod, node or service and the request's query to the path or address behind it.

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::field::{ErrorList, FieldError, Path};
use apimachinery::gvk::GroupKind;
use apimachinery::status::Status;
use serde_json::Value;

use crate::admission::{ALL_CONTAINERS, containers};
use crate::http::request::Query;

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Percent-encodes everything but unreserved characters.
pub(super) fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn container_names(pod: &Value) -> Vec<&str> {
    containers(&pod["spec"], ALL_CONTAINERS).filter_map(|container| container["name"].as_str()).collect()
}

/// The container that is meant: the one named, the annotated one, or the only one.
fn choose_container<'a>(pod: &'a Value, given: Option<&'a str>) -> Result<&'a str, Status> {
    let name = apimachinery::meta::name(pod);
    let all = container_names(pod);
    if let Some(given) = given.filter(|given| !given.is_empty()) {
        return if all.contains(&given) {
            Ok(given)
        } else {
            Err(Status::bad_request(format!("container {given} is not valid for pod {name}")))
        };
    }
    let annotated = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str().filter(|name| all.contains(name));
    if let Some(annotated) = annotated {
        return Ok(annotated);
    }
    let main: Vec<&str> = containers(&pod["spec"], &["containers"]).filter_map(|c| c["name"].as_str()).collect();
    match main.as_slice() {
        [only] => Ok(only),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        several => {
            let mut why =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", several.join(" "));
            let init: Vec<&str> =
                containers(&pod["spec"], &["initContainers"]).filter_map(|c| c["name"].as_str()).collect();
            if !init.is_empty() {
                why = format!("{why} or one of the init containers: [{}]", init.join(" "));
            }
            Err(Status::bad_request(why))
        }
    }
}

fn assigned(pod: &Value) -> Result<(), Status> {
    match pod["spec"]["nodeName"].as_str() {
        Some(node) if !node.is_empty() => Ok(()),
        _ => {
            let name = apimachinery::meta::name(pod);
            Err(Status::bad_request(format!("pod {name} does not have a host assigned")))
        }
    }
}

/// The kubelet's path for exec, attach or port-forward of a pod.
pub(super) fn stream_path(pod: &Value, what: &str, query: &Query) -> Result<String, Status> {
    let (namespace, name) = (apimachinery::meta::namespace(pod), apimachinery::meta::name(pod));
    let mut parameters: Vec<String> = Vec::new();
    if what == "portforward" {
        assigned(pod)?;
        parameters.extend(query.all("ports").map(|port| format!("port={}", encode(port))));
        return Ok(path(&format!("/portForward/{namespace}/{name}"), &parameters));
    }
    let container = choose_container(pod, query.get("container"))?;
    assigned(pod)?;
    for (given, sent) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(given) {
            parameters.push(format!("{sent}=1"));
        }
    }
    if what == "exec" {
        parameters.extend(query.all("command").map(|word| format!("command={}", encode(word))));
    }
    Ok(path(&format!("/{what}/{namespace}/{name}/{container}"), &parameters))
}

fn path(path: &str, parameters: &[String]) -> String {
    if parameters.is_empty() { path.to_owned() } else { format!("{path}?{}", parameters.join("&")) }
}

/// The query of a log request, checked.
#[derive(Debug, Default)]
pub(super) struct LogOptions {
    container: Option<String>,
    parameters: Vec<String>,
}

impl LogOptions {
    /// Reads the query of a pod's log.
    pub(super) fn parse(query: &Query, pod: &str) -> Result<Self, Status> {
        let mut options = Self { container: query.get("container").map(str::to_owned), ..Self::default() };
        for flag in ["follow", "previous", "timestamps"] {
            if query.flag(flag) {
                options.parameters.push(format!("{flag}=true"));
            }
        }
        let mut errors = ErrorList::new();
        let bounds = [
            ("sinceSeconds", 1, "must be greater than 0"),
            ("tailLines", 0, "must be greater than or equal to 0"),
            ("limitBytes", 1, "must be greater than 0"),
        ];
        for (name, least, why) in bounds {
            let Some(text) = query.get(name) else { continue };
            let number: i64 = text
                .parse()
                .map_err(|_| Status::bad_request(format!("parameter {name}: {text:?} is not an integer")))?;
            if number < least {
                errors.push(FieldError::invalid(Path::new(name), number, why));
            }
            options.parameters.push(format!("{name}={number}"));
        }
        if let Some(time) = query.get("sinceTime").filter(|time| !time.is_empty()) {
            if query.get("sinceSeconds").is_some() {
                let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
                errors.push(FieldError::forbidden(Path::new("[]"), why));
            }
            if apimachinery::time::parse_time(time).is_none() {
                return Err(Status::bad_request(format!("parameter sinceTime: {time:?} is not an RFC 3339 time")));
            }
            options.parameters.push(format!("sinceTime={}", encode(time)));
        }
        if let Some(stream) = query.get("stream").filter(|stream| !stream.is_empty()) {
            // Split streams are a feature that is off by default.
            if stream != "All" {
                errors.push(FieldError::forbidden(Path::new("stream"), "may not be specified"));
            }
        }
        if errors.is_empty() {
            return Ok(options);
        }
        let kind = GroupKind { group: String::new(), kind: "PodLogOptions".to_owned() };
        Err(Status::invalid(&kind, pod, &errors))
    }
}

/// The kubelet's path for a pod's log; `None` while the pod is on no node.
pub(super) fn log_path(pod: &Value, options: &LogOptions) -> Result<Option<String>, Status> {
    let container = choose_container(pod, options.container.as_deref())?;
    if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return Ok(None);
    }
    let (namespace, name) = (apimachinery::meta::namespace(pod), apimachinery::meta::name(pod));
    Ok(Some(path(&format!("/containerLogs/{namespace}/{name}/{container}"), &options.parameters)))
}

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchemeNamePort {
    pub(crate) https: bool,
    pub(crate) name: String,
    pub(crate) port: String,
}

impl SchemeNamePort {
    /// Reads what stands in a proxy URL for an object's name.
    pub(super) fn parse(text: &str) -> Result<Self, Status> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => ("?", "", ""),
        };
        if name.is_empty() || !matches!(scheme, "" | "http" | "https") {
            return Err(Status::bad_request(format!(
                "invalid request {text:?}: must be NAME, NAME:PORT or SCHEME:NAME:PORT"
            )));
        }
        Ok(Self { https: scheme == "https", name: name.to_owned(), port: port.to_owned() })
    }
}

/// The first port that a container of the pod declares.
pub(super) fn first_port(pod: &Value) -> Option<String> {
    let mut containers = containers(&pod["spec"], &["containers"]);
    containers.find_map(|container| container["ports"][0]["containerPort"].as_u64().map(|port| port.to_string()))
}

/// Addresses behind which this machine or its metadata service is, never a workload.
pub(super) fn proxyable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}

/// The pod's address, if requests may be passed on to it.
pub(super) fn pod_address(pod: &Value) -> Result<String, Status> {
    let text = pod["status"]["podIP"].as_str().unwrap_or_default();
    match text.parse::<IpAddr>() {
        Ok(address) if proxyable(address) => Ok(text.to_owned()),
        Ok(_) => Err(Status::bad_request("address not allowed")),
        Err(_) => Err(Status::bad_request("address not allowed: the pod has no IP yet")),
    }
}

/// The ready endpoints of the service's port that the URL names (by name, number, or the only one).
pub(crate) fn service_endpoints(
    service: &Value,
    id: &SchemeNamePort,
    slices: &[Arc<Value>],
) -> Result<Option<Vec<(String, u16)>>, Status> {
    let ports = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let number = id.port.parse::<u64>().ok();
    let port_name = match (id.port.as_str(), number) {
        ("", _) => "",
        (_, Some(number)) => {
            let found = ports.iter().find(|port| port["port"].as_u64() == Some(number));
            let Some(found) = found else {
                return Err(Status::service_unavailable(format!(
                    "no service port {number} found for service {:?}",
                    id.name
                )));
            };
            found["name"].as_str().unwrap_or_default()
        }
        (name, None) => name,
    };
    let of_service =
        |slice: &&Arc<Value>| slice["metadata"]["labels"]["kubernetes.io/service-name"] == id.name.as_str();
    if !slices.iter().any(|slice| of_service(&slice)) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for slice in slices.iter().filter(of_service) {
        let slice_ports = slice["ports"].as_array().into_iter().flatten();
        let Some(port) = slice_ports
            .filter(|port| port["name"].as_str().unwrap_or_default() == port_name)
            .find_map(|port| port["port"].as_u64().and_then(|port| u16::try_from(port).ok()))
        else {
            continue;
        };
        let ready = slice["endpoints"].as_array().into_iter().flatten().filter(|e| e["conditions"]["ready"] != false);
        let addresses = ready.filter_map(|endpoint| endpoint["addresses"][0].as_str());
        let allowed = addresses.filter(|address| address.parse().is_ok_and(proxyable));
        found.extend(allowed.map(|address| (address.to_owned(), port)));
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"nodeName": "n",
            "containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 80}]}], "initContainers": [{"name": "i"}]}})
    }

    #[test]
    fn paths() {
        let query =
            Query::parse("container=b&stdin=true&stdout=true&tty=false&command=sh&command=-c&command=echo%20%26");
        assert_eq!(
            stream_path(&pod(), "exec", &query).unwrap(),
            "/exec/ns/p/b?input=1&output=1&command=sh&command=-c&command=echo%20%26"
        );
        assert_eq!(
            stream_path(&pod(), "portforward", &Query::parse("ports=80&ports=81")).unwrap(),
            "/portForward/ns/p?port=80&port=81"
        );
        let options = LogOptions::parse(&Query::parse("container=i&follow=true&tailLines=5"), "p").unwrap();
        assert_eq!(log_path(&pod(), &options).unwrap().unwrap(), "/containerLogs/ns/p/i?follow=true&tailLines=5");
    }

    #[test]
    fn containers_to_choose() {
        assert!(
            choose_container(&pod(), None)
                .is_err_and(|e| e.message.contains("[a b] or one of the init containers: [i]"))
        );
        assert!(choose_container(&pod(), Some("x")).is_err());
        let mut annotated = pod();
        annotated["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(choose_container(&annotated, None).unwrap(), "b");
        let mut unassigned = pod();
        unassigned["spec"]["nodeName"] = json!(null);
        assert_eq!(stream_path(&unassigned, "exec", &Query::parse("container=a")).unwrap_err().code, 400);
        let options = LogOptions { container: Some("a".into()), ..LogOptions::default() };
        assert_eq!(log_path(&unassigned, &options).unwrap(), None);
    }

    #[test]
    fn log_queries() {
        for (query, code) in [
            ("tailLines=-1", 422),
            ("sinceSeconds=0", 422),
            ("limitBytes=x", 400),
            ("sinceTime=now", 400),
            ("stream=In", 422),
        ] {
            assert_eq!(LogOptions::parse(&Query::parse(query), "p").unwrap_err().code, code, "{query}");
        }
    }

    #[test]
    fn names_in_proxy_urls() {
        let parsed = |text| SchemeNamePort::parse(text).ok().map(|id| (id.https, id.name, id.port));
        let own = |https, name: &str, port: &str| Some((https, name.to_owned(), port.to_owned()));
        assert_eq!(parsed("a"), own(false, "a", ""));
        assert_eq!(parsed("a:80"), own(false, "a", "80"));
        assert_eq!(parsed("https:a:"), own(true, "a", ""));
        assert_eq!((parsed("ftp:a:1"), parsed(":80"), parsed("a:b:c:d")), (None, None, None));
    }

    #[test]
    fn addresses() {
        for (address, allowed) in [
            ("10.1.2.3", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("::1", false),
            ("fe80::1", false),
            ("fd00::1", true),
        ] {
            assert_eq!(proxyable(address.parse().unwrap()), allowed, "{address}");
        }
    }

    #[test]
    fn endpoints() {
        let service = json!({"spec": {"ports": [{"name": "http", "port": 80}]}});
        let slice = Arc::new(
            json!({"metadata": {"labels": {"kubernetes.io/service-name": "s"}}, "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}, {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]}),
        );
        let ask =
            |text| service_endpoints(&service, &SchemeNamePort::parse(text).unwrap(), std::slice::from_ref(&slice));
        assert_eq!(ask("s:http").unwrap().unwrap(), [("10.0.0.1".to_owned(), 8080)]);
        assert_eq!(ask("s:80").unwrap().unwrap().len(), 1);
        assert_eq!(ask("s").unwrap().unwrap().len(), 0);
        assert!(service_endpoints(&service, &SchemeNamePort::parse("s").unwrap(), &[]).unwrap().is_none());
        assert_eq!(ask("s:81").unwrap_err().code, 503);
    }
}
