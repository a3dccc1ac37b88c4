//! Dynamic resource allocation: claims, classes, slices. Follows upstream's resource.k8s.io validation and printers.

use std::sync::LazyLock;

use apimachinery::validation as names;
use serde_json::Value;

use super::check::{At, Check, same};
use super::core::pod::scheduling;
use super::printing::{age, name, text};
use super::{NameRule, Strategy, meta};
use cel::{Env, Program, Type};

/// A driver's name: a DNS subdomain of at most 63 characters.
fn driver_name(check: &mut Check, at: &At) {
    check.present(at);
    if at.len() > 63 {
        check.too_long(at, 63);
    }
    for complaint in names::dns1123_subdomain(&at.str().to_lowercase()).into_iter().filter(|_| !at.is_empty()) {
        check.invalid(at, complaint);
    }
}

/// What expressions know of a device.
static DEVICE: LazyLock<Env> = LazyLock::new(Env::of_device);
/// Longest expression, in bytes.
const MAX_EXPRESSION_BYTES: usize = 10 * 1024;

fn selectors(check: &mut Check, at: &At) {
    check.at_most(at, 32);
    for selector in at.items() {
        let cel = selector.get("cel");
        if cel.is_set() {
            let expression = cel.get("expression");
            if expression.str().len() > MAX_EXPRESSION_BYTES {
                check.too_long(&expression, MAX_EXPRESSION_BYTES);
            } else if check.present(&expression)
                && let Err(error) = Program::compile_as(expression.str(), &DEVICE, &[Type::Bool])
            {
                check.invalid(&expression, error.to_string());
            }
        } else {
            check.required(&cel, "");
        }
    }
}

fn opaque(check: &mut Check, config: &At) {
    let at = config.get("opaque");
    if !at.is_set() {
        return check.required(&at, "");
    }
    driver_name(check, &at.get("driver"));
    let parameters = at.get("parameters");
    if !parameters.is_set() {
        check.required(&parameters, "");
    } else if !parameters.value.is_object() {
        check.invalid(&parameters, "must be a JSON object");
    }
}

/// The deviceclasses resource.
pub const DEVICE_CLASS: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |class, cx| {
        let mut check = meta::checked(class, cx);
        device_class(&mut check, &At::root(class).get("spec"));
        check.errors
    },
    validate_update: |class, old, cx| {
        let mut check = meta::checked(class, cx);
        let new = At::root(class);
        meta::update(&mut check, &new, &At::root(old));
        device_class(&mut check, &new.get("spec"));
        check.errors
    },
    cells: Some(|class, cx| {
        let class = At::root(class);
        vec![name(&class), age(&class, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

fn device_class(check: &mut Check, spec: &At) {
    selectors(check, &spec.get("selectors"));
    check.at_most(&spec.get("config"), 32);
    for config in spec.get("config").items() {
        opaque(check, &config);
    }
}

/// The resourceclaims resource: what is asked for never changes.
pub const CLAIM: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |claim, cx| {
        let mut check = meta::checked(claim, cx);
        claim_spec(&mut check, &At::root(claim).get("spec.devices"));
        check.errors
    },
    validate_update: |claim, old, _| {
        let mut check = Check::new();
        let (new, old) = (At::root(claim), At::root(old));
        meta::update(&mut check, &new, &old);
        if !same(new.get("spec").value, old.get("spec").value) {
            check.invalid(&new.get("spec"), "field is immutable");
        }
        check.errors
    },
    cells: Some(|claim, cx| {
        let claim = At::root(claim);
        let status = claim.get("status");
        let mut states: Vec<&str> = Vec::new();
        states.extend(Some("deleted").filter(|_| claim.get("metadata.deletionTimestamp").is_set()));
        if status.get("allocation").is_set() {
            states.push("allocated");
            states.extend(Some("reserved").filter(|_| !status.get("reservedFor").is_empty()));
        } else {
            states.push("pending");
        }
        vec![name(&claim), states.join(",").into(), age(&claim, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

/// `resourceclaims/status`.
pub const CLAIM_STATUS: Strategy = Strategy {
    validate_update: |claim, old, _| {
        let mut check = Check::new();
        let (new, old) = (At::root(claim), At::root(old));
        meta::update(&mut check, &new, &old);
        let (status, before) = (new.get("status"), old.get("status"));
        check.at_most(&status.get("reservedFor"), 256);
        let mut seen: Vec<&Value> = Vec::new();
        for consumer in status.get("reservedFor").items() {
            check.present_all(&consumer, &["resource", "name", "uid"]);
            if seen.contains(&consumer.value) {
                check.duplicate(&consumer);
            }
            seen.push(consumer.value);
        }
        if !status.get("allocation").is_set() && !status.get("reservedFor").is_empty() {
            check.forbidden(&status.get("reservedFor"), "may not be specified when `allocated` is not set");
        }
        let both = status.get("allocation").is_set() && before.get("allocation").is_set();
        if both && !same(status.get("allocation").value, before.get("allocation").value) {
            check.invalid(&status.get("allocation"), "field is immutable");
        }
        check.errors
    },
    ..Strategy::DEFAULT
};

/// The resourceclaimtemplates resource.
pub const CLAIM_TEMPLATE: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |template, cx| {
        let mut check = meta::checked(template, cx);
        claim_spec(&mut check, &At::root(template).get("spec.spec.devices"));
        check.errors
    },
    validate_update: |template, old, _| {
        let mut check = Check::new();
        let (new, old) = (At::root(template), At::root(old));
        meta::update(&mut check, &new, &old);
        if !same(new.get("spec").value, old.get("spec").value) {
            check.invalid(&new.get("spec"), "field is immutable");
        }
        check.errors
    },
    cells: DEVICE_CLASS.cells,
    ..Strategy::DEFAULT
};

fn claim_spec(check: &mut Check, devices: &At) {
    let requests = devices.get("requests");
    check.at_most(&requests, 32);
    let mut known: Vec<String> = Vec::new();
    for request in requests.items() {
        let own = request.get("name");
        check.format(&own, names::dns1123_label);
        if known.iter().any(|n| n == own.str()) {
            check.duplicate(&request);
        }
        known.push(own.str().to_owned());
        let (exactly, options) = (request.get("exactly"), request.get("firstAvailable"));
        match (exactly.is_set(), !options.is_empty()) {
            (true, true) => check.invalid(
                &request,
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            ),
            (false, false) => check.required(&request, "exactly one of `exactly` or `firstAvailable` is required"),
            (true, false) => device_request(check, &exactly),
            (false, true) => {
                check.at_most(&options, 8);
                let mut names_seen: Vec<&str> = Vec::new();
                for option in options.items() {
                    check.format(&option.get("name"), names::dns1123_label);
                    if names_seen.contains(&option.get("name").str()) {
                        check.duplicate(&option);
                    }
                    names_seen.push(option.get("name").str());
                    known.push(format!("{}/{}", own.str(), option.get("name").str()));
                    device_request(check, &option);
                }
            }
        }
    }
    let references = |check: &mut Check, at: &At| {
        check.at_most(at, 32);
        for reference in at.items().filter(|r| !known.iter().any(|n| n == r.str())) {
            check.invalid(&reference, "must be the name of a request in the claim");
        }
    };
    for constraint in devices.get("constraints").items() {
        references(check, &constraint.get("requests"));
        let (attribute, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
        if !attribute.is_set() && !distinct.is_set() {
            check.required(&constraint, "exactly one of `matchAttribute`, `distinctAttribute` is required");
        }
        for at in [attribute, distinct].iter().filter(|a| a.is_set()) {
            let fits = at.str().split_once('/').is_some_and(|(domain, id)| {
                names::dns1123_subdomain(domain).is_empty() && names::c_identifier(id).is_empty() && id.len() <= 32
            });
            if !fits {
                check.invalid(at, "must be a fully-qualified attribute name");
            }
        }
    }
    for config in devices.get("config").items() {
        references(check, &config.get("requests"));
        opaque(check, &config);
    }
}

fn device_request(check: &mut Check, at: &At) {
    check.present_format(&at.get("deviceClassName"), names::dns1123_subdomain);
    selectors(check, &at.get("selectors"));
    let count = at.get("count");
    match at.get("allocationMode").str() {
        "All" if count.number() != 0 => check.invalid(&count, "must not be specified when allocationMode is 'All'"),
        "ExactCount" if count.number() <= 0 => check.invalid(&count, "must be greater than zero"),
        "All" | "ExactCount" => {}
        _ => check.not_supported(&at.get("allocationMode"), &["All", "ExactCount"]),
    }
    check.at_most(&at.get("tolerations"), 16);
}

/// The resourceslices resource.
pub const SLICE: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |slice, cx| {
        let mut check = meta::checked(slice, cx);
        slice_spec(&mut check, &At::root(slice).get("spec"));
        check.errors
    },
    validate_update: |slice, old, cx| {
        let mut check = meta::checked(slice, cx);
        let (new, old) = (At::root(slice), At::root(old));
        meta::update(&mut check, &new, &old);
        slice_spec(&mut check, &new.get("spec"));
        for field in ["spec.driver", "spec.nodeName", "spec.pool.name", "spec.nodeSelector", "spec.allNodes"] {
            check.immutable(&new.get(field), &old.get(field));
        }
        check.errors
    },
    cells: Some(|slice, cx| {
        let slice = At::root(slice);
        let spec = slice.get("spec");
        vec![
            name(&slice),
            text(&spec.get("nodeName")),
            text(&spec.get("driver")),
            text(&spec.get("pool.name")),
            age(&slice, cx.request.now),
        ]
    }),
    ..Strategy::DEFAULT
};

fn slice_spec(check: &mut Check, spec: &At) {
    driver_name(check, &spec.get("driver"));
    let pool = spec.get("pool");
    pool_name(check, &pool.get("name"));
    if pool.get("resourceSliceCount").number() <= 0 {
        check.invalid(&pool.get("resourceSliceCount"), "must be greater than zero");
    }
    check.non_negative(&pool.get("generation"));
    let ways = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"].map(|f| spec.get(f));
    let given = ways.iter().filter(|at| !at.is_empty() && at.value.as_bool() != Some(false)).count();
    if given == 0 {
        check.required(
            spec,
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        );
    } else if given > 1 {
        check.invalid(
            spec,
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        );
    }
    check.format_if_set(&spec.get("nodeName"), names::dns1123_subdomain);
    if spec.get("nodeSelector").is_set() {
        scheduling::node_selector(check, &spec.get("nodeSelector"));
    }
    let devices = spec.get("devices");
    check.at_most(&devices, 128);
    let mut seen: Vec<&str> = Vec::new();
    for device in devices.items() {
        let own = device.get("name");
        check.format(&own, names::dns1123_label);
        if seen.contains(&own.str()) {
            check.duplicate(&own);
        }
        seen.push(own.str());
    }
}

/// DNS subdomains separated by slashes.
fn pool_name(check: &mut Check, at: &At) {
    if !check.present(at) {
        return;
    }
    if at.len() > 253 {
        check.too_long(at, 253);
    }
    for part in at.str().split('/').filter(|part| !names::dns1123_subdomain(part).is_empty()) {
        let value = Value::from(part);
        check.invalid(&At { value: &value, path: at.path.clone() }, "must be DNS subdomains separated by slashes");
    }
}
