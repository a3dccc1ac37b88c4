//! The parameters that a binding gives its policy.

use std::sync::Arc;

use apimachinery::selector::LabelSelector;
use serde_json::Value;

use crate::objects::{Objects, find};
use crate::resources::ResourceTable;

/// The objects of the binding's `paramRef`, each of which the policy is evaluated with; a null one when it has none.
pub(super) async fn collect(
    kind: Option<&(String, String)>,
    reference: &Value,
    namespace: &str,
    table: &ResourceTable,
    objects: &dyn Objects,
) -> Result<Vec<Arc<Value>>, String> {
    let (Some((api_version, kind)), false) = (kind, reference.is_null()) else {
        return Ok(vec![Arc::new(Value::Null)]);
    };
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let unknown = || format!("paramKind kind `{api_version}, Kind={kind}` not known");
    let resource = table.by_kind(group, kind).ok_or_else(unknown)?;
    let given = reference["namespace"].as_str().unwrap_or_default();
    let within = match (resource.namespaced, given.is_empty(), namespace.is_empty()) {
        (false, true, _) => "",
        (false, false, _) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (true, false, _) => given,
        (true, true, false) => namespace,
        (true, true, true) => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned()
            );
        }
    };
    let name = (resource.group.as_str(), resource.plural.as_str());
    let found = match reference["name"].as_str().filter(|name| !name.is_empty()) {
        Some(wanted) => find(objects, name, within, wanted).await.map_err(|s| s.message)?.into_iter().collect(),
        None => {
            let selector = LabelSelector::from_value(&reference["selector"]).map_err(|error| error.to_string())?;
            let all = objects.list(name, within);
            all.into_iter().filter(|object| selector.matches(&object["metadata"]["labels"])).collect::<Vec<_>>()
        }
    };
    if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    let version = api_version.rsplit('/').next().and_then(|version| resource.version(version)).ok_or_else(unknown)?;
    Ok(found
        .into_iter()
        .map(|object| match version.conversion {
            Some(conversion) => {
                let mut object = (*object).clone();
                (conversion.from_storage)(&mut object);
                Arc::new(object)
            }
            None => object,
        })
        .collect())
}
