//! Rules that classes, claims and slices share.

use std::sync::LazyLock;

use apimachinery::validation as names;
use cel::{Env, Program, Type};
use serde_json::Value;

use crate::resources::check::{At, Check};
pub use crate::resources::core::pod::volumes::csi_driver_name as driver_name;

/// Most requests, constraints, configurations, selectors and results in one list.
pub const MAX_ITEMS: usize = 32;
/// Longest expression, and largest parameters or data of a driver, in bytes.
const MAX_TEXT_BYTES: usize = 10 * 1024;
/// Longest name of an attribute or capacity below its domain, in bytes.
const MAX_ID_BYTES: usize = 32;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// What expressions know of a device.
static DEVICE: LazyLock<Env> = LazyLock::new(Env::of_device);

/// A list of at most `max_items` whose every element follows `rule` and whose keys are unique.
pub fn set<'a>(
    check: &mut Check,
    at: &At<'a>,
    max_items: usize,
    key: impl Fn(&At<'a>) -> &'a Value,
    mut rule: impl FnMut(&mut Check, &At<'a>),
) {
    if !check.at_most(at, max_items) {
        return;
    }
    let mut seen: Vec<&Value> = Vec::new();
    let mut repeated: Vec<At> = Vec::new();
    for item in at.items() {
        rule(check, &item);
        let own = key(&item);
        if seen.contains(&own) { repeated.push(item) } else { seen.push(own) }
    }
    repeated.iter().for_each(|item| check.duplicate(item));
}

/// Expressions that choose devices.
pub fn selectors(check: &mut Check, at: &At) {
    if !check.at_most(at, MAX_ITEMS) {
        return;
    }
    for cel in at.items().map(|selector| selector.get("cel")) {
        let expression = cel.get("expression");
        if !cel.is_set() {
            check.required(&cel, "");
        } else if expression.len() > MAX_TEXT_BYTES {
            check.too_long(&expression, MAX_TEXT_BYTES);
        } else if let Err(error) = Program::compile_as(expression.str(), &DEVICE, &[Type::Bool]) {
            check.invalid(&expression, error.to_string());
        }
    }
}

/// A driver's own parameters.
pub fn opaque(check: &mut Check, config: &At) {
    let at = config.get("opaque");
    if !at.is_set() {
        return check.required(&at, "");
    }
    driver_name(check, &at.get("driver"));
    // Anything but null is something: null alone is what nobody gave.
    if !at.get("parameters").value.is_null() {
        raw_object(check, &at.get("parameters"));
    } else {
        check.required(&at.get("parameters"), "");
    }
}

/// A JSON object of anybody's.
pub fn raw_object(check: &mut Check, at: &At) {
    if at.value.to_string().len() > MAX_TEXT_BYTES {
        check.too_long(at, MAX_TEXT_BYTES);
    } else if !at.value.is_object() {
        check.invalid(at, "must be a valid JSON object");
    }
}

/// DNS subdomains separated by slashes.
pub fn pool_name(check: &mut Check, at: &At) {
    if !check.present(at) {
        return;
    }
    if at.len() > 253 {
        check.too_long(at, 253);
    }
    for complaint in at.str().split('/').flat_map(names::dns1123_subdomain) {
        check.invalid(at, complaint);
    }
}

/// The name of an attribute or capacity, with or without a domain. `reported` is what errors are about.
pub fn qualified_name(check: &mut Check, name: &str, reported: &At) {
    let identifier = |check: &mut Check, id: &str| {
        if id.len() > MAX_ID_BYTES {
            check.too_long(reported, MAX_ID_BYTES);
        }
        names::c_identifier(id).into_iter().for_each(|complaint| check.invalid(reported, complaint));
    };
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(check, id),
        [domain, id] => {
            if domain.is_empty() {
                check.invalid(reported, "the domain must not be empty");
            } else {
                let value = Value::from(*domain);
                driver_name(check, &At { value: &value, path: reported.path.clone() });
            }
            if id.is_empty() {
                check.invalid(reported, "the name must not be empty");
            } else {
                identifier(check, id);
            }
        }
        // Upstream lets more slashes pass.
        _ => {}
    }
}

/// A name that has a domain.
pub fn fully_qualified_name(check: &mut Check, at: &At) {
    qualified_name(check, at.str(), at);
    if !at.str().contains('/') {
        check.invalid(at, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

/// What keeps claims away from a device.
pub fn taint(check: &mut Check, at: &At) {
    check.format(&at.get("key"), names::qualified_name);
    check.format_if_set(&at.get("value"), names::label_value);
    check.present_one_of(&at.get("effect"), &EFFECTS);
}

/// What a request puts up with.
pub fn toleration(check: &mut Check, at: &At) {
    check.format_if_set(&at.get("key"), names::qualified_name);
    let (operator, value) = (at.get("operator"), at.get("value"));
    match operator.str() {
        "Exists" if !value.is_empty() => check.invalid(&value, "must be empty for operator `Exists`"),
        "Equal" => check.format(&value, names::label_value),
        _ => check.present_one_of(&operator, &["Equal", "Exists"]),
    }
    if !at.get("effect").is_empty() {
        check.one_of(&at.get("effect"), &EFFECTS);
    }
}

/// Conditions that a device's use waits for, and those that end the wait.
pub fn binding_conditions(check: &mut Check, at: &At) {
    const MAX_CONDITIONS: usize = 4;
    let (good, bad) = (at.get("bindingConditions"), at.get("bindingFailureConditions"));
    for list in [&good, &bad] {
        set(check, list, MAX_CONDITIONS, |item| item.value, |check, item| check.format(item, names::qualified_name));
    }
    for both in bad.items().filter(|b| good.strings().any(|g| g == b.str())) {
        check.invalid(&both, "must not overlap with bindingConditions");
    }
    for (list, other) in [(&good, &bad), (&bad, &good)] {
        if list.is_empty() && !other.is_empty() {
            check.invalid(list, "both kinds of conditions are needed when there is one");
        }
    }
}
