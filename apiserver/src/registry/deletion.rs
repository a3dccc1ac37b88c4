//! What a deletion comes to: pure, from the object, the options and the time. Follows upstream's `BeforeDelete`, its
//! finalizers for garbage collection, and the pod's and the namespace's own rules.

use apimachinery::field::{FieldError, Path};
use apimachinery::gvk::{GroupKind, GroupResource};
use apimachinery::meta;
use apimachinery::resources::DefaultCollection;
use apimachinery::status::Status;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::extension::DEFINITIONS;
use crate::extension::definition::marked_for_deletion;
use crate::resources::Resource;

/// Holds an object until its dependents are orphaned.
const ORPHAN: &str = "orphan";
/// Holds an object until its dependents are deleted.
const FOREGROUND: &str = "foregroundDeletion";
/// A pod's grace period when it does not say.
const DEFAULT_POD_GRACE_SECONDS: i64 = 30;

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`
    pub grace_period_seconds: Option<i64>,
    /// `orphanDependents`, the old way to say it.
    pub orphan_dependents: Option<bool>,
    /// `propagationPolicy`
    pub propagation_policy: Option<String>,
    /// `preconditions.uid`
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`
    pub resource_version: Option<String>,
    /// `dryRun`
    pub dry_run: Vec<String>,
}

impl DeleteOptions {
    /// Reads a decoded body.
    pub fn of(body: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let preconditions = &body["preconditions"];
        Self {
            grace_period_seconds: body["gracePeriodSeconds"].as_i64(),
            orphan_dependents: body["orphanDependents"].as_bool(),
            propagation_policy: text(&body["propagationPolicy"]),
            uid: text(&preconditions["uid"]),
            resource_version: text(&preconditions["resourceVersion"]),
            dry_run: body["dryRun"].as_array().into_iter().flatten().filter_map(text).collect(),
        }
    }

    /// Contradictions and unknown words.
    ///
    /// # Errors
    /// 422.
    pub fn validate(&self) -> Result<(), Status> {
        let mut errors = Vec::new();
        let policy = Path::new("propagationPolicy");
        if self.orphan_dependents.is_some() && self.propagation_policy.is_some() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(
                policy.clone(),
                self.propagation_policy.clone().unwrap_or_default(),
                detail,
            ));
        }
        let known = ["Foreground", "Background", "Orphan"];
        if let Some(given) = self.propagation_policy.as_ref().filter(|given| !known.contains(&given.as_str())) {
            let supported = ["Background", "Foreground", "Orphan", "nil"];
            errors.push(FieldError::not_supported(policy, given.as_str(), &supported));
        }
        if let Some(given) = self.dry_run.iter().find(|given| *given != "All") {
            errors.push(FieldError::not_supported(Path::new("dryRun"), given.as_str(), &["All"]));
        }
        if errors.is_empty() {
            return Ok(());
        }
        let kind = GroupKind { group: "meta.k8s.io".to_owned(), kind: "DeleteOptions".to_owned() };
        Err(Status::invalid(&kind, "", &errors))
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// The deletion is already on its way.
    Pending,
    /// Store this; somebody else finishes the deletion.
    Mark(Value),
    /// Store this, then remove it.
    MarkThenRemove(Value),
    /// Remove it.
    Remove,
}

/// Plans the deletion of an object.
///
/// # Errors
/// 409 when a precondition does not hold.
pub fn plan(object: &Value, resource: &Resource, options: &DeleteOptions, now: Timestamp) -> Result<Plan, Status> {
    check_preconditions(object, resource, options)?;
    if (resource.group.as_str(), resource.plural.as_str()) == DEFINITIONS
        && let Some(marked) = marked_for_deletion(object, now)
    {
        return Ok(Plan::Mark(marked));
    }
    if resource.finishes_deletion_on_update {
        return Ok(plan_namespace(object, resource, options, now));
    }
    let mut marked = object.clone();
    let graceful = if resource.graceful_delete { grace(&mut marked, options, now) } else { Graceful::No };
    if graceful == Graceful::Pending {
        return Ok(Plan::Pending);
    }
    set_collection_finalizers(&mut marked, resource, options);
    let held = meta::finalizers(&marked).next().is_some();
    Ok(match graceful {
        Graceful::No if held => {
            mark_as_deleting(&mut marked, now);
            if marked == *object { Plan::Pending } else { Plan::Mark(marked) }
        }
        Graceful::No => Plan::Remove,
        Graceful::Seconds(0) if !held => Plan::MarkThenRemove(marked),
        _ => Plan::Mark(marked),
    })
}

fn check_preconditions(object: &Value, resource: &Resource, options: &DeleteOptions) -> Result<(), Status> {
    // Upstream names the kind here, and the resource only where a kind has its own way to be deleted.
    let stored = resource.group_kind();
    let own_way = resource.finishes_deletion_on_update || (&*resource.group, &*resource.plural) == DEFINITIONS;
    let about = GroupResource::new(stored.group, if own_way { resource.plural.clone() } else { stored.kind });
    let conflict = |why: &str| Err(Status::conflict(&about, meta::name(object), why));
    if let Some(uid) = options.uid.as_ref().filter(|uid| **uid != meta::uid(object)) {
        return conflict(&format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            meta::uid(object)
        ));
    }
    if let Some(version) = options.resource_version.as_ref().filter(|v| **v != meta::resource_version(object)) {
        return conflict(&format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            meta::resource_version(object)
        ));
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Graceful {
    /// This kind, or this state, has no grace.
    No,
    /// It was asked before, and not for longer than now.
    Pending,
    /// It begins or is shortened.
    Seconds(i64),
}

/// The pod's grace period: what is asked, else what it says itself; none when it never ran or is done.
fn grace(object: &mut Value, options: &DeleteOptions, now: Timestamp) -> Graceful {
    if let Some(at) = meta::deletion_timestamp(object) {
        let Some(before) = meta::deletion_grace_period_seconds(object).filter(|before| *before != 0) else {
            return Graceful::No;
        };
        let Some(asked) = options.grace_period_seconds.map(not_negative).filter(|asked| *asked < before) else {
            return Graceful::Pending;
        };
        let shortened = SignedDuration::from_secs(before.saturating_sub(asked));
        let at = at.checked_sub(shortened).unwrap_or(now);
        // What has run out is still ended by who ends it.
        let asked = if at < now { asked.min(1) } else { asked };
        meta::set_deletion(object, at.max(now), asked);
        return Graceful::Seconds(asked);
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(DEFAULT_POD_GRACE_SECONDS);
    let mut period = options.grace_period_seconds.unwrap_or(own);
    let unscheduled = object["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let done = matches!(object["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    if unscheduled || done {
        period = 0;
    }
    period = not_negative(period);
    let at = now.checked_add(SignedDuration::from_secs(period)).unwrap_or(now);
    meta::set_deletion(object, at, period);
    bump(object);
    Graceful::Seconds(period)
}

/// Upstream takes negative grace for a second.
fn not_negative(seconds: i64) -> i64 {
    if seconds < 0 { 1 } else { seconds }
}

fn bump(object: &mut Value) {
    if meta::generation(object) > 0 {
        meta::set_generation(object, meta::generation(object) + 1);
    }
}

fn mark_as_deleting(object: &mut Value, now: Timestamp) {
    let at = meta::deletion_timestamp(object);
    if at.is_none() {
        bump(object);
    }
    meta::set_deletion(object, at.filter(|at| *at <= now).unwrap_or(now), 0);
}

/// `(orphan, foreground)`: which finalizers the object shall have for the garbage collector.
fn wanted_finalizers(object: &Value, default: DefaultCollection, options: &DeleteOptions) -> (bool, bool) {
    if let Some(orphan) = options.orphan_dependents {
        return (orphan, false);
    }
    match options.propagation_policy.as_deref() {
        Some("Orphan") => return (true, false),
        Some("Foreground") => return (false, true),
        Some(_) => return (false, false),
        None => {}
    }
    if meta::finalizers(object).any(|finalizer| finalizer == ORPHAN) {
        return (true, false);
    }
    if meta::finalizers(object).any(|finalizer| finalizer == FOREGROUND) {
        return (false, true);
    }
    (default == DefaultCollection::Orphan, false)
}

fn set_collection_finalizers(object: &mut Value, resource: &Resource, options: &DeleteOptions) {
    if resource.default_collection == DefaultCollection::Unsupported {
        return;
    }
    let wanted = wanted_finalizers(object, resource.default_collection, options);
    let has = |name: &str| meta::finalizers(object).any(|finalizer| finalizer == name);
    if wanted == (has(ORPHAN), has(FOREGROUND)) {
        return;
    }
    let others = meta::finalizers(object).filter(|finalizer| *finalizer != ORPHAN && *finalizer != FOREGROUND);
    let mut finalizers: Vec<String> = others.map(str::to_owned).collect();
    if wanted.0 {
        finalizers.push(ORPHAN.to_owned());
    }
    if wanted.1 {
        finalizers.push(FOREGROUND.to_owned());
    }
    meta::set_finalizers(object, finalizers);
}

/// A namespace goes Terminating; the controller empties it and then its `spec.finalizers`.
fn plan_namespace(object: &Value, resource: &Resource, options: &DeleteOptions, now: Timestamp) -> Plan {
    let mut marked = object.clone();
    if meta::deletion_timestamp(object).is_none() {
        if let Some(metadata) = marked.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("deletionTimestamp".to_owned(), apimachinery::time::format_time(now).into());
        }
        if let Some(status) = marked.get_mut("status").and_then(Value::as_object_mut) {
            status.insert("phase".to_owned(), "Terminating".into());
        } else {
            marked["status"] = serde_json::json!({"phase": "Terminating"});
        }
        set_collection_finalizers(&mut marked, resource, options);
        return Plan::Mark(marked);
    }
    if object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()) {
        return Plan::Pending;
    }
    set_collection_finalizers(&mut marked, resource, options);
    if meta::finalizers(&marked).next().is_none() {
        Plan::Remove
    } else if marked == *object {
        Plan::Pending
    } else {
        Plan::Mark(marked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource(group: &str, plural: &str) -> std::sync::Arc<Resource> {
        std::sync::Arc::clone(crate::resources::table().by_plural(group, plural).unwrap())
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn pods_have_grace_only_where_they_run() {
        let pods = resource("", "pods");
        let options = |seconds| DeleteOptions { grace_period_seconds: seconds, ..DeleteOptions::default() };
        let pod =
            json!({"metadata": {"generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20}});
        let Plan::Mark(marked) = plan(&pod, &pods, &options(None), now()).unwrap() else { panic!() };
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:20Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 20);
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(plan(&marked, &pods, &options(None), now()).unwrap(), Plan::Pending);
        assert_eq!(plan(&marked, &pods, &options(Some(30)), now()).unwrap(), Plan::Pending);
        let Plan::Mark(shorter) = plan(&marked, &pods, &options(Some(5)), now()).unwrap() else { panic!() };
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
        assert!(matches!(plan(&marked, &pods, &options(Some(0)), now()).unwrap(), Plan::MarkThenRemove(_)));
        let unscheduled = json!({"metadata": {}, "spec": {}});
        assert!(matches!(plan(&unscheduled, &pods, &options(None), now()).unwrap(), Plan::MarkThenRemove(_)));
    }

    #[test]
    fn finalizers_hold_and_policies_add_them() {
        let maps = resource("", "configmaps");
        let policy =
            |policy: &str| DeleteOptions { propagation_policy: Some(policy.to_owned()), ..DeleteOptions::default() };
        let plain = json!({"metadata": {"name": "a"}});
        assert_eq!(plan(&plain, &maps, &DeleteOptions::default(), now()).unwrap(), Plan::Remove);
        for (asked, finalizer) in [("Foreground", FOREGROUND), ("Orphan", ORPHAN)] {
            let Plan::Mark(marked) = plan(&plain, &maps, &policy(asked), now()).unwrap() else { panic!() };
            assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
            assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        }
        let held = json!({"metadata": {"finalizers": ["x/y"], "generation": 1}});
        let Plan::Mark(marked) = plan(&held, &maps, &DeleteOptions::default(), now()).unwrap() else { panic!() };
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(plan(&marked, &maps, &DeleteOptions::default(), now()).unwrap(), Plan::Pending);
    }

    #[test]
    fn preconditions_and_contradictions() {
        let maps = resource("", "configmaps");
        let object = json!({"metadata": {"uid": "u", "resourceVersion": "3"}});
        let uid = |uid: &str| DeleteOptions { uid: Some(uid.to_owned()), ..DeleteOptions::default() };
        assert_eq!(plan(&object, &maps, &uid("v"), now()).unwrap_err().code, 409);
        assert!(plan(&object, &maps, &uid("u"), now()).is_ok());
        let both = DeleteOptions {
            orphan_dependents: Some(true),
            propagation_policy: Some("Orphan".into()),
            ..DeleteOptions::default()
        };
        assert_eq!(both.validate().unwrap_err().code, 422);
    }

    #[test]
    fn namespaces_wait_for_their_finalizers() {
        let namespaces = resource("", "namespaces");
        let active =
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Plan::Mark(marked) = plan(&active, &namespaces, &DeleteOptions::default(), now()).unwrap() else {
            panic!()
        };
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert_eq!(plan(&marked, &namespaces, &DeleteOptions::default(), now()).unwrap(), Plan::Pending);
        let mut empty = marked;
        empty["spec"] = json!({});
        assert_eq!(plan(&empty, &namespaces, &DeleteOptions::default(), now()).unwrap(), Plan::Remove);
    }
}
