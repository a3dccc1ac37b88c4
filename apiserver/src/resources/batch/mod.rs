//! Jobs. Follows upstream's `ValidateJob*`, the job strategy's selector generation and `printJob`.

pub mod cron;
mod progress;
mod success;

use std::borrow::Cow;

use apimachinery::field::{ErrorList, Path};
use apimachinery::validation as names;
use serde_json::{Value, json};

use super::apps::{same_generation, selects};
use super::check::{At, Check, same};
use super::core::pod;
use super::edit::{array_mut, at_mut, copy, edit_map, remove, set};
use super::printing::{age, containers, human_duration, name, selector as query};
use super::{HookContext, NameRule, Strategy, meta};

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";

/// The jobs resource.
pub const JOB: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |job, cx| {
        (Strategy::DEFAULT.default)(job, cx);
        at_mut(job, "spec", default_spec);
        labels_from_template(job);
    },
    prepare_create: |job, _| {
        set(job, "status", json!({}));
        let unlabelled = At::root(job).get("metadata.labels").is_empty() || same_labels(job);
        generate_selector(job);
        if unlabelled {
            at_mut(job, "metadata", |meta| set(meta, "labels", json!({})));
            labels_from_template(job);
        }
    },
    validate: |job, cx| {
        let mut check = meta::checked(&without_late_labels(job), cx);
        whole(&mut check, &At::root(job), true, cx);
        check.errors
    },
    validate_update,
    warnings: |job, old| {
        let unchanged = old.is_some_and(|old| same_generation(job, old));
        let mut out = spec_warnings(&At::root(job).get("spec"), unchanged);
        out.extend(pod::warnings::dotted_name(job).filter(|_| old.is_none()));
        out
    },
    cells: Some(cells),
    ..Strategy::DEFAULT
};

/// `jobs/status`.
pub const JOB_STATUS: Strategy = Strategy {
    default: JOB.default,
    validate_update: |job, old, _| {
        let mut check = Check::new();
        let (new, old) = (At::root(job), At::root(old));
        meta::update(&mut check, &new, &old);
        progress::validate(&mut check, &new, &old);
        check.errors
    },
    ..Strategy::DEFAULT
};

/// The template's labels stand in for missing ones of the job.
fn labels_from_template(job: &mut Value) {
    let labels = job.pointer("/spec/template/metadata/labels").cloned().filter(|labels| !At::root(labels).is_empty());
    if let Some(labels) = labels.filter(|_| At::root(job).get("metadata.labels").is_empty()) {
        at_mut(job, "metadata", |meta| set(meta, "labels", labels));
    }
}

/// The job as upstream judges its metadata: labels that only the server gave the template are the job's when it is read.
fn without_late_labels(job: &Value) -> Cow<'_, Value> {
    let generated = ["controller-uid", "job-name", UID_LABEL, NAME_LABEL];
    let labels = At::root(job).get("spec.template.metadata.labels");
    if !same_labels(job) || labels.entries().any(|(label, _)| !generated.contains(&label)) {
        return Cow::Borrowed(job);
    }
    let mut bare = job.clone();
    at_mut(&mut bare, "metadata", |meta| drop(remove(meta, "labels")));
    Cow::Owned(bare)
}

fn same_labels(job: &Value) -> bool {
    job["metadata"]["labels"] == job["spec"]["template"]["metadata"]["labels"]
}

/// Completions and parallelism depend on each other: one each when neither is given.
pub fn default_spec(spec: &mut Value) {
    at_mut(spec, "template.spec", pod::defaults::spec);
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set(spec, "completions", 1);
    }
    if spec["parallelism"].is_null() {
        set(spec, "parallelism", 1);
    }
}

/// Without a manual selector the job's uid selects its pods.
fn generate_selector(job: &mut Value) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let (uid, own) = (job["metadata"]["uid"].clone(), job["metadata"]["name"].clone());
    at_mut(job, "spec", |spec| {
        if let Some(template) = spec.get_mut("template").and_then(Value::as_object_mut) {
            template.entry("metadata").or_insert_with(|| json!({}));
        }
        at_mut(spec, "template.metadata", |meta| {
            edit_map(meta, "labels", |labels| {
                for (label, value) in
                    [(NAME_LABEL, &own), ("job-name", &own), ("controller-uid", &uid), (UID_LABEL, &uid)]
                {
                    labels.entry(label).or_insert_with(|| value.clone());
                }
            });
        });
        edit_map(spec, "selector", |selector| {
            let mut labels = selector.get("matchLabels").and_then(Value::as_object).cloned().unwrap_or_default();
            labels.entry(UID_LABEL).or_insert(uid);
            selector.insert("matchLabels".to_owned(), labels.into());
        });
    });
}

fn whole(check: &mut Check, job: &At, prefixed: bool, cx: &HookContext) {
    generated_selector(check, job, prefixed);
    spec_with_selector(check, &job.get("spec"), cx);
    let completions = job.get("spec.completions").number();
    if job.get("spec.completionMode").str() == "Indexed" && completions > 0 {
        let name = job.get("metadata.name");
        for complaint in names::dns1123_label(&format!("{}-{}", name.str(), completions - 1)) {
            check.invalid(&name, format!("will not able to create pod with invalid DNS label: {complaint}"));
        }
    }
}

/// Labels and selector that the server makes must be what it would make.
fn generated_selector(check: &mut Check, job: &At, prefixed: bool) {
    if job.get("spec.manualSelector").flag() || !job.get("spec.selector").is_set() {
        return;
    }
    let (uid, own) = (job.get("metadata.uid"), job.get("metadata.name"));
    check.present(&uid);
    let labels = job.get("spec.template.metadata.labels");
    for (label, expected) in [("controller-uid", &uid), ("job-name", &own), (UID_LABEL, &uid), (NAME_LABEL, &own)] {
        let at = labels.entry(label);
        if label.contains('/') && !prefixed {
            continue;
        }
        if !at.is_set() {
            check.required(&at, "must be what the server generates");
        } else if at.str() != expected.str() {
            check.invalid(&at, "must be what the server generates");
        }
    }
    let expected =
        json!({"controller-uid": uid.str(), "job-name": own.str(), UID_LABEL: uid.str(), NAME_LABEL: own.str()});
    let selector = job.get("spec.selector");
    if selects(&selector, &At::root(&expected)) == Some(false) {
        check.invalid(&selector, "`selector` not auto-generated");
    }
}

fn spec_with_selector(check: &mut Check, at: &At, cx: &HookContext) {
    spec(check, at, cx);
    let selector = at.get("selector");
    if selector.is_set() {
        check.label_selector(&selector);
        let labels = at.get("template.metadata.labels");
        if selects(&selector, &labels) == Some(false) {
            check.invalid(&labels, "`selector` does not match template `labels`");
        }
    } else {
        check.required(&selector, "");
        check.invalid(&at.get("template.metadata.labels"), "`selector` does not match template `labels`");
    }
}

/// A job's spec without its selector, as it also stands in cron jobs.
pub fn spec(check: &mut Check, at: &At, cx: &HookContext) {
    const COUNTS: [&str; 7] = [
        "parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished",
        "backoffLimitPerIndex", "maxFailedIndexes",
    ];
    check.non_negative_all(at, &COUNTS);
    let per_index = at.get("backoffLimitPerIndex");
    if at.get("maxFailedIndexes").is_set() && !per_index.is_set() {
        check.required(&per_index, "when maxFailedIndexes is specified");
    }
    let manager = at.get("managedBy");
    if manager.is_set() {
        domain_prefixed_path(check, &manager);
    }
    let mode = at.get("completionMode");
    check.one_of(&mode, &["Indexed", "NonIndexed"]);
    if mode.str() == "Indexed" {
        indexed_counts(check, at);
    } else if !mode.is_set() || mode.str() == "NonIndexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"].map(|f| at.get(f)).iter().filter(|f| f.is_set()) {
            check.invalid(field, "requires indexed completion mode");
        }
    }
    failure_policy(check, at);
    if at.get("successPolicy").is_set() {
        success::validate(check, at);
    }
    pod::template(check, &at.get("template"), cx);
    let policy = at.get("template.spec.restartPolicy");
    match policy.str() {
        "" | "Always" => check.required(&policy, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if at.get("podFailurePolicy").is_set() => {
            check.invalid(&policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        _ => check.not_supported(&policy, &["OnFailure", "Never"]),
    }
}

/// Who looks after the job, by a path in a domain.
fn domain_prefixed_path(check: &mut Check, at: &At) {
    const MAX_BYTES: usize = 63;
    match at.str().split_once('/') {
        _ if at.is_empty() => check.required(at, ""),
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            check.format(&At { value: &domain.into(), path: at.path.clone() }, names::dns1123_subdomain);
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
            if !path.bytes().all(fits) {
                check.invalid(at, "the path has characters that paths of URLs do not have");
            }
        }
        _ => check.invalid(at, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    if at.len() > MAX_BYTES {
        check.too_long(at, MAX_BYTES);
    }
}

/// Bounds of a job whose pods have indexes; those of very many indexes are tighter.
fn indexed_counts(check: &mut Check, at: &At) {
    const MAX_INDEXES: i64 = 100_000;
    const MAX_OF_MANY: i64 = 10_000;
    let (completions, failed) = (at.get("completions"), at.get("maxFailedIndexes"));
    let limited = [at.get("parallelism"), at.get("maxFailedIndexes")];
    if !completions.is_set() {
        check.required(&completions, "when completion mode is Indexed");
    }
    let above = |check: &mut Check, max: i64| {
        for field in limited.iter().filter(|field| field.number() > max) {
            check.invalid(field, format!("must be less than or equal to {max} with this many indexes"));
        }
    };
    above(check, MAX_INDEXES);
    if completions.is_set() && failed.is_set() && failed.number() > completions.number() {
        check.invalid(&failed, "must be less than or equal to completions");
    }
    if completions.number() > MAX_INDEXES && at.get("backoffLimitPerIndex").is_set() {
        if !failed.is_set() {
            check.required(&failed, format!("must be specified when completions is above {MAX_INDEXES}").as_str());
        }
        above(check, MAX_OF_MANY);
    }
}

/// Warnings about a job's spec, unless its generation is what it was.
pub(super) fn spec_warnings(at: &At, unchanged: bool) -> Vec<String> {
    let mut out = pod::warnings::template(&at.get("template"), unchanged);
    let (completions, parallelism) = (at.get("completions").number(), at.get("parallelism").number());
    if !unchanged && at.get("completionMode").str() == "Indexed" && completions > 100_000 && parallelism > 10_000 {
        out.push(
            "spec.parallelism: indexed jobs of more than 100000 completions should run at most 10000 at once"
                .to_owned(),
        );
    }
    out
}

fn failure_policy(check: &mut Check, at: &At) {
    let policy = at.get("podFailurePolicy");
    let replacement = at.get("podReplacementPolicy");
    let replacements: &[&str] = if policy.is_set() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    // An empty policy is one, too: the field is a pointer.
    if replacement.is_set() {
        check.always_one_of(&replacement, replacements);
    }
    check.at_most(&policy.get("rules"), 20);
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| at.get("template.spec").get(list).items().map(|c| c.get("name").str()).collect::<Vec<_>>())
        .collect();
    for rule in policy.get("rules").items() {
        failure_rule(check, &rule, &containers, at.get("backoffLimitPerIndex").is_set());
    }
}

fn failure_rule(check: &mut Check, rule: &At, containers: &[&str], per_index: bool) {
    let (action, codes, conditions) = (rule.get("action"), rule.get("onExitCodes"), rule.get("onPodConditions"));
    if action.str() == "FailIndex" && !per_index {
        check.invalid(&action, "requires the backoffLimitPerIndex to be set");
    }
    check.present_one_of(&action, &["Count", "FailIndex", "FailJob", "Ignore"]);
    if codes.is_set() && !conditions.is_empty() {
        check.invalid(rule, "specifying both OnExitCodes and OnPodConditions is not supported");
    } else if !codes.is_set() && conditions.is_empty() {
        check.invalid(rule, "specifying one of OnExitCodes and OnPodConditions is required");
    }
    if codes.is_set() {
        let values = codes.get("values");
        check.present_one_of(&codes.get("operator"), &["In", "NotIn"]);
        let container = codes.get("containerName");
        if container.is_set() && !containers.contains(&container.str()) {
            check.invalid(&container, "must be one of the container or initContainer names in the pod template");
        }
        if values.is_empty() {
            check.invalid(&values, "at least one value is required");
        }
        check.at_most(&values, 255);
        let mut seen: Vec<i64> = Vec::new();
        for value in values.items() {
            if seen.contains(&value.number()) {
                check.duplicate(&value);
            }
            if codes.get("operator").str() == "In" && value.number() == 0 {
                check.invalid(&value, "must not be 0 for the In operator");
            }
            seen.push(value.number());
        }
        if !values.value.as_array().is_none_or(|list| list.is_sorted_by_key(Value::as_i64)) {
            check.invalid(&values, "must be ordered");
        }
    }
    check.at_most(&conditions, 20);
    for condition in conditions.items() {
        check.format(&condition.get("type"), names::qualified_name);
        check.present_one_of(&condition.get("status"), &["False", "True", "Unknown"]);
    }
}

fn validate_update(job: &Value, old: &Value, cx: &HookContext) -> ErrorList {
    let mut check = meta::checked(job, cx);
    let (new, before) = (At::root(job), At::root(old));
    // Jobs from before the labels had a domain do without it.
    let labels = before.get("spec.template.metadata.labels");
    let prefixed = [UID_LABEL, NAME_LABEL].iter().all(|label| labels.entry(label).is_set());
    whole(&mut check, &new, prefixed, cx);
    meta::update(&mut check, &new, &before);
    let (spec, old_spec) = (new.get("spec"), before.get("spec"));
    spec_with_selector(&mut check, &spec, cx);
    let (completions, old_completions) = (spec.get("completions"), old_spec.get("completions"));
    if spec.get("completionMode").str() != "Indexed" {
        check.immutable(&completions, &old_completions);
    } else if completions.value != old_completions.value
        && completions.is_set()
        && completions.number() != spec.get("parallelism").number()
    {
        check.invalid(&completions, "can only be modified in tandem with spec.parallelism");
    }
    check.immutable(&spec.get("selector"), &old_spec.get("selector"));
    template_update(&mut check, job, old);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        let (now, then) = (spec.get(field), old_spec.get(field));
        if now.value != then.value {
            check.invalid(&now, "field is immutable");
        }
    }
    check.errors
}

/// While a job is suspended and has not started, where its pods run and what they get may still change.
fn template_update(check: &mut Check, job: &Value, old: &Value) {
    let path = Path::new("spec").child("template");
    let (now, before) = (&job["spec"]["template"], &old["spec"]["template"]);
    let open = old["spec"]["suspend"] == true && old.pointer("/status/startTime").is_none_or(Value::is_null);
    if !open {
        if !same(now, before) {
            check.invalid(&At { value: now, path }, "field is immutable");
        }
        return;
    }
    let mut munged = now["spec"].clone();
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        copy(&mut munged, &before["spec"], field);
    }
    let mut affinity = munged.get("affinity").cloned().unwrap_or_else(|| json!({}));
    copy(&mut affinity, &before["spec"]["affinity"], "nodeAffinity");
    let was = &before["spec"]["affinity"];
    let hollow = |affinity: &Value| affinity.as_object().is_none_or(serde_json::Map::is_empty);
    set(&mut munged, "affinity", if hollow(&affinity) && hollow(was) { was.clone() } else { affinity });
    for list in ["containers", "initContainers"] {
        let containers = before["spec"][list].as_array().cloned().unwrap_or_default();
        for (container, was) in array_mut(&mut munged, list).iter_mut().zip(containers) {
            copy(container, &was, "resources");
        }
    }
    if !same(&munged, &before["spec"]) {
        check.invalid(&At { value: &now["spec"], path: path.child("spec") }, "field is immutable");
    }
}

fn cells(job: &Value, cx: &HookContext) -> Vec<Value> {
    let job = At::root(job);
    let (spec, status) = (job.get("spec"), job.get("status"));
    let succeeded = status.get("succeeded").number();
    let completions = match (spec.get("completions").int(), spec.get("parallelism").number()) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let second = |field: &str| status.get(field).str().parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second);
    let duration = second("startTime").map_or(String::new(), |start| {
        human_duration(second("completionTime").unwrap_or(cx.request.now.as_second()) - start)
    });
    let is = |ty: &str| {
        status.get("conditions").items().any(|c| c.get("type").str() == ty && c.get("status").str() == "True")
    };
    let state = match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if job.get("metadata.deletionTimestamp").is_set() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let (names, images) = containers(&spec.get("template.spec"));
    vec![
        name(&job),
        state.into(),
        completions.into(),
        duration.into(),
        age(&job, cx.request.now),
        names,
        images,
        query(&spec.get("selector")),
    ]
}
