//! Who owns which field: records ordinary writes in `managedFields`, and computes server-side applies.
//!
//! Ownership is of what the client asked for: it is recorded after defaults and before admission, as upstream does.

use apimachinery::apply::{self, Writer};
use apimachinery::status::Status;
use serde_json::Value;

use super::Target;
use crate::resources::edit::{remove, set};

/// The manager of the server's own writes.
const SERVER: &str = "kube-apiserver";

/// Calls `with` as the writer that the request is.
fn writing<R>(target: &Target<'_>, with: impl FnOnce(&Writer<'_>) -> R) -> R {
    let api_version = target.resource.api_version(&target.version.version);
    let manager = if target.ctx.field_manager.is_empty() { SERVER } else { &target.ctx.field_manager };
    let (subresource, reset_fields) = match target.subresource {
        Some(sub) => (sub.name.as_str(), sub.behaviour.reset_fields),
        None => ("", target.version.reset_fields),
    };
    with(&Writer { manager, api_version: &api_version, subresource, reset_fields, now: target.ctx.now })
}

/// Records a write in the new object, maybe `through_scale`. Both are in the served version's form.
pub(super) fn record(target: &Target<'_>, live: Option<&Value>, object: &mut Value, through_scale: bool) {
    if target.version.conversion.is_some() {
        // What the conversion fills in is owned, too.
        target.to_stored_form(object);
        *object = target.served_form(object).into_owned();
    }
    // A Scale leaves out a zero, so that nobody owns a new one.
    let changed = live.is_some_and(|live| live["spec"]["replicas"] != 0);
    let zero = through_scale && changed && object["spec"]["replicas"] == 0;
    if zero {
        remove(&mut object["spec"], "replicas");
    }
    writing(target, |writer| {
        let subresource = if through_scale { apply::SCALE } else { writer.subresource };
        apply::update(&target.version.ty, live, object, &Writer { subresource, ..*writer });
    });
    if zero {
        set(&mut object["spec"], "replicas", 0);
    }
}

/// The object that a server-side apply of `config` makes of `live`, with its ownership recorded.
///
/// # Errors
/// Conflicts with other managers, and what `apply::apply` refuses.
pub fn apply(target: &Target<'_>, live: Option<&Value>, config: &Value, force: bool) -> Result<Value, Status> {
    writing(target, |writer| apply::apply(&target.version.ty, live, config, force, writer))
}

/// Takes the old times of ownership over when nothing else is new, so that the write can be seen to change nothing: a client
/// that applies without defaults seems to change the object until they are filled in.
pub(super) fn keep_times(object: &mut Value, old: &Value) {
    const OWNERS: &str = "managedFields";
    let same_but = |ignored: &str, new: &Value, old: &Value| match (new.as_object(), old.as_object()) {
        (Some(new), Some(old)) => {
            new.len() == old.len() && new.iter().all(|(field, value)| field == ignored || old.get(field) == Some(value))
        }
        _ => false,
    };
    let (now, before) = (&object["metadata"][OWNERS], &old["metadata"][OWNERS]);
    let (Some(entries), Some(earlier)) = (now.as_array(), before.as_array()) else { return };
    let unchanged = now != before
        && entries.len() == earlier.len()
        && entries.iter().zip(earlier).all(|(entry, was)| same_but("time", entry, was))
        && same_but(OWNERS, &object["metadata"], &old["metadata"])
        && same_but("metadata", object, old);
    if unchanged {
        set(&mut object["metadata"], OWNERS, before.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_write_that_only_renews_times_of_ownership_changes_nothing() {
        let object = |time: &str, label: &str| json!({"metadata": {"labels": {"a": label}, "managedFields": [{"manager": "m", "time": time}]}, "spec": {}});
        let (old, mut same, mut other) = (object("1", "x"), object("2", "x"), object("2", "y"));
        keep_times(&mut same, &old);
        assert_eq!(same, old);
        keep_times(&mut other, &old);
        assert_eq!(other, object("2", "y"));
    }
}
