//! Which names and conditions the status of a definition has. Pure. Follows upstream's naming, establishing and approval
//! controllers: a name is accepted unless another definition of the group has it already.

use apimachinery::time::format_time;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::is_true;

/// Groups whose definitions want approval.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}")))
}

/// The annotation that tells of approval.
pub const APPROVED: &str = "api-approved.kubernetes.io";

/// What the annotation of approval says: condition status, reason, message. `None` when it is malformed.
pub fn approval(definition: &Value) -> Option<(&'static str, &'static str, String)> {
    match definition["metadata"]["annotations"][APPROVED].as_str().unwrap_or_default() {
        "" => Some(("False", "MissingAnnotation", format!("protected groups must have the annotation {APPROVED:?}"))),
        text if text.starts_with("unapproved") => {
            Some(("False", "UnapprovedAnnotation", format!("not approved: {text:?}")))
        }
        text if text.starts_with("http://") || text.starts_with("https://") => {
            Some(("True", "ApprovedAnnotation", format!("approved in {text}")))
        }
        _ => None,
    }
}

fn condition(ty: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": ty, "status": status, "reason": reason, "message": message})
}

/// Puts a condition in its place; the time moves when the status does.
fn set_condition(conditions: &mut Vec<Value>, mut new: Value, now: Timestamp) {
    let old = conditions.iter_mut().find(|c| c["type"] == new["type"]);
    match old {
        Some(old) => {
            new["lastTransitionTime"] = match old["status"] == new["status"] {
                true => old["lastTransitionTime"].clone(),
                false => format_time(now).into(),
            };
            *old = new;
        }
        None => {
            new["lastTransitionTime"] = format_time(now).into();
            conditions.push(new);
        }
    }
}

/// What others of the group have taken: resource names, and kinds.
fn taken<'d>(definition: &Value, all: impl Iterator<Item = &'d Value>) -> (Vec<&'d str>, Vec<&'d str>) {
    let (mut resources, mut kinds) = (Vec::new(), Vec::new());
    for other in all {
        let same = other["metadata"]["uid"] == definition["metadata"]["uid"];
        if same || other["spec"]["group"] != definition["spec"]["group"] {
            continue;
        }
        let names = &other["status"]["acceptedNames"];
        resources.extend([&names["plural"], &names["singular"]].into_iter().filter_map(Value::as_str));
        resources.extend(names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str));
        kinds.extend([&names["kind"], &names["listKind"]].into_iter().filter_map(Value::as_str));
    }
    (resources, kinds)
}

/// The accepted names, and the condition that tells of them.
fn accept<'d>(definition: &Value, all: impl Iterator<Item = &'d Value>) -> (Value, Value) {
    let (resources, kinds) = taken(definition, all);
    let wanted = &definition["spec"]["names"];
    let mut accepted = definition["status"]["acceptedNames"].clone();
    let mut conflict: Option<(&str, String)> = None;
    // The last conflict is told of, in this order.
    for (field, used, reason) in [
        ("plural", &resources, "PluralConflict"),
        ("singular", &resources, "SingularConflict"),
        ("shortNames", &resources, "ShortNamesConflict"),
        ("kind", &kinds, "KindConflict"),
        ("listKind", &kinds, "ListKindConflict"),
    ] {
        let names = wanted[field].as_array().map_or(std::slice::from_ref(&wanted[field]), Vec::as_slice);
        match names.iter().filter_map(Value::as_str).find(|name| used.contains(name)) {
            Some(name) => conflict = Some((reason, format!("{name:?} is already in use"))),
            None => crate::resources::edit::copy(&mut accepted, wanted, field),
        }
    }
    crate::resources::edit::copy(&mut accepted, wanted, "categories");
    let condition = match conflict {
        Some((reason, message)) => condition("NamesAccepted", "False", reason, &message),
        None => condition("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
    };
    (accepted, condition)
}

/// The status that a definition shall have among all definitions.
pub fn status<'d>(definition: &Value, all: impl Iterator<Item = &'d Value>, now: Timestamp) -> Value {
    let mut status = definition["status"].clone();
    let (accepted, names) = accept(definition, all);
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let is_accepted = names["status"] == "True";
    set_condition(&mut conditions, names, now);
    if !is_true(definition, "Established") {
        let established = match is_accepted {
            true => ("True", "InitialNamesAccepted", "the initial names have been accepted"),
            false => ("False", "NotAccepted", "not all names are accepted"),
        };
        set_condition(&mut conditions, condition("Established", established.0, established.1, established.2), now);
    }
    if is_protected(definition["spec"]["group"].as_str().unwrap_or_default()) {
        let (state, reason, message) =
            approval(definition).unwrap_or(("False", "InvalidAnnotation", format!("{APPROVED:?} is malformed")));
        let approved = condition("KubernetesAPIApprovalPolicyConformant", state, reason, &message);
        set_condition(&mut conditions, approved, now);
    }
    status["acceptedNames"] = accepted;
    status["conditions"] = conditions.into();
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_accepted_once() {
        let definition = |uid: &str, plural: &str, kind: &str| {
            json!({"metadata": {"uid": uid}, "spec": {"group": "g.io", "names": {
                "plural": plural, "singular": plural.trim_end_matches('s'), "kind": kind, "listKind": format!("{kind}List")}},
                "status": {"acceptedNames": {"kind": "", "plural": ""}, "conditions": null}})
        };
        let mut first = definition("1", "things", "Thing");
        first["status"] = status(&first, [].into_iter(), Timestamp::UNIX_EPOCH);
        assert!(is_true(&first, "Established") && is_true(&first, "NamesAccepted"));
        assert_eq!(first["status"]["conditions"][1]["type"], "Established");
        let again = status(&first, std::iter::once(&first), Timestamp::now());
        assert_eq!(again, first["status"]);
        let second = definition("2", "others", "Thing");
        let got = status(&second, [&first, &second].into_iter(), Timestamp::UNIX_EPOCH);
        assert_eq!(got["conditions"][0]["reason"], "ListKindConflict");
        assert_eq!(got["conditions"][1]["status"], "False");
        assert_eq!(got["acceptedNames"]["plural"], "others");
        assert_eq!(got["acceptedNames"]["kind"], "");
    }
}
