//! The storage group: classes, drivers, attachments. Follows upstream's storage validation and printers.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::field::Path;
use apimachinery::quantity::Quantity;
use apimachinery::validation as names;
use serde_json::{Value, json};

use super::check::{At, Check, same};
use super::core::claims;
use super::core::pod::volumes::csi_driver_name;
use super::core::pod::warnings::{expression_labels, map_labels};
use super::edit::{at_mut, remove, set, set_absent};
use super::printing::{NONE, UNSET, age, flag, name, shown_or, text};
use super::{HookContext, NameRule, Strategy, meta};

/// Entries of a parameter map: keys must not be empty, and the whole at most 512 entries of 256 KiB.
fn parameters(check: &mut Check, at: &At) {
    const MAX_BYTES: usize = 256 * 1024;
    let mut total_bytes = 0;
    for (key, value) in at.entries() {
        if key.is_empty() {
            check.invalid(at, "field can not be empty.");
        }
        total_bytes += key.len() + value.len();
    }
    if at.len() > 512 {
        check.too_long(&at.under(Path::new("Provisioner Parameters Length")), 512);
    }
    if total_bytes > MAX_BYTES {
        check.too_long(at, MAX_BYTES);
    }
}

/// The storageclasses resource.
pub const STORAGE_CLASS: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |class, cx| {
        (Strategy::DEFAULT.default)(class, cx);
        set_absent(class, "reclaimPolicy", "Delete");
        set_absent(class, "volumeBindingMode", "Immediate");
    },
    validate: |class, cx| {
        let mut check = meta::checked(class, cx);
        storage_class(&mut check, &At::root(class));
        check.errors
    },
    validate_update: |class, old, cx| {
        let mut check = meta::checked(class, cx);
        let (new, old) = (At::root(class), At::root(old));
        storage_class(&mut check, &new);
        meta::update(&mut check, &new, &old);
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            check.immutable(&new.get(field), &old.get(field));
        }
        check.errors
    },
    cells: Some(|class, cx| {
        const DEFAULT: [&str; 2] =
            ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
        let class = At::root(class);
        let mut shown = class.get("metadata.name").str().to_owned();
        if DEFAULT.iter().any(|key| class.get("metadata.annotations").entry(key).str() == "true") {
            shown += " (default)";
        }
        vec![
            shown.into(),
            text(&class.get("provisioner")),
            shown_or(&class.get("reclaimPolicy"), "Delete"),
            shown_or(&class.get("volumeBindingMode"), UNSET),
            flag(&class.get("allowVolumeExpansion")),
            age(&class, cx.request.now),
        ]
    }),
    warnings: |class, _| {
        let mut found = Vec::new();
        for term in At::root(class).get("allowedTopologies").items() {
            expression_labels(&mut found, &term.get("matchLabelExpressions"));
        }
        found
    },
    ..Strategy::DEFAULT
};

/// Who makes volumes: a qualified name in any case.
fn provisioner(check: &mut Check, at: &At) {
    if check.present(at) {
        for complaint in names::qualified_name(&at.str().to_lowercase()) {
            check.invalid(at, complaint);
        }
    }
}

fn storage_class(check: &mut Check, class: &At) {
    provisioner(check, &class.get("provisioner"));
    parameters(check, &class.get("parameters"));
    if !class.get("reclaimPolicy").is_empty() {
        check.one_of(&class.get("reclaimPolicy"), &["Delete", "Retain"]);
    }
    check.one_of(&class.get("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
    // Upstream compares with as many empty terms as there are terms, and then with those before.
    let topologies = class.get("allowedTopologies");
    let mut terms: Vec<BTreeMap<&str, BTreeSet<&str>>> = vec![BTreeMap::new(); topologies.len()];
    for term in topologies.items() {
        let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for expression in term.get("matchLabelExpressions").items() {
            let (key, values) = (expression.get("key"), expression.get("values"));
            check.present(&values);
            let repeated = values.items().enumerate().filter(|(i, v)| values.strings().take(*i).any(|s| s == v.str()));
            repeated.for_each(|(_, value)| check.duplicate(&value));
            check.format(&key, names::qualified_name);
            if keys.insert(key.str(), values.strings().collect()).is_some() {
                check.duplicate(&key);
            }
        }
        for _ in terms.iter().filter(|other| **other == keys) {
            check.duplicate(&term.get("matchLabelExpressions"));
        }
        terms.push(keys);
    }
}

/// The volumeattributesclasses resource.
pub const VOLUME_ATTRIBUTES_CLASS: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |class, cx| {
        let mut check = meta::checked(class, cx);
        attributes_class(&mut check, &At::root(class));
        check.errors
    },
    validate_update: |class, old, cx| {
        let mut check = meta::checked(class, cx);
        let (new, old) = (At::root(class), At::root(old));
        attributes_class(&mut check, &new);
        meta::update(&mut check, &new, &old);
        for field in ["driverName", "parameters"].iter().filter(|f| !same(new.get(f).value, old.get(f).value)) {
            check.forbidden(&new.get(field), "updates to this field are forbidden.");
        }
        check.errors
    },
    cells: Some(|class, cx| {
        let class = At::root(class);
        vec![name(&class), text(&class.get("driverName")), age(&class, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

fn attributes_class(check: &mut Check, class: &At) {
    provisioner(check, &class.get("driverName"));
    check.present(&class.get("parameters"));
    parameters(check, &class.get("parameters"));
}

/// The csidrivers resource.
pub const CSI_DRIVER: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |driver, cx| {
        (Strategy::DEFAULT.default)(driver, cx);
        set_absent(driver, "spec", json!({}));
        at_mut(driver, "spec", |spec| {
            for (field, value) in [
                ("attachRequired", true),
                ("podInfoOnMount", false),
                ("storageCapacity", false),
                ("requiresRepublish", false),
                ("seLinuxMount", false),
            ] {
                set_absent(spec, field, value);
            }
            set_absent(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            if At::root(spec).get("volumeLifecycleModes").is_empty() {
                set(spec, "volumeLifecycleModes", json!(["Persistent"]));
            }
        });
    },
    validate: |driver, cx| {
        let mut check = meta::checked(driver, cx);
        csi_driver(&mut check, &At::root(driver).get("spec"));
        check.errors
    },
    validate_update: |driver, old, _| {
        let mut check = Check::new();
        let (new, old) = (At::root(driver), At::root(old));
        meta::update(&mut check, &new, &old);
        let (spec, old_spec) = (new.get("spec"), old.get("spec"));
        csi_driver(&mut check, &spec);
        check.immutable(
            &spec.get("attachRequired").under(spec.path.child("attachedRequired")),
            &old_spec.get("attachRequired"),
        );
        check.immutable(&spec.get("volumeLifecycleModes"), &old_spec.get("volumeLifecycleModes"));
        check.errors
    },
    warnings: |driver, old| {
        let requests = |driver: &Value| driver["spec"]["tokenRequests"].as_array().is_some_and(|r| !r.is_empty());
        let undecided = driver["spec"]["serviceAccountTokenInSecrets"].is_null();
        let new = requests(driver) && !old.is_some_and(requests) && undecided;
        let sentence =
            "spec.tokenRequests: tokens go to the volume context unless spec.serviceAccountTokenInSecrets is true";
        new.then(|| sentence.to_owned()).into_iter().collect()
    },
    cells: Some(|driver, cx| {
        let driver = At::root(driver);
        let spec = driver.get("spec");
        let audiences: Vec<&str> = spec.get("tokenRequests").items().map(|r| r.get("audience").str()).collect();
        let modes: Vec<&str> = spec.get("volumeLifecycleModes").strings().collect();
        vec![
            name(&driver),
            if spec.get("attachRequired").is_set() { flag(&spec.get("attachRequired")) } else { true.into() },
            flag(&spec.get("podInfoOnMount")),
            flag(&spec.get("storageCapacity")),
            if audiences.is_empty() { UNSET.into() } else { audiences.join(",").into() },
            flag(&spec.get("requiresRepublish")),
            if modes.is_empty() { NONE.into() } else { modes.join(",").into() },
            age(&driver, cx.request.now),
        ]
    }),
    ..Strategy::DEFAULT
};

fn csi_driver(check: &mut Check, spec: &At) {
    check.one_of(&spec.get("fsGroupPolicy"), &["File", "None", "ReadWriteOnceWithFSType"]);
    let mut seen: Vec<&str> = Vec::new();
    for request in spec.get("tokenRequests").items() {
        let (audience, expiration) = (request.get("audience"), request.get("expirationSeconds"));
        if seen.contains(&audience.str()) {
            check.duplicate(&audience);
        }
        seen.push(audience.str());
        if expiration.is_set() {
            check.range(&expiration, 600, 1 << 32);
        }
    }
    let modes = spec.get("volumeLifecycleModes");
    for mode in modes.items() {
        check.one_of(&mode.under(modes.path.clone()), &["Ephemeral", "Persistent"]);
    }
    let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
    if period.is_set() && period.number() < 10 {
        check.invalid(&period, "must be greater than or equal to 10 seconds");
    }
    let in_secrets = spec.get("serviceAccountTokenInSecrets");
    if in_secrets.is_set() && seen.is_empty() {
        check.invalid(&in_secrets, "is set but no tokenRequests are specified");
    }
}

/// The csinodes resource.
pub const CSI_NODE: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |node, cx| {
        let mut check = meta::checked(node, cx);
        csi_node(&mut check, &At::root(node).get("spec.drivers"));
        check.errors
    },
    validate_update: |node, old, cx| {
        let mut check = meta::checked(node, cx);
        let (now, before) = (At::root(node).get("spec.drivers"), At::root(old).get("spec.drivers"));
        csi_node(&mut check, &now);
        // A driver may come and go; one that stays stays as it is (but for what it can allocate).
        let fixed = |driver: &At| {
            let mut driver = driver.value.clone();
            remove(&mut driver, "allocatable");
            driver
        };
        for driver in before.items() {
            let same_name = now.items().find(|d| d.get("name").str() == driver.get("name").str());
            if same_name.is_some_and(|d| !same(&fixed(&d), &fixed(&driver))) {
                check.invalid(&driver.under(now.path.clone()), "field is immutable");
            }
        }
        check.errors
    },
    cells: Some(|node, cx| {
        let node = At::root(node);
        vec![name(&node), node.get("spec.drivers").len().into(), age(&node, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

fn csi_node(check: &mut Check, drivers: &At) {
    let mut seen: Vec<&str> = Vec::new();
    for driver in drivers.items() {
        let (id, own) = (driver.get("nodeID"), driver.get("name"));
        csi_driver_name(check, &own);
        check.present(&id);
        if id.len() > 256 {
            check.invalid(&id, "must be 256 characters or less");
        }
        if driver.get("allocatable.count").is_set() {
            check.non_negative(&driver.get("allocatable.count"));
        }
        if seen.contains(&own.str()) {
            check.duplicate(&own);
        }
        seen.push(own.str());
        let mut keys: Vec<&str> = Vec::new();
        for key in driver.get("topologyKeys").items() {
            let at = key.under(driver.path.clone());
            if key.is_empty() {
                check.required(&at, "");
            }
            if keys.contains(&key.str()) {
                check.duplicate(&at);
            }
            keys.push(key.str());
            check.format(&at, names::qualified_name);
        }
    }
}

/// The csistoragecapacities resource.
pub const CSI_STORAGE_CAPACITY: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |capacity, cx| {
        let mut check = meta::checked(capacity, cx);
        storage_capacity(&mut check, &At::root(capacity));
        check.errors
    },
    validate_update: |capacity, old, cx| {
        let mut check = meta::checked(capacity, cx);
        let (new, old) = (At::root(capacity), At::root(old));
        storage_capacity(&mut check, &new);
        meta::update(&mut check, &new, &old);
        check.immutable(&new.get("nodeTopology"), &old.get("nodeTopology"));
        check.immutable(&new.get("storageClassName"), &old.get("storageClassName"));
        check.errors
    },
    warnings: |capacity, _| {
        let (mut found, topology) = (Vec::new(), At::root(capacity).get("nodeTopology"));
        map_labels(&mut found, &topology.get("matchLabels"));
        expression_labels(&mut found, &topology.get("matchExpressions"));
        found
    },
    ..Strategy::DEFAULT
};

fn storage_capacity(check: &mut Check, capacity: &At) {
    check.format(&capacity.get("storageClassName"), names::dns1123_subdomain);
    if capacity.get("capacity").quantity() < Quantity::default() {
        check.invalid(&capacity.get("capacity"), "must be greater than or equal to 0");
    }
    check.label_selector(&capacity.get("nodeTopology"));
}

/// The volumeattachments resource.
pub const VOLUME_ATTACHMENT: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |attachment, cx| {
        let mut check = meta::checked(attachment, cx);
        volume_attachment(&mut check, &At::root(attachment));
        check.errors
    },
    validate_update: |attachment, old, cx| {
        let mut check = meta::checked(attachment, cx);
        let new = At::root(attachment);
        volume_attachment(&mut check, &new);
        if !same(new.get("spec").value, &old["spec"]) {
            check.invalid(&new.get("spec"), "field is immutable");
        }
        check.errors
    },
    cells: Some(|attachment, cx| {
        let at = At::root(attachment);
        let spec = at.get("spec");
        vec![
            name(&at),
            text(&spec.get("attacher")),
            text(&spec.get("source.persistentVolumeName")),
            text(&spec.get("nodeName")),
            flag(&at.get("status.attached")),
            age(&at, cx.request.now),
        ]
    }),
    ..Strategy::DEFAULT
};

/// `volumeattachments/status`.
pub const VOLUME_ATTACHMENT_STATUS: Strategy = Strategy {
    validate_update: |attachment, _, cx: &HookContext| {
        let mut check = meta::checked(attachment, cx);
        volume_attachment(&mut check, &At::root(attachment));
        check.errors
    },
    ..Strategy::DEFAULT
};

fn volume_attachment(check: &mut Check, attachment: &At) {
    let (spec, status) = (attachment.get("spec"), attachment.get("status"));
    csi_driver_name(check, &spec.get("attacher"));
    let (by_name, inline) = (spec.get("source.persistentVolumeName"), spec.get("source.inlineVolumeSpec"));
    match (by_name.is_set(), inline.is_set()) {
        (true, true) => check
            .forbidden(&spec.get("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (false, false) => {
            check
                .required(&spec.get("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
        }
        (true, false) => {
            check.present(&by_name);
        }
        (false, true) => {
            let wrapped = json!({ "spec": inline.value });
            let mut own = Check::new();
            claims::volume_spec(&mut own, &At::root(&wrapped));
            // In-line volumes have no capacity of their own; everything else is reported below the source.
            let below = own.errors.into_iter().filter(|e| !e.path.to_string().starts_with("spec.capacity"));
            check.errors.extend(below.map(|mut error| {
                let field = error.path.to_string();
                error.path = inline.path.child(field.trim_start_matches("spec."));
                error
            }));
        }
    }
    if by_name.is_set() {
        check.format(&by_name, names::dns1123_subdomain);
    }
    check.format(&spec.get("nodeName"), names::dns1123_subdomain);
    for field in ["attachError", "detachError"] {
        let message = status.get(field).get("message");
        if message.len() > 4096 {
            check.too_long(&message, 4096);
        }
    }
    parameters(check, &status.get("attachmentMetadata"));
}
