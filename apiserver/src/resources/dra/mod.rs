//! Dynamic resource allocation: claims, classes, slices. Follows upstream's resource.k8s.io strategies and printers; the
//! rules are in `rules` (what all share), `claim` and `slice`.

mod claim;
mod rules;
mod slice;

use apimachinery::validation as names;
use serde_json::Value;

use super::check::{At, Check};
use super::core::quantities;
use super::edit::{array_mut, set_absent};
use super::printing::{age, name, text};
use super::{NameRule, Strategy, meta};

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
    rules::selectors(check, &spec.get("selectors"));
    if check.at_most(&spec.get("config"), rules::MAX_ITEMS) {
        spec.get("config").items().for_each(|config| rules::opaque(check, &config));
    }
    let resource = spec.get("extendedResourceName");
    if resource.is_set() && !quantities::is_extended(resource.str()) {
        check.invalid(&resource, "must be a valid extended resource name");
    }
}

/// The resourceclaims resource: what is asked for never changes.
pub const CLAIM: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |claim, cx| {
        let mut check = meta::checked(claim, cx);
        claim::spec(&mut check, &At::root(claim).get("spec.devices"));
        check.errors
    },
    validate_update: |claim, old, cx| {
        let mut check = meta::checked(claim, cx);
        let (new, old) = (At::root(claim), At::root(old));
        meta::update(&mut check, &new, &old);
        check.immutable(&new.get("spec"), &old.get("spec"));
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
        } else if states.is_empty() {
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
        claim::status(&mut check, &new, &old);
        check.errors
    },
    ..Strategy::DEFAULT
};

/// The resourceclaimtemplates resource.
pub const CLAIM_TEMPLATE: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |template, cx| {
        let mut check = meta::checked(template, cx);
        claim_template(&mut check, &At::root(template).get("spec"));
        check.errors
    },
    validate_update: |template, old, cx| {
        let mut check = meta::checked(template, cx);
        let (new, old) = (At::root(template), At::root(old));
        claim_template(&mut check, &new.get("spec"));
        meta::update(&mut check, &new, &old);
        check.immutable(&new.get("spec"), &old.get("spec"));
        check.errors
    },
    cells: DEVICE_CLASS.cells,
    ..Strategy::DEFAULT
};

fn claim_template(check: &mut Check, at: &At) {
    check.template_meta(&at.get("metadata"));
    claim::spec(check, &at.get("spec.devices"));
}

/// The resourceslices resource.
pub const SLICE: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |slice, cx| {
        (Strategy::DEFAULT.default)(slice, cx);
        let now = apimachinery::time::format_time(cx.request.now);
        for device in array_mut(&mut slice["spec"], "devices") {
            array_mut(device, "taints").iter_mut().for_each(|taint| set_absent(taint, "timeAdded", now.as_str()));
        }
    },
    validate: |slice, cx| {
        let mut check = meta::checked(slice, cx);
        slice::spec(&mut check, &At::root(slice).get("spec"), &At::root(&Value::Null));
        check.errors
    },
    warnings: |slice, _| {
        let driver = slice["spec"]["driver"].as_str().unwrap_or_default();
        let upper = driver != driver.to_lowercase();
        upper.then(|| "spec.driver: driver names should be lowercase".to_owned()).into_iter().collect()
    },
    validate_update: |slice, old, _| {
        let mut check = Check::new();
        let (new, old) = (At::root(slice), At::root(old));
        meta::update(&mut check, &new, &old);
        slice::spec(&mut check, &new.get("spec"), &old.get("spec"));
        for field in ["spec.driver", "spec.nodeName", "spec.pool.name"] {
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
