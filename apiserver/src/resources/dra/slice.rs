//! What a driver may say of its devices.

use std::sync::LazyLock;

use apimachinery::validation as names;
use regex::Regex;

use super::rules::{self, set};
use crate::resources::check::{At, Check, same};
use crate::resources::core::pod::scheduling;

/// Longest text of an attribute, in bytes.
const MAX_VALUE_BYTES: usize = 64;
/// Semantic versions, as semver.org 2.0.0 has them.
static VERSION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    const NUMBER: &str = r"(0|[1-9]\d*)";
    const PRE: &str = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)";
    const BUILD: &str = r"[0-9a-zA-Z-]+";
    Regex::new(&format!(r"^{NUMBER}\.{NUMBER}\.{NUMBER}(-{PRE}(\.{PRE})*)?(\+{BUILD}(\.{BUILD})*)?$")).ok()
});

/// `spec`; the second is the stored one, null for a new slice.
pub fn spec(check: &mut Check, at: &At, old: &At) {
    rules::driver_name(check, &at.get("driver"));
    let pool = at.get("pool");
    rules::pool_name(check, &pool.get("name"));
    check.positive(&pool.get("resourceSliceCount"));
    check.non_negative(&pool.get("generation"));
    let given = nodes(check, at, &["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"]);
    if at.get("nodeSelector").is_set() && at.get("nodeSelector.nodeSelectorTerms").len() != 1 {
        check.invalid(&at.get("nodeSelector.nodeSelectorTerms"), "must have exactly one node selector term");
    }
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given {
        0 => check.required(at, ONE),
        1 => {}
        _ => check.invalid(at, ONE),
    }
    let (devices, counters) = (at.get("devices"), at.get("sharedCounters"));
    if devices.is_set() && counters.is_set() {
        check.invalid(at, "only one of `sharedCounters` or `devices` is allowed");
    }
    let own_nodes = at.get("perDeviceNodeSelection").flag();
    let max_devices = if devices.items().any(|device| is_advanced(&device)) { 64 } else { 128 };
    set(
        check,
        &devices,
        max_devices,
        |item| item.get("name").value,
        |check, item| {
            let before = old.get("devices").items().find(|d| d.get("name").value == item.get("name").value);
            device(check, item, before.as_ref(), own_nodes);
        },
    );
    set(
        check,
        &counters,
        8,
        |item| item.get("name").value,
        |check, item| {
            check.present_format(&item.get("name"), names::dns1123_label);
            counter_map(check, &item.get("counters"));
        },
    );
}

/// Devices with taints or counters cost their readers more: fewer of them fit into a slice.
fn is_advanced(device: &At) -> bool {
    !device.get("taints").is_empty() || !device.get("consumesCounters").is_empty()
}

/// The ways to say on which nodes devices are: checks each and counts them.
fn nodes(check: &mut Check, at: &At, ways: &[&str]) -> usize {
    let mut given = 0;
    for way in ways.iter().map(|way| at.get(way)).filter(At::is_set) {
        if way.value.is_object() {
            given += 1;
            scheduling::node_selector(check, &way);
        } else if way.is_empty() && way.value.is_string() {
            check.invalid(&way, "must be either unset or set to a non-empty string");
        } else if way.value.is_string() {
            given += 1;
            check.format(&way, names::dns1123_subdomain);
        } else if way.flag() {
            given += 1;
        } else {
            check.invalid(&way, "must be either unset or set to true");
        }
    }
    given
}

fn counter_map(check: &mut Check, at: &At) {
    if check.present(at) && check.at_most(at, 32) {
        for (key, _) in at.entries() {
            for complaint in names::dns1123_label(key) {
                check.invalid(at, complaint);
            }
        }
    }
}

fn device(check: &mut Check, at: &At, old: Option<&At>, own_nodes: bool) {
    const MAX_PROPERTIES: usize = 32;
    check.format(&at.get("name"), names::dns1123_label);
    let (attributes, capacity, taints) = (at.get("attributes"), at.get("capacity"), at.get("taints"));
    if attributes.len() + capacity.len() > MAX_PROPERTIES {
        check.invalid(at, format!("the total number of attributes and capacities must not exceed {MAX_PROPERTIES}"));
    }
    for (key, value) in attributes.entries() {
        rules::qualified_name(check, key, &attributes);
        attribute(check, &value);
    }
    for (key, value) in capacity.entries() {
        rules::qualified_name(check, key, &capacity);
        let policy = value.get("requestPolicy");
        if policy.is_set() && at.get("allowMultipleAllocations").flag() {
            request_policy(check, &policy, &value.get("value"));
        } else if policy.is_set() {
            check.forbidden(&policy, "allowMultipleAllocations must be true");
        }
    }
    if old.is_none_or(|old| !same(old.get("taints").value, taints.value)) && check.at_most(&taints, 16) {
        taints.items().for_each(|taint| rules::taint(check, &taint));
    }
    set(
        check,
        &at.get("consumesCounters"),
        2,
        |item| item.get("counterSet").value,
        |check, item| {
            check.present_format(&item.get("counterSet"), names::dns1123_label);
            counter_map(check, &item.get("counters"));
        },
    );
    device_nodes(check, at, own_nodes);
    rules::binding_conditions(check, at);
}

fn device_nodes(check: &mut Check, at: &At, own_nodes: bool) {
    const WAYS: [&str; 3] = ["nodeName", "nodeSelector", "allNodes"];
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required with `perDeviceNodeSelection`";
    if own_nodes {
        match nodes(check, at, &WAYS) {
            0 => check.required(at, ONE),
            1 => {}
            _ => check.invalid(at, ONE),
        }
    } else if WAYS.iter().any(|way| at.get(way).is_set()) {
        check.invalid(at, "`nodeName`, `nodeSelector` and `allNodes` can only be set with `perDeviceNodeSelection`");
    }
}

/// Exactly one value. Lists of values belong to a feature that is off.
fn attribute(check: &mut Check, at: &At) {
    let given: Vec<At> =
        ["bool", "int", "string", "version"].map(|kind| at.get(kind)).into_iter().filter(At::is_set).collect();
    let version = at.get("version");
    if version.is_set() && !VERSION.as_ref().is_some_and(|pattern| pattern.is_match(version.str())) {
        check.invalid(&version, "must be a string compatible with semver.org spec 2.0.0");
    }
    for value in given.iter().filter(|value| value.len() > MAX_VALUE_BYTES) {
        check.too_long(value, MAX_VALUE_BYTES);
    }
    if given.len() != 1 {
        check.invalid(at, "exactly one value must be specified");
    }
}

/// How much of a capacity one claim may take.
fn request_policy(check: &mut Check, at: &At, capacity: &At) {
    let (values, range, default) = (at.get("validValues"), at.get("validRange"), at.get("default"));
    if !values.is_empty() && range.is_set() {
        check.forbidden(at, "cannot specify `validValues` and `validRange` at the same time");
    } else if (!values.is_empty() || range.is_set()) && !default.is_set() {
        check.required(&default, "required when validValues or validRange is defined");
    } else if !values.is_empty() {
        valid_values(check, &values, &default, capacity);
    } else if range.is_set() {
        valid_range(check, &range, &default, capacity);
    }
}

fn valid_values(check: &mut Check, at: &At, default: &At, capacity: &At) {
    let items: Vec<At> = at.items().collect();
    for pair in items.windows(2).filter(|pair| pair[0].quantity() > pair[1].quantity()) {
        check.invalid(&pair[1], "values must be sorted in ascending order");
    }
    set(
        check,
        at,
        10,
        |item| item.value,
        |check, item| {
            if item.quantity() > capacity.quantity() {
                check.invalid(item, "is larger than the capacity");
            }
        },
    );
    if items.len() > 10 || !items.iter().any(|item| item.quantity() == default.quantity()) {
        check.invalid(&default.under(at.path.clone()), "the default is none of them");
    }
}

fn valid_range(check: &mut Check, at: &At, default: &At, capacity: &At) {
    let (min, max, step) = (at.get("min"), at.get("max"), at.get("step"));
    if !min.is_set() {
        return check.required(&min, "required when validRange is defined");
    }
    if min.quantity() > capacity.quantity() {
        check.invalid(&min, "is larger than the capacity");
    }
    if default.quantity() < min.quantity() {
        check.invalid(&default.under(min.path.clone()), "the default is less");
    }
    if max.is_set() {
        if min.quantity() > max.quantity() {
            check.invalid(&max, "is less than the minimum");
        }
        if max.quantity() > capacity.quantity() {
            check.invalid(&max, "is larger than the capacity");
        }
        if default.quantity() > max.quantity() {
            check.invalid(&default.under(max.path.clone()), "the default is more");
        }
    }
    if step.is_set() {
        if min.quantity() + step.quantity() > capacity.quantity() {
            check.invalid(&step, "one step is larger than the capacity");
        }
        for value in [Some(default), Some(&max).filter(|max| max.is_set())].into_iter().flatten() {
            let above = value.quantity().value().saturating_sub(min.quantity().value());
            if above.checked_rem(step.quantity().value()) != Some(0) {
                check.invalid(&value.under(step.path.clone()), "is not a whole number of steps above the minimum");
            }
        }
    }
}
