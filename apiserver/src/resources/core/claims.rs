//! Persistent volumes and the claims on them. Follows upstream's `ValidatePersistentVolume*` and
//! `ValidatePersistentVolumeClaim*`.

use apimachinery::field::{ErrorList, Path};
use apimachinery::quantity::Quantity;
use apimachinery::validation as names;
use serde_json::Value;

use super::pod::warnings::expression_labels;
use super::pod::{PodRules, scheduling, volumes};
use crate::resources::check::{At, Check, same};
use crate::resources::edit::{at_mut, copy, edit_map, remove, set};
use crate::resources::printing::{UNSET, access_modes, age, name, shown_or, text};
use crate::resources::{HookContext, NameRule, Strategy, meta};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The persistentvolumeclaims resource.
pub const CLAIM: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    prepare_create: |claim, _| {
        set(claim, "status", serde_json::json!({"phase": "Pending"}));
        at_mut(claim, "spec", |spec| data_source(spec, &Value::Null));
    },
    prepare_update: |claim, old, _| at_mut(claim, "spec", |spec| data_source(spec, &old["spec"])),
    warnings: |claim, _| claim_warnings(&At::root(claim)),
    validate: |claim, cx| {
        let mut check = meta::checked(claim, cx);
        spec(&mut check, &At::root(claim).get("spec"));
        check.errors
    },
    validate_update: update_claim,
    completed_on_update: true,
    cells: Some(claim_cells),
    ..Strategy::DEFAULT
};

/// `persistentvolumeclaims/status`.
pub const CLAIM_STATUS: Strategy = Strategy { validate_update: claim_status, ..Strategy::DEFAULT };

/// Both forms of the data source carry one value. Sources in other namespaces need a feature that is off by default.
fn data_source(spec: &mut Value, old: &Value) {
    let foreign = |spec: &Value| !spec["dataSourceRef"]["namespace"].as_str().unwrap_or_default().is_empty();
    if foreign(spec) && old["dataSourceRef"].is_null() {
        remove(spec, "dataSourceRef");
    }
    let source = &spec["dataSource"];
    let known = [("", "PersistentVolumeClaim"), ("snapshot.storage.k8s.io", "VolumeSnapshot")];
    let given = (source["apiGroup"].as_str().unwrap_or_default(), source["kind"].as_str().unwrap_or_default());
    // Anything else has to come as dataSourceRef, unless it is there already.
    if old["dataSource"].is_null() && spec["dataSourceRef"].is_null() && !known.contains(&given) {
        remove(spec, "dataSource");
    }
    match (spec["dataSource"].is_object(), spec["dataSourceRef"].is_object()) {
        (true, false) => {
            let source = spec["dataSource"].clone();
            set(spec, "dataSourceRef", source);
        }
        (false, true) if !foreign(spec) => {
            let mut source = spec["dataSourceRef"].clone();
            remove(&mut source, "namespace");
            set(spec, "dataSource", source);
        }
        _ => {}
    }
}

/// What is said of a class given the old way.
fn class_warning(object: &At) -> Option<String> {
    let sentence = "deprecated since v1.8; use the field storageClassName";
    class(object).is_set().then(|| format!("metadata.annotations[{BETA_CLASS}]: {sentence}"))
}

fn claim_warnings(claim: &At) -> Vec<String> {
    let mut found: Vec<String> = class_warning(claim).into_iter().collect();
    size_warnings(&mut found, &claim.get("spec"));
    found
}

/// Sizes with a fraction of a byte, in a claim's spec.
pub fn size_warnings(out: &mut Vec<String>, spec: &At) {
    for field in ["requests", "limits"] {
        let size = spec.get("resources").get(field).entry("storage");
        if size.quantity().milli() % 1000 != 0 {
            out.push(format!("{}: a fraction of a byte is not a size", size.path));
        }
    }
}

/// Upstream's `GetWarningsForPersistentVolume`.
fn volume_warnings(volume: &At) -> Vec<String> {
    let spec = volume.get("spec");
    let mut found: Vec<String> = class_warning(volume).into_iter().collect();
    if spec.get("persistentVolumeReclaimPolicy").str() == "Recycle" {
        found.push(
            "spec.persistentVolumeReclaimPolicy: Recycle is deprecated; provision volumes dynamically".to_owned(),
        );
    }
    let terms = spec.get("nodeAffinity.required.nodeSelectorTerms");
    terms.items().for_each(|term| expression_labels(&mut found, &term.get("matchExpressions")));
    const GONE: [(&str, &str); 8] = [
        ("photonPersistentDisk", "v1.11, non-functional in v1.16+"),
        ("scaleIO", "v1.16, non-functional in v1.22+"),
        ("storageos", "v1.22, non-functional in v1.25+"),
        ("glusterfs", "v1.25, non-functional in v1.26+"),
        ("quobyte", "v1.22, non-functional in v1.25+"),
        ("flocker", "v1.22, non-functional in v1.25+"),
        ("cephfs", "v1.28, non-functional in v1.31+"),
        ("rbd", "v1.28, non-functional in v1.31+"),
    ];
    let gone = GONE.iter().filter(|(field, _)| spec.get(field).is_set());
    found.extend(gone.map(|(field, since)| format!("spec.{field}: deprecated in {since}")));
    found
}

fn modes(check: &mut Check, at: &At) {
    if at.is_empty() {
        check.required(at, "at least 1 access mode is required");
    }
    for mode in at.items() {
        check.one_of(&mode.under(at.path.clone()), &ACCESS_MODES);
    }
    let known: Vec<&str> = at.strings().filter(|m| ACCESS_MODES.contains(m)).collect();
    if known.contains(&"ReadWriteOncePod") && known.iter().any(|m| *m != "ReadWriteOncePod") {
        check.forbidden(at, "may not use ReadWriteOncePod with other access modes");
    }
}

/// A claim's spec, also in templates.
pub fn spec(check: &mut Check, at: &At) {
    modes(check, &at.get("accessModes"));
    check.label_selector(&at.get("selector"));
    let storage = at.get("resources.requests.storage").under(at.get("resources").path.key("storage"));
    if !storage.is_set() {
        check.required(&storage, "");
    } else if storage.quantity() <= Quantity::default() {
        check.invalid(&storage, "must be greater than zero");
    }
    check.format_if_set(&at.get("storageClassName"), names::dns1123_subdomain);
    check.one_of(&at.get("volumeMode"), &["Block", "Filesystem"]);
    let (source, reference) = (at.get("dataSource"), at.get("dataSourceRef"));
    for data in [&source, &reference].into_iter().filter(|d| d.is_set()) {
        check.present_all(data, &["name", "kind"]);
        if data.get("apiGroup").is_empty() && data.get("kind").str() != "PersistentVolumeClaim" {
            check.invalid(data, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
        }
        check.format_if_set(&data.get("apiGroup"), names::dns1123_subdomain);
        check.format_if_set(&data.get("namespace"), names::dns1123_label);
    }
    let differ = ["apiGroup", "kind", "name"].iter().any(|f| source.get(f).value != reference.get(f).value);
    if source.is_set() && reference.is_set() && (differ || !reference.get("namespace").is_empty()) {
        check.invalid(at, "dataSource must match dataSourceRef");
    }
    check.format_if_set(&at.get("volumeAttributesClassName"), names::dns1123_subdomain);
}

fn class<'a>(object: &At<'a>) -> At<'a> {
    object.get("metadata.annotations").entry(BETA_CLASS)
}

fn update_claim(claim: &Value, old: &Value, cx: &HookContext) -> ErrorList {
    let mut check = Check::new();
    let (new, old) = (At::root(claim), At::root(old));
    meta::update(&mut check, &new, &old);
    meta::create(&mut check, &new, cx);
    spec(&mut check, &new.get("spec"));
    if class(&new).str() != class(&old).str() {
        check.invalid(
            &class(&new).under(Path::new("metadata").child("annotations").child(BETA_CLASS)),
            "field is immutable",
        );
    }
    // What may change is made equal, then the rest is compared.
    let mut munged = new.get("spec").value.clone();
    let before = old.get("spec").value;
    if old.get("spec.volumeName").is_empty() {
        copy(&mut munged, before, "volumeName");
    }
    if before["storageClassName"].is_null()
        && (!class(&old).is_set() || *class(&old).value == munged["storageClassName"])
    {
        copy(&mut munged, before, "storageClassName");
    }
    if new.get("status.phase").str() == "Bound" {
        at_mut(&mut munged, "resources", |resources| {
            let storage = before.pointer("/resources/requests/storage").cloned();
            edit_map(resources, "requests", |requests| {
                requests.extend(storage.map(|amount| ("storage".to_owned(), amount)));
            });
        });
        if munged.get("volumeAttributesClassName").is_some() {
            copy(&mut munged, before, "volumeAttributesClassName");
        }
    }
    if !same(&munged, before) {
        check.forbidden(
            &new.get("spec"),
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let (size, old_size) = (new.get("spec.resources.requests.storage"), old.get("spec.resources.requests.storage"));
    if size.quantity() < old_size.quantity() && size.quantity() <= old.get("status.capacity.storage").quantity() {
        check.forbidden(&size, "field can not be less than status.capacity");
    }
    check.immutable(&new.get("spec.volumeMode").under(Path::new("volumeMode")), &old.get("spec.volumeMode"));
    let (attributes, old_attributes) =
        (new.get("spec.volumeAttributesClassName"), old.get("spec.volumeAttributesClassName"));
    if old_attributes.is_set() && attributes.is_empty() {
        check.forbidden(&attributes, "update from non-nil value to nil or an empty string is forbidden");
    }
    check.errors
}

fn claim_status(claim: &Value, old: &Value, _: &HookContext) -> ErrorList {
    const RESIZE: [&str; 5] = [
        "ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizePending", "NodeResizeInProgress",
        "NodeResizeInfeasible",
    ];
    let mut check = Check::new();
    let new = At::root(claim);
    meta::update(&mut check, &new, &At::root(old));
    let status = new.get("status");
    for (_, amount) in status.get("capacity").entries().filter(|(_, a)| a.quantity() < Quantity::default()) {
        check.invalid(&amount, "must be a valid resource quantity");
    }
    let states = status.get("allocatedResourceStatuses");
    for (resource, state) in states.entries() {
        resource_key(&mut check, resource, &states);
        check.one_of(&state.under(states.path.clone()), &RESIZE);
    }
    let allocated = status.get("allocatedResources");
    for (resource, amount) in allocated.entries() {
        if resource_key(&mut check, resource, &allocated) && amount.quantity() < Quantity::default() {
            check.invalid(&amount, "must be a valid resource quantity");
        }
    }
    check.errors
}

fn resource_key(check: &mut Check, resource: &str, at: &At) -> bool {
    let complaints = names::qualified_name(resource);
    for complaint in &complaints {
        check.invalid(at, complaint.clone());
    }
    let foreign = complaints.is_empty() && super::quantities::is_native(resource) && resource != "storage";
    if foreign {
        check.not_supported(at, &["storage"]);
    }
    complaints.is_empty() && !foreign
}

fn claim_cells(claim: &Value, cx: &HookContext) -> Vec<Value> {
    let claim = At::root(claim);
    let (spec, status) = (claim.get("spec"), claim.get("status"));
    let phase =
        if claim.get("metadata.deletionTimestamp").is_set() { "Terminating" } else { status.get("phase").str() };
    let bound = !spec.get("volumeName").is_empty();
    let class = claim.get("metadata.annotations").entry(BETA_CLASS);
    vec![
        name(&claim),
        phase.into(),
        text(&spec.get("volumeName")),
        if bound { status.get("capacity.storage").quantity().to_string().into() } else { "".into() },
        if bound { access_modes(&status.get("accessModes")) } else { "".into() },
        if class.is_set() { text(&class) } else { text(&spec.get("storageClassName")) },
        shown_or(&spec.get("volumeAttributesClassName"), UNSET),
        age(&claim, cx.request.now),
        shown_or(&spec.get("volumeMode"), UNSET),
    ]
}

/// The persistentvolumes resource.
pub const VOLUME: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    prepare_create: |volume, cx| {
        let now = apimachinery::time::format_time(cx.request.now);
        crate::resources::edit::set(
            volume,
            "status",
            serde_json::json!({"phase": "Pending", "lastPhaseTransitionTime": now}),
        );
    },
    validate: |volume, cx| {
        let mut check = meta::checked(volume, cx);
        volume_spec(&mut check, &At::root(volume));
        check.errors
    },
    validate_update: update_volume,
    warnings: |volume, _| volume_warnings(&At::root(volume)),
    cells: Some(volume_cells),
    ..Strategy::DEFAULT
};

/// `persistentvolumes/status`; a change of phase is dated.
pub const VOLUME_STATUS: Strategy = Strategy {
    prepare_update: |volume, old, cx| {
        let changed = volume["status"]["phase"] != old["status"]["phase"];
        let (since, before) = (&volume["status"]["lastPhaseTransitionTime"], &old["status"]["lastPhaseTransitionTime"]);
        let (unset, kept) = (since.is_null(), since == before);
        at_mut(volume, "status", |status| {
            if changed && (unset || kept) {
                set(status, "lastPhaseTransitionTime", apimachinery::time::format_time(cx.request.now));
            } else if unset {
                copy(status, &old["status"], "lastPhaseTransitionTime");
            }
        });
    },
    validate_update: |volume, old, _| {
        let mut check = Check::new();
        meta::update(&mut check, &At::root(volume), &At::root(old));
        check.errors
    },
    ..Strategy::DEFAULT
};

type SourceRule = fn(&mut Check, &At, &PodRules);

/// Volume sources: field, the name in errors, demanded fields, rule.
const SOURCES: [(&str, &str, &[&str], Option<SourceRule>); 22] = [
    ("hostPath", "hostPath", &[], Some(volumes::host_path)),
    ("gcePersistentDisk", "persistentDisk", &["pdName"], Some(volumes::partition)),
    ("awsElasticBlockStore", "awsElasticBlockStore", &["volumeID"], Some(volumes::partition)),
    ("glusterfs", "glusterfs", &["endpoints", "path"], None),
    ("flocker", "flocker", &[], Some(volumes::flocker)),
    ("nfs", "nfs", &["server", "path"], Some(volumes::nfs)),
    ("rbd", "rbd", &["monitors", "image"], None),
    ("quobyte", "quobyte", &[], Some(volumes::quobyte)),
    ("cephfs", "cephfs", &["monitors"], None),
    ("iscsi", "iscsi", &["targetPortal"], Some(volumes::iscsi)),
    ("cinder", "cinder", &["volumeID"], None),
    ("fc", "fc", &[], Some(volumes::fibre_channel)),
    ("flexVolume", "flexVolume", &["driver"], Some(volumes::flex_options)),
    ("azureFile", "azureFile", &["secretName", "shareName"], None),
    ("vsphereVolume", "vsphereVolume", &["volumePath"], None),
    ("photonPersistentDisk", "photonPersistentDisk", &["pdID"], None),
    ("portworxVolume", "portworxVolume", &["volumeID"], None),
    ("azureDisk", "azureDisk", &["diskName", "diskURI"], Some(volumes::azure_disk)),
    ("scaleIO", "scaleIO", &["gateway", "system", "volumeName"], None),
    ("local", "local", &["path"], Some(|check, at, _| volumes::no_backsteps(check, &at.get("path")))),
    ("storageos", "storageos", &["volumeName"], None),
    ("csi", "csi", &[], Some(csi)),
];

fn csi(check: &mut Check, at: &At, _: &PodRules) {
    volumes::csi_driver_name(check, &at.get("driver"));
    check.present(&at.get("volumeHandle"));
    for secret in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        let at = at.get(secret);
        if at.is_set() {
            check.present_format(&at.get("name"), names::dns1123_subdomain);
            check.present_format(&at.get("namespace"), names::dns1123_label);
        }
    }
}

/// The rules of a volume; a VolumeAttachment's in-line volume has fewer.
pub fn volume_spec(check: &mut Check, volume: &At) {
    let at = volume.get("spec");
    modes(check, &at.get("accessModes"));
    let capacity = at.get("capacity");
    check.present(&capacity);
    if capacity.len() != 1 || !capacity.entry("storage").is_set() {
        check.not_supported(&capacity, &["storage"]);
    }
    for (_, amount) in capacity.entries() {
        if amount.quantity() < Quantity::default() {
            check.invalid(&amount, "must be a valid resource quantity");
        }
        if amount.quantity() <= Quantity::default() {
            check.invalid(&amount, "must be greater than zero");
        }
    }
    let reclaim = at.get("persistentVolumeReclaimPolicy");
    check.one_of(&reclaim, &["Delete", "Recycle", "Retain"]);
    let affinity = at.get("nodeAffinity");
    if affinity.is_set() {
        if affinity.get("required").is_set() {
            scheduling::node_selector(check, &affinity.get("required"));
        } else {
            check.required(&affinity.get("required"), "must specify required node constraints");
        }
    }
    volume_sources(check, &at);
    let path = at.get("hostPath.path").str();
    if !path.is_empty() && path.split('/').all(|p| p.is_empty() || p == ".") && reclaim.str() == "Recycle" {
        check.forbidden(&reclaim, "may not be 'recycle' for a hostPath mount of '/'");
    }
    check.format_if_set(&at.get("storageClassName"), names::dns1123_subdomain);
    check.one_of(&at.get("volumeMode"), &["Block", "Filesystem"]);
    let attributes = at.get("volumeAttributesClassName");
    if attributes.is_set() {
        check.present_format(&attributes, names::dns1123_subdomain);
        if !at.get("csi").is_set() {
            check.required(&at.get("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn volume_sources(check: &mut Check, at: &At) {
    let mut found = false;
    for (field, reported_as, required, rule) in &SOURCES {
        let source = at.get(field);
        if !source.is_set() {
            continue;
        }
        // Upstream overlooks a flex volume that comes second.
        if found && *field != "flexVolume" {
            let refused_as = if *field == "cephfs" { "cephFS" } else { *field };
            check.forbidden(&source.under(at.path.child(refused_as)), "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        let source = source.under(at.path.child(reported_as));
        check.present_all(&source, required);
        if let Some(rule) = rule {
            rule(check, &source, &PodRules::default());
        }
        if *field == "local" && !at.get("nodeAffinity").is_set() {
            check.required(&at.get("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if !found {
        check.required(at, "must specify a volume type");
    }
}

fn update_volume(volume: &Value, old: &Value, cx: &HookContext) -> ErrorList {
    let mut check = Check::new();
    let (new, old) = (At::root(volume), At::root(old));
    // Upstream has the rules of a new volume twice here, and clients see their causes doubled.
    for _ in 0..2 {
        meta::create(&mut check, &new, cx);
        volume_spec(&mut check, &new);
    }
    let mut now = new.get("spec").value.clone();
    let before = old.get("spec").value;
    if before.pointer("/csi").is_some() && before.pointer("/csi/controllerExpandSecretRef").is_none() {
        at_mut(&mut now, "csi", |csi| drop(remove(csi, "controllerExpandSecretRef")));
    }
    if SOURCES.iter().any(|(field, ..)| !same(&now[*field], &before[*field])) {
        let path = Path::new("spec").child("persistentvolumesource");
        check.forbidden(&new.under(path), "spec.persistentvolumesource is immutable after creation");
    }
    check.immutable(&new.get("spec.volumeMode").under(Path::new("volumeMode")), &old.get("spec.volumeMode"));
    if old.get("spec.nodeAffinity").is_set() {
        check.immutable(&new.get("spec.nodeAffinity").under(Path::new("nodeAffinity")), &old.get("spec.nodeAffinity"));
    }
    let attributes = new.get("spec.volumeAttributesClassName");
    if old.get("spec.volumeAttributesClassName").is_set() && !attributes.is_set() {
        check.forbidden(&attributes, "update from non-nil value to nil is forbidden");
    }
    check.errors
}

fn volume_cells(volume: &Value, cx: &HookContext) -> Vec<Value> {
    let volume = At::root(volume);
    let (spec, status) = (volume.get("spec"), volume.get("status"));
    let phase =
        if volume.get("metadata.deletionTimestamp").is_set() { "Terminating" } else { status.get("phase").str() };
    let claim = spec.get("claimRef");
    let claim = if claim.is_set() {
        format!("{}/{}", claim.get("namespace").str(), claim.get("name").str())
    } else {
        String::new()
    };
    let class = volume.get("metadata.annotations").entry(BETA_CLASS);
    vec![
        name(&volume),
        text(&spec.get("capacity.storage")),
        access_modes(&spec.get("accessModes")),
        text(&spec.get("persistentVolumeReclaimPolicy")),
        phase.into(),
        claim.into(),
        if class.is_set() { text(&class) } else { text(&spec.get("storageClassName")) },
        shown_or(&spec.get("volumeAttributesClassName"), UNSET),
        text(&status.get("reason")),
        age(&volume, cx.request.now),
        shown_or(&spec.get("volumeMode"), UNSET),
    ]
}
