//! Defaults of a pod spec that depend on other fields; the static ones come from the table afterwards.
//!
//! In pods and templates: the kind of a volume without one, both names of the service account. In pods only: requests
//! from limits, host ports under host network, and both forms of the pod's addresses.

use serde_json::{Value, json};

use super::super::quantities;
use super::qos;
use crate::resources::check::At;
use crate::resources::edit::{array_mut, edit_map, set, set_default};

/// For any pod spec.
pub fn spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for volume in array_mut(spec, "volumes") {
        // A name without a source means an empty directory.
        if let Some(map) = volume.as_object_mut()
            && map.iter().all(|(field, value)| field == "name" || value.is_null())
        {
            map.insert("emptyDir".to_owned(), json!({}));
        }
    }
    set_default(spec, "securityContext", json!({}));
    service_account(spec);
}

/// The old and the new name of the service account's field always carry one value; the new one leads.
pub fn service_account(spec: &mut Value) {
    let given = |field: &str| spec[field].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    if let Some(account) = given("serviceAccountName").or_else(|| given("serviceAccount")) {
        set(spec, "serviceAccountName", account.clone());
        set(spec, "serviceAccount", account);
    }
}

/// For a pod itself, after [`spec`].
pub fn pod(pod: &mut Value) {
    let Some(pod_spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    let host_network = pod_spec["hostNetwork"] == true;
    for list in ["containers", "initContainers"] {
        for container in array_mut(pod_spec, list) {
            requests_from_limits(container);
            for port in array_mut(container, "ports").iter_mut().filter(|_| host_network) {
                if port["hostPort"].as_i64().unwrap_or_default() == 0 {
                    let inside = port["containerPort"].clone();
                    set(port, "hostPort", inside);
                }
            }
        }
    }
    pod_requests(pod_spec);
    addresses(pod);
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) =
        container.pointer("/resources/limits").and_then(Value::as_object).filter(|l| !l.is_empty()).cloned()
    else {
        return;
    };
    edit_map(&mut container["resources"], "requests", |requests| {
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    });
}

/// The pod's own requests: what its containers ask for together, else its limits.
fn pod_requests(spec: &mut Value) {
    let Some(limits) = spec.pointer("/resources/limits").and_then(Value::as_object).filter(|l| !l.is_empty()).cloned()
    else {
        return;
    };
    let sums = qos::container_requests(&At::root(spec));
    let supported = |name: &str| ["cpu", "memory"].contains(&name) || quantities::is_hugepages(name);
    edit_map(&mut spec["resources"], "requests", |requests| {
        for (name, amount) in sums.iter().filter(|(name, _)| supported(name) && !quantities::is_hugepages(name)) {
            requests.entry(name.clone()).or_insert_with(|| amount.to_string().into());
        }
        for (name, amount) in limits.into_iter().filter(|(name, _)| supported(name)) {
            requests.entry(name).or_insert(amount);
        }
    });
}

/// `podIP` is the first of `podIPs`; where they differ the single one leads.
fn addresses(pod: &mut Value) {
    let Some(status) = pod.get_mut("status").filter(|status| status.is_object()) else { return };
    let single = status["podIP"].as_str().unwrap_or_default().to_owned();
    let first = status.pointer("/podIPs/0/ip").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !single.is_empty() && single != first {
        set(status, "podIPs", json!([{ "ip": single }]));
    } else if single.is_empty() && !first.is_empty() {
        set(status, "podIP", first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_without_a_source_is_an_empty_directory() {
        let mut pod = json!({"volumes": [{"name": "a"}, {"name": "b", "secret": {"secretName": "s"}}]});
        spec(&mut pod);
        assert_eq!(pod["volumes"][0], json!({"name": "a", "emptyDir": {}}));
        assert_eq!(pod["volumes"][1], json!({"name": "b", "secret": {"secretName": "s"}}));
    }

    #[test]
    fn requests_take_the_limits() {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "i",
            "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}}}]}});
        super::pod(&mut pod);
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
    }
}
