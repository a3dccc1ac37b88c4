//! Events in both groups: one stored form (core/v1), the events.k8s.io names on the other side, and the stricter rules
//! for what is written through the newer group. Follows upstream's event conversion, validation and printer.

use apimachinery::field::{ErrorList, Path};
use apimachinery::validation as names;
use serde_json::Value;

use crate::resources::check::{At, Check};
use crate::resources::edit::{remove, set};
use crate::resources::printing::{since, text};
use crate::resources::{HookContext, NameRule, Strategy, meta};

/// The events resource of both groups.
pub const STRATEGY: Strategy = Strategy {
    names: NameRule(names::path_segment_name),
    validate: |event, cx| validate(event, None, cx),
    validate_update: |event, old, cx| validate(event, Some(old), cx),
    cells: Some(cells),
    ..Strategy::DEFAULT
};

/// Core's name of a field, and the newer group's.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// From the newer group's names to the stored ones.
pub fn to_core(event: &mut Value) {
    rename(event, "v1", RENAMED.iter().map(|(core, new)| (*new, *core)));
}

/// From the stored names to the newer group's.
pub fn from_core(event: &mut Value) {
    rename(event, "events.k8s.io/v1", RENAMED.iter().copied());
    // Core always writes them; here they are left out.
    for field in ["reportingController", "reportingInstance"] {
        if event[field] == "" {
            remove(event, field);
        }
    }
}

fn rename<'a>(event: &mut Value, api_version: &str, names: impl Iterator<Item = (&'a str, &'a str)>) {
    set(event, "apiVersion", api_version);
    for (from, to) in names {
        if let Some(value) = remove(event, from) {
            set(event, to, value);
        }
    }
}

fn validate(event: &Value, old: Option<&Value>, cx: &HookContext) -> ErrorList {
    let mut check = Check::new();
    let new = At::root(event);
    let newer = cx.request.info.api_group == "events.k8s.io";
    basics(&mut check, &new, newer);
    if !newer {
        return check.errors;
    }
    match old {
        None => {
            meta::named(&mut check, &new, cx, names::dns1123_subdomain);
            series(&mut check, &new);
            unset_old_fields(&mut check, &new);
        }
        Some(old) => {
            let old = At::root(old);
            if new.get("series").value != old.get("series").value {
                series(&mut check, &new);
            }
            meta::update(&mut check, &new, &old);
            for field in IMMUTABLE {
                let reported_as = if field == "reportingComponent" { "reportingController" } else { field };
                check.immutable(&new.get(field).under(Path::new(reported_as)), &old.get(field));
            }
        }
    }
    check.errors
}

/// Through the newer group only the series moves on.
/// Upstream looks at the reason twice.
const IMMUTABLE: [&str; 14] = [
    "involvedObject", "reason", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "type",
    "eventTime", "action", "related", "reportingComponent", "reportingInstance",
];

/// Rules of both groups; an event with a time of its own must say who reports it.
fn basics(check: &mut Check, event: &At, newer: bool) {
    let (own, involved) = (event.get("metadata.namespace"), event.get("involvedObject.namespace"));
    if !event.get("eventTime").is_set() {
        let fits = if involved.is_empty() { ["", "default"].contains(&own.str()) } else { own.str() == involved.str() };
        if !fits {
            check.invalid(&involved, "does not match event.namespace");
        }
    } else {
        if involved.is_empty() && !["default", "kube-system"].contains(&own.str()) {
            check.invalid(&involved, "does not match event.namespace");
        }
        reporter(check, event, newer);
    }
    check.format(&own.under(Path::new("namespace")), names::dns1123_subdomain);
}

fn reporter(check: &mut Check, event: &At, newer: bool) {
    let reported_as = if newer { "reportingController" } else { "reportingComponent" };
    let controller = event.get("reportingComponent").under(Path::new(reported_as));
    check.present(&controller);
    check.format(&controller, names::qualified_name);
    for field in ["reportingInstance", "action", "reason"] {
        let at = event.get(field);
        check.present(&at);
        if at.len() > 128 {
            check.invalid(&at, "can have at most 128 characters");
        }
    }
    if event.get("message").len() > 1024 {
        check.invalid(&event.get("message"), "can have at most 1024 characters");
    }
}

fn series(check: &mut Check, event: &At) {
    let series = event.get("series");
    if series.is_set() {
        if series.get("count").number() < 2 {
            check.invalid(&series.get("count"), "should be at least 2");
        }
        check.present(&series.get("lastObservedTime"));
    }
}

fn unset_old_fields(check: &mut Check, event: &At) {
    check.present(&event.get("eventTime"));
    if !["Normal", "Warning"].contains(&event.get("type").str()) {
        check.invalid(&event.get("type"), "has invalid value");
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"].map(|f| event.get(f)) {
        if !field.is_empty() && *field.value != 0 {
            check.invalid(&field, "needs to be unset");
        }
    }
}

fn cells(event: &Value, cx: &HookContext) -> Vec<Value> {
    let at = At::root(event);
    let now = cx.request.now;
    // Either form may be printed.
    let either = |core: &str, newer: &str| Some(at.get(core)).filter(At::is_set).unwrap_or_else(|| at.get(newer));
    let (first_stamp, last_stamp) =
        (either("firstTimestamp", "deprecatedFirstTimestamp"), either("lastTimestamp", "deprecatedLastTimestamp"));
    let event_time = at.get("eventTime");
    let first = if first_stamp.is_set() { since(&first_stamp, now) } else { since(&event_time, now) };
    let last = if last_stamp.is_set() { since(&last_stamp, now) } else { first.clone() };
    let series = at.get("series");
    let mut count = either("count", "deprecatedCount").number();
    let mut last_seen = last;
    if series.is_set() {
        last_seen = since(&series.get("lastObservedTime"), now);
        count = series.get("count").number();
    } else if count == 0 {
        count = 1;
    }
    let object = either("involvedObject", "regarding");
    let target = format!("{}/{}", object.get("kind").str().to_lowercase(), object.get("name").str());
    let source = either("source", "deprecatedSource");
    let first_of = |list: [At; 3]| list.iter().map(At::str).find(|s| !s.is_empty()).unwrap_or_default().to_owned();
    let component = first_of([at.get("reportingComponent"), at.get("reportingController"), source.get("component")]);
    let host = first_of([at.get("reportingInstance"), source.get("host"), At::root(&Value::Null)]);
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        last_seen.into(),
        text(&at.get("type")),
        text(&at.get("reason")),
        target.into(),
        text(&object.get("fieldPath")),
        source.into(),
        either("message", "note").str().trim().into(),
        first.into(),
        count.into(),
        text(&at.get("metadata.name")),
    ]
}
