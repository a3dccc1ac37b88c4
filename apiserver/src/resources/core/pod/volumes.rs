//! Volumes of a pod: exactly one source each, and the rules of every source. Most sources only demand some fields, which
//! is data (`SOURCES`); the rest have a function. Follows upstream's `validateVolumeSource`, including the places where
//! its paths differ from the field's (`persistentDisk`, `cephfs`, `downwardAPI` items without an index).

use apimachinery::validation as names;
use regex::Regex;
use std::sync::LazyLock;

use super::super::claims;
use super::PodRules;
use crate::resources::check::{At, Check};

type Rule = fn(&mut Check, &At, &PodRules);

/// A source: its field, the names that its errors and a second source's refusal carry, the fields it demands, and a rule
/// of its own.
pub struct Source {
    field: &'static str,
    reported_as: &'static str,
    refused_as: &'static str,
    required: &'static [&'static str],
    rule: Option<Rule>,
}

const fn source(field: &'static str, required: &'static [&'static str], rule: Option<Rule>) -> Source {
    Source { field, reported_as: field, refused_as: field, required, rule }
}

/// Every pod volume source, in the order in which a second one is refused.
static SOURCES: [Source; 30] = [
    source("emptyDir", &[], Some(empty_dir)),
    source("hostPath", &[], Some(host_path)),
    source("gitRepo", &["repository"], Some(|c, at, _| descending_path(c, &at.get("directory")))),
    Source { reported_as: "persistentDisk", ..source("gcePersistentDisk", &["pdName"], Some(partition)) },
    source("awsElasticBlockStore", &["volumeID"], Some(partition)),
    source("secret", &["secretName"], Some(key_items)),
    source("nfs", &["server", "path"], Some(nfs)),
    source("iscsi", &["targetPortal"], Some(iscsi)),
    source("glusterfs", &["endpoints", "path"], None),
    source("flocker", &[], Some(flocker)),
    source("persistentVolumeClaim", &["claimName"], None),
    source("rbd", &["monitors", "image"], None),
    source("cinder", &["volumeID"], Some(secret_ref_name)),
    Source { refused_as: "cephFS", ..source("cephfs", &["monitors"], None) },
    source("quobyte", &[], Some(quobyte)),
    Source { refused_as: "downwarAPI", ..source("downwardAPI", &[], Some(downward_api)) },
    source("fc", &[], Some(fibre_channel)),
    source("flexVolume", &["driver"], Some(flex_options)),
    source("configMap", &["name"], Some(key_items)),
    source("azureFile", &["secretName", "shareName"], None),
    source("vsphereVolume", &["volumePath"], None),
    source("photonPersistentDisk", &["pdID"], None),
    source("portworxVolume", &["volumeID"], None),
    source("azureDisk", &["diskName", "diskURI"], Some(azure_disk)),
    source("storageos", &[], Some(storage_os)),
    source("projected", &[], Some(projected)),
    source("scaleIO", &["gateway", "system", "volumeName"], None),
    source("csi", &[], Some(csi)),
    source("ephemeral", &[], Some(ephemeral)),
    source("image", &[], Some(image)),
];

/// Checks all volumes and returns those that containers may mount: the names of the well-formed ones.
pub fn validate<'a>(check: &mut Check, at: &At<'a>, rules: &PodRules) -> Vec<(&'a str, &'a serde_json::Value)> {
    let created: Vec<String> = at
        .items()
        .filter(|v| rules.pod_name.is_some() && v.get("ephemeral").is_set())
        .map(|v| format!("{}-{}", rules.pod_name.unwrap_or_default(), v.get("name").str()))
        .collect();
    let mut usable: Vec<(&str, &serde_json::Value)> = Vec::new();
    for volume in at.items() {
        let name = volume.get("name");
        let mut own = Check::new();
        validate_source(&mut own, &volume, rules);
        own.present_format(&name, names::dns1123_label);
        if usable.iter().any(|(n, _)| *n == name.str()) {
            own.duplicate(&name);
        }
        if own.failed() {
            check.errors.append(&mut own.errors);
        } else {
            usable.push((name.str(), volume.value));
        }
        let claim = volume.get("persistentVolumeClaim.claimName");
        if claim.is_set() && created.iter().any(|c| c == claim.str()) {
            check.invalid(&claim, "must not reference a PVC that gets created for an ephemeral volume");
        }
    }
    usable
}

fn validate_source(check: &mut Check, volume: &At, rules: &PodRules) {
    let mut found = false;
    for source in &SOURCES {
        let at = volume.get(source.field);
        if !at.is_set() {
            continue;
        }
        if found {
            let at = at.under(volume.path.child(source.refused_as));
            check.forbidden(&at, "may not specify more than 1 volume type");
        } else {
            found = true;
            let at = at.under(volume.path.child(source.reported_as));
            check.present_all(&at, source.required);
            if let Some(rule) = source.rule {
                rule(check, &at, rules);
            }
        }
    }
    if !found {
        check.required(volume, "must specify a volume type");
    }
    let iscsi = volume.get("iscsi");
    let (name, portal) = (volume.get("name"), iscsi.get("targetPortal"));
    if iscsi.get("initiatorName").is_set() && name.len() + portal.len() + 1 > 64 {
        check.invalid(&name, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters");
    }
    if let Some(pod) =
        rules.pod_name.filter(|pod| volume.get("ephemeral").is_set() && !pod.is_empty() && !name.is_empty())
    {
        for complaint in names::dns1123_subdomain(&format!("{pod}-{}", name.str())) {
            check.invalid(&name, complaint);
        }
    }
}

fn empty_dir(check: &mut Check, at: &At, _: &PodRules) {
    if at.get("sizeLimit").quantity() < apimachinery::quantity::Quantity::default() {
        check.forbidden(&at.get("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

/// A path on the host; also a PersistentVolume's.
pub fn host_path(check: &mut Check, at: &At, _: &PodRules) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if check.present(&at.get("path")) {
        no_backsteps(check, &at.get("path"));
        check.one_of(&at.get("type"), &TYPES);
    }
}

/// A partition number of a disk.
pub fn partition(check: &mut Check, at: &At, _: &PodRules) {
    check.range(&at.get("partition"), 0, 255);
}

fn key_items(check: &mut Check, at: &At, _: &PodRules) {
    check.file_mode(&at.get("defaultMode"));
    for item in at.get("items").items() {
        key_to_path(check, &item);
    }
}

fn key_to_path(check: &mut Check, item: &At) {
    check.present_all(item, &["key", "path"]);
    local_path(check, &item.get("path"));
    check.file_mode(&item.get("mode"));
}

/// An export; the path must be absolute.
pub fn nfs(check: &mut Check, at: &At, _: &PodRules) {
    if !at.get("path").str().starts_with('/') {
        check.invalid(&at.get("path"), "must be an absolute path");
    }
}

/// The rules that an in-line iSCSI volume shares with a PersistentVolume's.
pub fn iscsi(check: &mut Check, at: &At, _: &PodRules) {
    static IQN: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"iqn\.\d{4}-\d{2}\.([[:alnum:]\-.]+)(:[^,;*&$|\s]+)$").ok());
    let alphanumeric = |s: &str, prefix: &str, n: usize| {
        s.strip_prefix(prefix)
            .is_some_and(|rest| rest.len() == n + 1 && rest.chars().skip(1).all(|c| c.is_ascii_alphanumeric()))
    };
    let valid = |s: &str| match s.get(..3) {
        Some("iqn") => IQN.as_ref().is_some_and(|re| re.is_match(s)),
        Some("eui") => alphanumeric(s, "eui", 16),
        Some("naa") => alphanumeric(s, "naa", 32),
        _ => false,
    };
    let (iqn, initiator) = (at.get("iqn"), at.get("initiatorName"));
    if check.present(&iqn) && !valid(iqn.str()) {
        check.invalid(&iqn, "must be valid format");
    }
    check.range(&at.get("lun"), 0, 255);
    if (at.get("chapAuthDiscovery").flag() || at.get("chapAuthSession").flag()) && !at.get("secretRef").is_set() {
        check.required(&at.get("secretRef"), "");
    }
    if initiator.is_set() && !valid(initiator.str()) {
        check.invalid(&initiator.under(at.path.child("initiatorname")), "must be valid format");
    }
}

/// A dataset by name or by uuid.
pub fn flocker(check: &mut Check, at: &At, _: &PodRules) {
    let (name, uuid) = (at.get("datasetName"), at.get("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        check.required(at, "one of datasetName and datasetUUID is required");
    } else if !name.is_empty() && !uuid.is_empty() {
        check.invalid(at, "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.str().contains('/') {
        check.invalid(&name, "must not contain '/'");
    }
}

fn secret_ref_name(check: &mut Check, at: &At, _: &PodRules) {
    if at.get("secretRef").is_set() {
        check.present(&at.get("secretRef.name"));
    }
}

/// Registries and a volume.
pub fn quobyte(check: &mut Check, at: &At, _: &PodRules) {
    let registry = at.get("registry");
    if registry.is_empty() {
        check.required(&registry, "must be a host:port pair or multiple pairs separated by commas");
    } else if at.get("tenant").len() >= 65 {
        check.required(&at.get("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for _ in registry
            .str()
            .split(',')
            .filter(|pair| pair.rsplit_once(':').is_none_or(|(host, _)| host.contains(':') && !host.starts_with('[')))
        {
            check.invalid(&registry, "must be a host:port pair or multiple pairs separated by commas");
        }
    }
    check.present(&at.get("volume"));
}

/// World-wide names with a LUN, or world-wide ids.
pub fn fibre_channel(check: &mut Check, at: &At, _: &PodRules) {
    let (targets, ids, lun) = (at.get("targetWWNs"), at.get("wwids"), at.get("lun"));
    if targets.is_empty() && ids.is_empty() {
        check.required(&targets, "must specify either targetWWNs or wwids, but not both");
    } else if !targets.is_empty() && !ids.is_empty() {
        check.invalid(&targets, "targetWWNs and wwids can not be specified simultaneously");
    }
    if !targets.is_empty() {
        if lun.is_set() {
            check.range(&lun, 0, 255);
        } else {
            check.required(&lun, "lun is required if targetWWNs is specified");
        }
    }
}

/// Options outside Kubernetes' own namespaces.
pub fn flex_options(check: &mut Check, at: &At, _: &PodRules) {
    for (key, option) in at.get("options").entries() {
        let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            check.invalid(&option, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

/// Caching mode, kind, and a URI that fits the kind.
pub fn azure_disk(check: &mut Check, at: &At, _: &PodRules) {
    check.one_of(&at.get("cachingMode"), &["None", "ReadOnly", "ReadWrite"]);
    check.one_of(&at.get("kind"), &["Dedicated", "Managed", "Shared"]);
    let (kind, uri) = (at.get("kind"), at.get("diskURI"));
    let prefix = if kind.str() == "Managed" { "/subscriptions/" } else { "https://" };
    if kind.is_set() && !uri.str().starts_with(prefix) {
        check.not_supported(&uri, &[prefix]);
    }
}

fn storage_os(check: &mut Check, at: &At, rules: &PodRules) {
    check.present_format(&at.get("volumeName"), names::dns1123_label);
    check.format_if_set(&at.get("volumeNamespace"), names::dns1123_label);
    secret_ref_name(check, at, rules);
}

fn downward_api(check: &mut Check, at: &At, _: &PodRules) {
    check.file_mode(&at.get("defaultMode"));
    for item in at.get("items").items() {
        downward_file(check, &item.under(at.path.clone()));
    }
}

fn downward_file(check: &mut Check, file: &At) {
    const FIELDS: [&str; 5] =
        ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    check.present(&file.get("path"));
    local_path(check, &file.get("path"));
    let (field, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    if field.is_set() {
        super::env::field_ref(check, &field, &FIELDS);
        if resource.is_set() {
            check.invalid(file, "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
    } else if resource.is_set() {
        super::env::resource_field_ref(check, &resource, true);
    } else {
        check.required(file, "one of fieldRef and resourceFieldRef is required");
    }
    check.file_mode(&file.get("mode"));
}

fn projected(check: &mut Check, at: &At, _: &PodRules) {
    check.file_mode(&at.get("defaultMode"));
    let mut paths: Vec<String> = Vec::new();
    let mut claim = |check: &mut Check, path: &At<'_>| {
        if paths.iter().any(|p| p == path.str()) {
            check.invalid(&path.under(at.path.clone()), "conflicting duplicate paths");
        } else if !path.is_empty() {
            paths.push(path.str().to_owned());
        }
    };
    for source in at.get("sources").items() {
        projected_source(check, at, &source, &mut claim);
    }
}

fn projected_source<'a>(
    check: &mut Check,
    volume: &At<'a>,
    source: &At<'a>,
    claim: &mut impl FnMut(&mut Check, &At<'_>),
) {
    let mut kinds = 0;
    for kind in ["secret", "configMap"] {
        let keys = source.get(kind);
        if keys.is_set() {
            kinds += 1;
            check.present(&keys.get("name"));
            for item in keys.get("items").items() {
                key_to_path(check, &item);
                claim(check, &item.get("path"));
            }
        }
    }
    let downward = source.get("downwardAPI");
    if downward.is_set() {
        kinds += 1;
        for item in downward.get("items").items() {
            downward_file(check, &item.under(downward.path.clone()));
            claim(check, &item.get("path"));
        }
    }
    let token = source.get("serviceAccountToken");
    if token.is_set() {
        kinds += 1;
        check.range(&token.get("expirationSeconds"), 600, 1 << 32);
        let path = token.get("path").under(volume.path.child("path"));
        if check.present(&path) {
            local_path(check, &path);
        }
    }
    let bundle = source.get("clusterTrustBundle");
    if bundle.is_set() {
        kinds += 1;
        trust_bundle(check, &bundle);
        claim(check, &bundle.get("path"));
    }
    if source.get("podCertificate").is_set() {
        kinds += 1;
    }
    if kinds > 1 {
        check.forbidden(source, "may not specify more than 1 volume type per source");
    }
}

fn trust_bundle(check: &mut Check, at: &At) {
    let (name, signer) = (at.get("name"), at.get("signerName"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => check.invalid(at, "only one of name and signerName may be used"),
        (true, false) => {
            check.present(&name);
            if at.get("labelSelector").is_set() {
                check.invalid(&at.get("labelSelector"), "labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            check.present(&signer);
            check.label_selector(&at.get("labelSelector"));
        }
        (false, false) => check.required(at, "either name or signerName must be specified"),
    }
    check.present(&at.get("path"));
    local_path(check, &at.get("path"));
}

fn csi(check: &mut Check, at: &At, _: &PodRules) {
    csi_driver_name(check, &at.get("driver"));
    let secret = at.get("nodePublishSecretRef");
    if secret.is_set() && check.present(&secret.get("name")) {
        check.format(&secret.get("name").under(at.path.child("name")), names::dns1123_subdomain);
    }
}

/// A CSI driver's name: a DNS subdomain of at most 63 characters, in any case.
pub fn csi_driver_name(check: &mut Check, at: &At) {
    check.present(at);
    if at.len() > 63 {
        check.too_long(at, 63);
    }
    for complaint in names::dns1123_subdomain(&at.str().to_lowercase()).into_iter().filter(|_| !at.is_empty()) {
        check.invalid(at, complaint);
    }
}

fn ephemeral(check: &mut Check, at: &At, _: &PodRules) {
    let template = at.get("volumeClaimTemplate");
    if !template.is_set() {
        return check.required(&template, "");
    }
    check.template_meta(&template.get("metadata"));
    claims::spec(check, &template.get("spec"));
}

fn image(check: &mut Check, at: &At, rules: &PodRules) {
    if rules.is_pod {
        check.present(&at.get("reference"));
    }
    check.present_one_of(&at.get("pullPolicy"), &["Always", "IfNotPresent", "Never"]);
}

/// No `..` among the path's elements; one complaint is enough.
pub fn no_backsteps(check: &mut Check, at: &At) {
    if at.str().split('/').any(|part| part == "..") {
        check.invalid(at, "must not contain '..'");
    }
}

/// A relative path without `..` elements.
pub fn descending_path(check: &mut Check, at: &At) {
    if at.str().starts_with('/') {
        check.invalid(at, "must be a relative path");
    }
    no_backsteps(check, at);
}

/// A relative path that also does not begin with two dots.
pub fn local_path(check: &mut Check, at: &At) {
    descending_path(check, at);
    if at.str().starts_with("..") && !at.str().starts_with("../") {
        check.invalid(at, "must not start with '..'");
    }
}
