//! Custom objects between versions: by name alone, or by a webhook.
//!
//! Pure but for the call itself: what is asked and what the answer must be is decided here. Follows upstream: a webhook may
//! change everything but the identity, of the metadata labels and annotations only.

use apimachinery::meta;
use apimachinery::status::Status;
use serde_json::{Value, json};

use crate::resources::Resource;

/// How the versions of a definition become one another.
#[derive(Debug)]
pub enum Conversion {
    /// Only `apiVersion` differs.
    None,
    /// A webhook is asked.
    Webhook {
        /// `clientConfig`
        client: Value,
        /// Version of the review that both sides know.
        review: &'static str,
    },
}

impl Conversion {
    /// As a definition says.
    pub fn of(spec: &Value) -> Self {
        let conversion = &spec["conversion"];
        if conversion["strategy"] != "Webhook" {
            return Self::None;
        }
        let webhook = &conversion["webhook"];
        let known = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        let known = known.filter_map(Value::as_str).find_map(|version| {
            ["apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1"]
                .into_iter()
                .find(|review| review.ends_with(&format!("/{version}")))
        });
        Self::Webhook { client: webhook["clientConfig"].clone(), review: known.unwrap_or("apiextensions.k8s.io/v1") }
    }
}

/// What a webhook is asked.
pub fn review(review: &str, uid: &str, wanted: &str, objects: &[Value]) -> Value {
    json!({"kind": "ConversionReview", "apiVersion": review,
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}})
}

/// The converted objects of a webhook's answer.
///
/// # Errors
/// 500: it failed, or changed what it must not.
pub fn converted(answer: &Value, uid: &str, wanted: &str, objects: &[Value]) -> Result<Vec<Value>, Status> {
    let fail = |why: &str| Err(Status::internal(format!("conversion webhook failed: {why}")));
    let response = &answer["response"];
    if response["uid"] != uid {
        return fail("the answer is to another request");
    }
    if response["result"]["status"] != "Success" {
        return fail(response["result"]["message"].as_str().unwrap_or("no success, and no message"));
    }
    let got = response["convertedObjects"].as_array().map(Vec::as_slice).unwrap_or_default();
    if got.len() != objects.len() {
        return fail("it returned another number of objects");
    }
    let mut out = Vec::with_capacity(got.len());
    for (new, old) in got.iter().zip(objects) {
        if meta::api_version(new) != wanted || meta::kind(new) != meta::kind(old) {
            return fail("it returned another kind or version");
        }
        if !new["metadata"].is_object() {
            return fail("it returned an object without metadata");
        }
        let same = |field: &str| new["metadata"].get(field) == old["metadata"].get(field);
        if !["name", "namespace", "uid"].into_iter().all(same) {
            return fail("it changed name, namespace or uid");
        }
        let mut object = new.clone();
        let mut metadata = old["metadata"].clone();
        for field in ["labels", "annotations"] {
            crate::resources::edit::copy(&mut metadata, &new["metadata"], field);
        }
        object["metadata"] = metadata;
        out.push(object);
    }
    Ok(out)
}

/// Whether getting an object into a version takes a webhook.
pub fn needs_webhook(resource: &Resource, object: &Value, wanted: &str) -> bool {
    let custom = resource.custom.as_ref();
    meta::api_version(object) != wanted
        && custom.is_some_and(|custom| matches!(custom.conversion, Conversion::Webhook { .. }))
}

/// The object as the schema of a served version has it: pruned, with defaults. Conversion by name only.
pub fn settle(resource: &Resource, version: &str, object: &mut Value) {
    let Some(custom) = resource.version(version).filter(|served| served.custom.is_some()) else { return };
    let wanted = resource.api_version(version);
    if meta::api_version(object) != wanted {
        object["apiVersion"] = wanted.into();
    }
    if let Ok(pruned) =
        apimachinery::codec::conform(&custom.ty, object.take(), apimachinery::codec::FieldValidation::Ignore)
    {
        *object = pruned.value;
    }
    if let Some(custom) = &custom.custom {
        custom.schema.fill(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked_and_metadata_is_kept() {
        let old =
            vec![json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "u", "generation": 3}})];
        let answer = |object: Value| json!({"response": {"uid": "x", "result": {"status": "Success"}, "convertedObjects": [object]}});
        let good = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "u", "labels": {"l": "m"}}, "spec": 1});
        let got = converted(&answer(good.clone()), "x", "g/v2", &old).unwrap();
        assert_eq!(got[0]["metadata"], json!({"name": "a", "uid": "u", "generation": 3, "labels": {"l": "m"}}));
        assert!(converted(&answer(good.clone()), "y", "g/v2", &old).is_err());
        let mut renamed = good;
        renamed["metadata"]["name"] = "b".into();
        assert!(converted(&answer(renamed), "x", "g/v2", &old).is_err());
    }
}
