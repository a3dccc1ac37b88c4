//! What a claim may ask for, and what its status may say.

use apimachinery::validation as names;
use serde_json::Value;

use super::rules::{self, MAX_ITEMS, set};
use crate::resources::check::{At, Check, parse_cidr, same, strict_ip};
use crate::resources::core::pod::scheduling;

/// Names of the requests of a claim with those of their alternatives.
struct RequestNames<'a>(Vec<(&'a str, Vec<&'a str>)>);

impl<'a> RequestNames<'a> {
    fn of(devices: &At<'a>) -> Self {
        let own = |at: &At<'a>| at.get("name").str();
        let of = |request: At<'a>| (own(&request), request.get("firstAvailable").items().map(|o| own(&o)).collect());
        Self(devices.get("requests").items().map(of).collect())
    }

    fn has(&self, name: &str) -> bool {
        let (request, option) = name.split_once('/').map_or((name, None), |(r, o)| (r, Some(o)));
        self.0.iter().any(|(own, options)| *own == request && option.is_none_or(|o| options.contains(&o)))
    }

    /// A reference to a request or to one of its alternatives.
    fn reference(&self, check: &mut Check, at: &At) {
        const UNKNOWN: &str =
            "must be the name of a request in the claim, or of a request and a subrequest with '/' between";
        let segments: Vec<&str> = at.str().split('/').collect();
        if segments.len() > 2 {
            return check.invalid(at, UNKNOWN);
        }
        for complaint in segments.iter().flat_map(|segment| names::dns1123_label(segment)) {
            check.invalid(at, complaint);
        }
        if !self.has(at.str()) {
            check.invalid(at, UNKNOWN);
        }
    }

    fn references<'v>(&self, check: &mut Check, at: &At<'v>) {
        set(check, at, MAX_ITEMS, |item| item.value, |check, item| self.reference(check, item));
    }
}

/// `spec.devices`.
pub fn spec(check: &mut Check, devices: &At) {
    let known = RequestNames::of(devices);
    set(check, &devices.get("requests"), MAX_ITEMS, |item| item.get("name").value, request);
    let (constraints, configs) = (devices.get("constraints"), devices.get("config"));
    if check.at_most(&constraints, MAX_ITEMS) {
        constraints.items().for_each(|item| constraint(check, &item, &known));
    }
    if check.at_most(&configs, MAX_ITEMS) {
        for config in configs.items() {
            known.references(check, &config.get("requests"));
            rules::opaque(check, &config);
        }
    }
}

fn request(check: &mut Check, at: &At) {
    check.format(&at.get("name"), names::dns1123_label);
    let (exactly, options) = (at.get("exactly"), at.get("firstAvailable"));
    match (exactly.is_set(), !options.is_empty()) {
        (true, true) => check.invalid(at, "only one of `exactly` or `firstAvailable` may be set"),
        (false, false) => check.required(at, "exactly one of `exactly` or `firstAvailable` is required"),
        (true, false) => device_request(check, &exactly),
        (false, true) => set(
            check,
            &options,
            8,
            |item| item.get("name").value,
            |check, option| {
                check.format(&option.get("name"), names::dns1123_label);
                device_request(check, option);
            },
        ),
    }
}

fn device_request(check: &mut Check, at: &At) {
    check.present_format(&at.get("deviceClassName"), names::dns1123_subdomain);
    rules::selectors(check, &at.get("selectors"));
    let count = at.get("count");
    match at.get("allocationMode").str() {
        "All" if count.number() != 0 => check.invalid(&count, "must not be specified when allocationMode is 'All'"),
        "ExactCount" if count.number() <= 0 => check.invalid(&count, "must be greater than zero"),
        _ => check.always_one_of(&at.get("allocationMode"), &["All", "ExactCount"]),
    }
    if check.at_most(&at.get("tolerations"), 16) {
        at.get("tolerations").items().for_each(|item| rules::toleration(check, &item));
    }
}

fn constraint(check: &mut Check, at: &At, known: &RequestNames) {
    known.references(check, &at.get("requests"));
    let (same_value, distinct) = (at.get("matchAttribute"), at.get("distinctAttribute"));
    if same_value.is_set() {
        rules::fully_qualified_name(check, &same_value);
    } else if distinct.is_set() {
        rules::fully_qualified_name(check, &distinct);
    } else {
        check.required(at, "exactly one of `matchAttribute` or `distinctAttribute` is required");
    }
}

/// What identifies an allocated device.
fn device_id<'a>(at: &At<'a>) -> [&'a Value; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| at.get(field).value)
}

/// `status`; the second is the stored claim.
pub fn status(check: &mut Check, claim: &At, old: &At) {
    let (status, before) = (claim.get("status"), old.get("status"));
    let (reserved, allocation) = (status.get("reservedFor"), status.get("allocation"));
    set(
        check,
        &reserved,
        256,
        |item| item.get("uid").value,
        |check, consumer| {
            check.present_all(consumer, &["resource", "name", "uid"]);
        },
    );
    let allocated: Vec<[&Value; 4]> = allocation.get("devices.results").items().map(|r| device_id(&r)).collect();
    let mut seen: Vec<[&Value; 4]> = Vec::new();
    let mut repeated: Vec<At> = Vec::new();
    for device in status.get("devices").items() {
        let id = device_id(&device);
        device_status(check, &device);
        if !allocated.contains(&id) {
            check.invalid(&device, "must be an allocated device in the claim");
        }
        if seen.contains(&id) { repeated.push(device) } else { seen.push(id) }
    }
    repeated.iter().for_each(|device| check.duplicate(device));
    if !reserved.is_empty() && !allocation.is_set() {
        check.forbidden(&reserved, "may not be specified when `allocated` is not set");
    } else if claim.get("metadata.deletionTimestamp").is_set()
        && reserved.items().any(|r| !before.get("reservedFor").items().any(|b| b.value == r.value))
    {
        check.forbidden(&reserved, "new entries may not be added to a claim that is being deleted");
    }
    if allocation.is_set() && before.get("allocation").is_set() {
        if !same(allocation.value, before.get("allocation").value) {
            check.invalid(&allocation, "field is immutable");
        }
    } else if allocation.is_set() {
        allocation_result(check, &allocation, &RequestNames::of(&claim.get("spec.devices")));
    }
}

/// A share of a device is told by a UUID in its usual form.
fn share_id(check: &mut Check, at: &At) {
    let id = at.get("shareID");
    let fits = |(i, b): (usize, u8)| match i {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
    };
    if id.is_set() && (id.len() != 36 || !id.str().bytes().enumerate().all(fits)) {
        check.invalid(&id, "must be a UUID in lower case");
    }
}

fn device_status(check: &mut Check, at: &At) {
    const MAX_CONDITIONS: usize = 8;
    rules::driver_name(check, &at.get("driver"));
    rules::pool_name(check, &at.get("pool"));
    check.format(&at.get("device"), names::dns1123_label);
    share_id(check, at);
    check.at_most(&at.get("conditions"), MAX_CONDITIONS);
    check.conditions(&at.get("conditions"));
    if at.get("data").is_set() {
        rules::raw_object(check, &at.get("data"));
    }
    let network = at.get("networkData");
    for (field, max_bytes) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.get(field).len() > max_bytes {
            check.too_long(&network.get(field), max_bytes);
        }
    }
    set(
        check,
        &network.get("ips"),
        16,
        |item| item.value,
        |check, address| {
            let strict = address.str().split_once('/').is_some_and(|(ip, _)| strict_ip(ip).is_some());
            if !strict || parse_cidr(address.str()).is_none() {
                check.invalid(address, "must be a valid address in CIDR form");
            }
        },
    );
}

fn allocation_result(check: &mut Check, at: &At, known: &RequestNames) {
    let (results, configs) = (at.get("devices.results"), at.get("devices.config"));
    if check.at_most(&results, MAX_ITEMS) {
        for result in results.items() {
            known.reference(check, &result.get("request"));
            rules::driver_name(check, &result.get("driver"));
            rules::pool_name(check, &result.get("pool"));
            check.format(&result.get("device"), names::dns1123_label);
            rules::binding_conditions(check, &result);
            share_id(check, &result);
        }
    }
    if check.at_most(&configs, 2 * MAX_ITEMS) {
        for config in configs.items() {
            check.present_one_of(&config.get("source"), &["FromClaim", "FromClass"]);
            known.references(check, &config.get("requests"));
            rules::opaque(check, &config);
        }
    }
    if at.get("nodeSelector").is_set() {
        scheduling::node_selector(check, &at.get("nodeSelector"));
    }
}
