//! Priority: resolves a pod's priority class to its number, and keeps the default class unique.

use std::sync::Arc;

use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request, done, set};
use crate::objects::{Objects, ResourceName, find};

const CLASSES: ResourceName = ("scheduling.k8s.io", "priorityclasses");

/// The plugin.
pub struct Priority(pub Arc<dyn Objects>);

/// The class that pods without one get: of several defaults the one with the lowest value.
fn default_class(objects: &dyn Objects) -> Option<Arc<Value>> {
    objects
        .list(CLASSES, "")
        .into_iter()
        .filter(|class| class["globalDefault"] == true)
        .min_by_key(|class| class["value"].as_i64().unwrap_or_default())
}

fn policy(class: Option<&Value>) -> &str {
    class.and_then(|class| class["preemptionPolicy"].as_str()).unwrap_or("PreemptLowerPriority")
}

impl Priority {
    async fn admit_pod(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
        let class = if name.is_empty() {
            let class = default_class(&*self.0);
            if let Some(class) = &class {
                set(&mut pod["spec"], "priorityClassName", class["metadata"]["name"].clone());
            }
            class
        } else {
            let class = find(&*self.0, CLASSES, "", &name).await?;
            if class.is_none() {
                return Err(request.forbidden(Some(pod), &format!("no PriorityClass with name {name} was found")));
            }
            class
        };
        let value = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or_default();
        if let Some(given) = pod["spec"]["priority"].as_i64().filter(|given| *given != value) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; \
                 priority admission controller computed {value} from the given PriorityClass name"
            );
            return Err(request.forbidden(Some(pod), &why));
        }
        let computed = policy(class.as_deref());
        if let Some(given) = pod["spec"]["preemptionPolicy"].as_str().filter(|given| *given != computed) {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; \
                 priority admission controller computed {computed} from the given PriorityClass name"
            );
            return Err(request.forbidden(Some(pod), &why));
        }
        set(&mut pod["spec"], "priority", value);
        set(&mut pod["spec"], "preemptionPolicy", computed);
        Ok(())
    }
}

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
            && (request.is("", "pods", "") || request.is(CLASSES.0, CLASSES.1, ""))
    }

    fn admit<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let Some(pod) = object.filter(|object| request.resource == "pods" && object["spec"].is_object()) else {
            return done(Ok(()));
        };
        if request.operation == Operation::Create {
            return Box::pin(self.admit_pod(request, pod));
        }
        // A client that does not know the fields must not take them away.
        for field in ["priority", "preemptionPolicy"] {
            let old = request.old.map_or(&Value::Null, |old| &old["spec"][field]);
            if pod["spec"][field].is_null() && !old.is_null() {
                set(&mut pod["spec"], field, old.clone());
            }
        }
        done(Ok(()))
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let Some(class) = object.filter(|class| request.resource == CLASSES.1 && class["globalDefault"] == true) else {
            return done(Ok(()));
        };
        let other = default_class(&*self.0).filter(|other| other["metadata"]["name"] != class["metadata"]["name"]);
        done(match other {
            Some(other) => {
                let name = other["metadata"]["name"].as_str().unwrap_or_default();
                let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
                Err(request.forbidden(Some(class), &why))
            }
            None => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::tests::request;
    use crate::http::request::RequestContext;
    use crate::objects::fake::Fake;

    #[tokio::test]
    async fn resolution() {
        let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"});
        let cluster = Fake::default().with(CLASSES, class("high", 1000, false)).with(CLASSES, class("usual", 5, true));
        let plugin = Priority(Arc::new(cluster));
        let ctx = RequestContext::default();
        let request = request(&ctx, Operation::Create, "", "pods", "ns");
        let cases = [
            (json!({"priorityClassName": "high"}), Some(1000)),
            (json!({}), Some(5)),
            (json!({"priorityClassName": "absent"}), None),
            (json!({"priorityClassName": "high", "priority": 7}), None),
            (json!({"priorityClassName": "high", "preemptionPolicy": "PreemptLowerPriority"}), None),
        ];
        for (spec, expected) in cases {
            let mut pod = json!({"spec": spec});
            let result = plugin.admit(&request, Some(&mut pod)).await;
            assert_eq!(result.ok().and_then(|()| pod["spec"]["priority"].as_i64()), expected, "{pod}");
        }
        let second = json!({"metadata": {"name": "other"}, "value": 1, "globalDefault": true});
        let write = super::super::tests::request(&ctx, Operation::Create, CLASSES.0, CLASSES.1, "");
        assert!(plugin.validate(&write, Some(&second)).await.is_err());
    }
}
