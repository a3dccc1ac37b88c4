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
    // A Scale leaves out a zero, so that nobody owns it.
    let zero = through_scale && live.is_some() && object["spec"]["replicas"] == 0;
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
