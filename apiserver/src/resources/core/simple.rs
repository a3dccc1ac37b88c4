//! Core kinds whose rules fit in a few lines each: namespaces, config maps, secrets, service accounts, endpoints.

use apimachinery::field::{ErrorList, Path};
use apimachinery::validation as names;
use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::resources::check::{At, Check, same};
use crate::resources::edit::{array_mut, edit_map, remove, set, set_default};
use crate::resources::printing::{NONE, age, name};
use crate::resources::{HookContext, NameRule, Strategy, meta};

/// Bytes that the data of one secret or config map may have.
const MAX_DATA_BYTES: usize = 1024 * 1024;

/// Namespaces. Their finalizer keeps them until their content is gone; only `namespaces/finalize` edits it.
pub const NAMESPACE: Strategy = Strategy {
    names: NameRule(names::dns1123_label),
    default: namespace_label,
    prepare_create: prepare_namespace,
    validate: |namespace, cx| namespace_rules(namespace, cx).errors,
    validate_update: |namespace, old, cx| {
        let mut check = namespace_rules(namespace, cx);
        meta::update(&mut check, &At::root(namespace), &At::root(old));
        check.errors
    },
    cells: Some(|namespace, cx| {
        let at = At::root(namespace);
        vec![name(&at), at.get("status.phase").str().into(), age(&at, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

fn namespace_rules(namespace: &Value, cx: &HookContext) -> Check {
    let mut check = meta::checked(namespace, cx);
    let at = At::root(namespace).get("spec.finalizers");
    for finalizer in at.items() {
        finalizer_name(&mut check, &finalizer.under(at.path.clone()));
    }
    check
}

/// Component statuses, which are made when they are asked for.
pub const COMPONENT_STATUS: Strategy = Strategy {
    cells: Some(|component, _| {
        let component = At::root(component);
        let conditions = component.get("conditions");
        let healthy = conditions.items().find(|condition| condition.get("type").str() == "Healthy");
        let said = |field: &str| healthy.as_ref().map_or("", |condition| condition.get(field).str()).into();
        let status = match healthy.as_ref().map(|condition| condition.get("status").str()) {
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
            None => "Unknown",
        };
        vec![name(&component), status.into(), said("message"), said("error")]
    }),
    ..Strategy::DEFAULT
};

/// `namespaces/status`: the phase follows the deletion timestamp.
pub const NAMESPACE_STATUS: Strategy = Strategy {
    default: namespace_label,
    validate_update: |namespace, old, _| {
        let mut check = Check::new();
        let new = At::root(namespace);
        meta::update(&mut check, &new, &At::root(old));
        let phase = new.get("status.phase");
        let expected = if new.get("metadata.deletionTimestamp").is_set() { "Terminating" } else { "Active" };
        if phase.str() != expected {
            check.invalid(&phase.under(Path::new("status").child("Phase")), format!("may only be '{expected}'"));
        }
        check.errors
    },
    ..Strategy::DEFAULT
};

/// `namespaces/finalize`.
pub const NAMESPACE_FINALIZE: Strategy = Strategy {
    default: namespace_label,
    validate_update: |namespace, old, _| {
        let mut check = Check::new();
        let new = At::root(namespace);
        meta::update(&mut check, &new, &At::root(old));
        for finalizer in new.get("spec.finalizers").items() {
            finalizer_name(&mut check, &finalizer);
        }
        check.errors
    },
    ..Strategy::DEFAULT
};

/// Every namespace carries its own name as a label, so that selectors can choose it.
fn namespace_label(namespace: &mut Value, cx: &HookContext) {
    (Strategy::DEFAULT.default)(namespace, cx);
    label_with_own_name(namespace);
}

fn label_with_own_name(namespace: &mut Value) {
    let own = namespace["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if let Some(meta) = namespace.get_mut("metadata").filter(|_| !own.is_empty()) {
        edit_map(meta, "labels", |labels| {
            labels.insert("kubernetes.io/metadata.name".to_owned(), own.into());
        });
    }
}

fn prepare_namespace(namespace: &mut Value, _: &HookContext) {
    label_with_own_name(namespace);
    set(namespace, "status", json!({"phase": "Active"}));
    let mut finalizers = namespace["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|f| f == "kubernetes") {
        finalizers.push("kubernetes".into());
    }
    set(namespace, "spec", json!({ "finalizers": finalizers }));
}

fn finalizer_name(check: &mut Check, at: &At) {
    check.format(at, names::qualified_name);
    if !at.str().contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&at.str()) {
        check.invalid(at, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

/// Config maps.
pub const CONFIG_MAP: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |map, cx| {
        let mut check = meta::checked(map, cx);
        config_map(&mut check, &At::root(map));
        check.errors
    },
    validate_update: |map, old, cx| {
        let mut check = Check::new();
        let (new, old) = (At::root(map), At::root(old));
        meta::update(&mut check, &new, &old);
        frozen(&mut check, &new, &old, &["data", "binaryData"]);
        meta::create(&mut check, &new, cx);
        config_map(&mut check, &new);
        check.errors
    },
    cells: Some(|map, cx| {
        let at = At::root(map);
        let count = at.get("data").len() + at.get("binaryData").len();
        vec![name(&at), count.into(), age(&at, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

/// Base64 text's bytes.
fn decoded_len(text: &str) -> usize {
    (text.trim_end_matches('=').len() * 3) / 4
}

fn config_map(check: &mut Check, map: &At) {
    let (data, binary) = (map.get("data"), map.get("binaryData"));
    let mut total_bytes = 0;
    for (key, value) in data.entries() {
        key_format(check, key, &value);
        if binary.entry(key).is_set() {
            check.invalid(&value, "duplicate of key present in binaryData");
        }
        total_bytes += value.len();
    }
    for (key, value) in binary.entries() {
        key_format(check, key, &value);
        total_bytes += decoded_len(value.str());
    }
    if total_bytes > MAX_DATA_BYTES {
        check.too_long(&map.under(Path::root()), MAX_DATA_BYTES);
    }
}

fn key_format(check: &mut Check, key: &str, at: &At) {
    for complaint in names::config_map_key(key) {
        check.invalid(at, complaint);
    }
}

/// `immutable: true` freezes these fields and itself.
fn frozen(check: &mut Check, new: &At, old: &At, fields: &[&str]) {
    if !old.get("immutable").flag() {
        return;
    }
    if !new.get("immutable").flag() {
        check.forbidden(&new.get("immutable"), "field is immutable when `immutable` is set");
    }
    for field in fields.iter().filter(|f| !same(new.get(f).value, old.get(f).value)) {
        check.forbidden(&new.get(field), "field is immutable when `immutable` is set");
    }
}

/// Secrets; `stringData` is write-only and ends up in `data`.
pub const SECRET: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |secret, cx| {
        (Strategy::DEFAULT.default)(secret, cx);
        set_default(secret, "type", "Opaque");
        if let Some(Value::Object(plain)) = remove(secret, "stringData") {
            edit_map(secret, "data", |data| data.extend(plain.into_iter().map(encode)));
        }
    },
    validate: |secret, cx| {
        let mut check = meta::checked(secret, cx);
        validate_secret(&mut check, &At::root(secret));
        check.errors
    },
    validate_update: |secret, old, cx| {
        let mut check = Check::new();
        let (new, old) = (At::root(secret), At::root(old));
        meta::update(&mut check, &new, &old);
        check.immutable(&new.get("type"), &old.get("type"));
        frozen(&mut check, &new, &old, &["data"]);
        meta::create(&mut check, &new, cx);
        validate_secret(&mut check, &new);
        check.errors
    },
    warnings: |secret, _| {
        let pem = |key: &str| {
            let text = secret["data"][key].as_str().unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
            x509_parser::pem::Pem::iter_from_buffer(&bytes).next().is_some_and(|pem| pem.is_ok())
        };
        let broken = secret["type"] == "kubernetes.io/tls" && !(pem("tls.crt") && pem("tls.key"));
        broken.then(|| "tls: failed to find any PEM data in certificate or key input".to_owned()).into_iter().collect()
    },
    cells: Some(|secret, cx| {
        let at = At::root(secret);
        vec![name(&at), at.get("type").str().into(), at.get("data").len().into(), age(&at, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

fn encode((key, text): (String, Value)) -> (String, Value) {
    let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
    (key, encoded.into())
}

fn validate_secret(check: &mut Check, secret: &At) {
    let data = secret.get("data");
    let mut total_bytes = 0;
    for (key, value) in data.entries() {
        key_format(check, key, &value);
        total_bytes += decoded_len(value.str());
    }
    if total_bytes > MAX_DATA_BYTES {
        check.too_long(&data, MAX_DATA_BYTES);
    }
    let demand = |check: &mut Check, keys: &[&str]| {
        for key in keys.iter().filter(|k| !data.entry(k).is_set()) {
            check.required(&data.entry(key), "");
        }
    };
    match secret.get("type").str() {
        "kubernetes.io/service-account-token" => {
            check.present(&secret.get("metadata.annotations").entry("kubernetes.io/service-account.name"));
        }
        "kubernetes.io/dockercfg" => docker_config(check, &data.entry(".dockercfg")),
        "kubernetes.io/dockerconfigjson" => docker_config(check, &data.entry(".dockerconfigjson")),
        "kubernetes.io/basic-auth" if !data.entry("username").is_set() && !data.entry("password").is_set() => {
            demand(check, &["username", "password"]);
        }
        "kubernetes.io/ssh-auth" => {
            check.present(&data.entry("ssh-privatekey"));
        }
        "kubernetes.io/tls" => demand(check, &["tls.crt", "tls.key"]),
        _ => {}
    }
}

fn docker_config(check: &mut Check, at: &At) {
    if !at.is_set() {
        return check.required(at, "");
    }
    let text = base64::engine::general_purpose::STANDARD.decode(at.str()).unwrap_or_default();
    let redacted = Value::from("<secret contents redacted>");
    if let Err(error) = serde_json::from_slice::<Option<Map<String, Value>>>(&text) {
        check.invalid(&At { value: &redacted, path: at.path.clone() }, error.to_string());
    }
}

/// Of the references to secrets only the names are kept.
fn names_of_secrets(account: &mut Value) {
    for secret in array_mut(account, "secrets") {
        *secret = secret.get("name").map_or_else(|| json!({}), |name| json!({ "name": name }));
    }
}

/// Service accounts.
pub const SERVICE_ACCOUNT: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    prepare_create: |account, _| names_of_secrets(account),
    prepare_update: |account, _, _| names_of_secrets(account),
    validate_update: |account, old, cx| {
        let mut check = Check::new();
        let new = At::root(account);
        meta::update(&mut check, &new, &At::root(old));
        meta::create(&mut check, &new, cx);
        check.errors
    },
    warnings: |account, old| {
        const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
        let asks = |account: &Value| account["metadata"]["annotations"].get(ENFORCE).is_some();
        let new = asks(account) && !old.is_some_and(asks);
        new.then(|| format!("metadata.annotations[{ENFORCE}]: deprecated in v1.32+; use separate namespaces"))
            .into_iter()
            .collect()
    },
    cells: Some(|account, cx| {
        let at = At::root(account);
        vec![name(&at), age(&at, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

/// Endpoints, the older form of EndpointSlices.
pub const ENDPOINTS: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |endpoints, cx| {
        let mut check = meta::checked(endpoints, cx);
        check.errors.extend(validate_endpoints(endpoints));
        check.errors
    },
    validate_update: |endpoints, old, cx| {
        let mut check = Check::new();
        let new = At::root(endpoints);
        meta::update(&mut check, &new, &At::root(old));
        meta::create(&mut check, &new, cx);
        check.errors.extend(validate_endpoints(endpoints));
        check.errors
    },
    warnings: |_, _| vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()],
    cells: Some(|endpoints, cx| {
        let at = At::root(endpoints);
        vec![name(&at), endpoint_list(&at).into(), age(&at, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

fn validate_endpoints(endpoints: &Value) -> ErrorList {
    let mut check = Check::new();
    for subset in At::root(endpoints).get("subsets").items() {
        let (ready, not_ready, ports) = (subset.get("addresses"), subset.get("notReadyAddresses"), subset.get("ports"));
        if ready.is_empty() && not_ready.is_empty() {
            check.required(&subset, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().chain(not_ready.items()) {
            check.ip(&address.get("ip"));
            check.format_if_set(&address.get("hostname"), names::dns1123_label);
            if address.get("nodeName").is_set() {
                check.format(&address.get("nodeName"), names::dns1123_subdomain);
            }
            check.non_special_ip(&address.get("ip"));
        }
        for port in ports.items() {
            let port_name = port.get("name");
            if port_name.is_empty() && ports.len() > 1 {
                check.required(&port_name, "");
            }
            check.format_if_set(&port_name, names::dns1123_label);
            check.port_number(&port.get("port"));
            check.present_one_of(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
            if port.get("appProtocol").is_set() {
                check.format(&port.get("appProtocol"), names::qualified_name);
            }
        }
    }
    check.errors
}

/// The first three addresses, and how many more there are.
fn endpoint_list(endpoints: &At) -> String {
    const SHOWN: usize = 3;
    let mut all: Vec<String> = Vec::new();
    for subset in endpoints.get("subsets").items() {
        let ips: Vec<&str> = subset.get("addresses").items().map(|a| a.get("ip").str()).collect();
        if subset.get("ports").is_empty() {
            all.extend(ips.iter().map(|ip| (*ip).to_owned()));
        }
        for port in subset.get("ports").items() {
            all.extend(ips.iter().map(|ip| host_port(ip, port.get("port").number())));
        }
    }
    match all.len() {
        0 => NONE.to_owned(),
        more if more > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), more - SHOWN),
        _ => all.join(","),
    }
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
