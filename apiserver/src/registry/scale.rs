//! `scale`: an `autoscaling/v1` Scale as a view of the replicas of deployments, replica sets, stateful sets and replication
//! controllers. Follows upstream: the view's resource version is the object's, and only `spec.replicas` is taken over.

use apimachinery::field::{FieldError, Path};
use apimachinery::gvk::GroupKind;
use apimachinery::meta;
use apimachinery::selector::LabelSelector;
use apimachinery::status::Status;
use serde_json::{Value, json};

use super::{Admission, Change, Object, Registry, Target, UpdateOptions};
use crate::extension::ScalePaths;

/// Where a kind keeps what a Scale shows.
#[derive(Debug)]
pub struct ScaleView {
    paths: ScalePaths,
    selector: Selector,
}

/// How a kind writes its selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Selector {
    /// A plain map.
    Plain,
    /// `matchLabels` and `matchExpressions`.
    Full,
    /// A text of its own.
    Text,
}

/// The value at a dotted path.
fn at<'v>(object: &'v Value, path: &str) -> &'v Value {
    path.split('.').try_fold(object, |value, name| value.get(name)).unwrap_or(&Value::Null)
}

impl ScaleView {
    fn selector(&self, object: &Value) -> String {
        let selector = at(object, &self.paths.selector);
        if self.selector == Selector::Text {
            return selector.as_str().unwrap_or_default().to_owned();
        }
        if self.selector == Selector::Plain {
            let terms = selector.as_object().into_iter().flatten();
            return terms.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",");
        }
        LabelSelector::from_value(selector).map(|selector| selector.to_string()).unwrap_or_default()
    }

    /// The Scale of an object.
    pub(super) fn show(&self, object: &Value) -> Value {
        let mut metadata = serde_json::Map::new();
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = object["metadata"].get(field) {
                metadata.insert(field.to_owned(), value.clone());
            }
        }
        let mut status = json!({"replicas": at(object, &self.paths.status).as_i64().unwrap_or_default()});
        let selector = self.selector(object);
        if !selector.is_empty() {
            status["selector"] = selector.into();
        }
        let replicas = at(object, &self.paths.spec).as_i64().unwrap_or_default();
        let mut spec = json!({});
        if replicas != 0 {
            spec["replicas"] = replicas.into();
        }
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": spec, "status": status})
    }

    /// The object with the Scale's replicas.
    pub(super) fn take_over(&self, object: &Value, scale: &Value) -> Value {
        let mut object = object.clone();
        let mut place = &mut object;
        for name in self.paths.spec.split('.') {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[name];
        }
        *place = scale["spec"]["replicas"].as_i64().unwrap_or_default().into();
        let version = meta::resource_version(scale).to_owned();
        meta::set_resource_version(&mut object, &version);
        // Another uid than the object's is a precondition that fails.
        if !meta::uid(scale).is_empty() {
            let uid = meta::uid(scale).to_owned();
            meta::set_uid(&mut object, &uid);
        }
        object
    }
}

fn validate(target: &Target<'_>, scale: &Value) -> Result<(), Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or_default();
    if replicas >= 0 {
        return Ok(());
    }
    let path = Path::new("spec").child("replicas");
    let error = FieldError::invalid(path, replicas, "must be greater than or equal to 0");
    let kind = GroupKind { group: "autoscaling".to_owned(), kind: "Scale".to_owned() };
    Err(Status::invalid(&kind, target.name, &vec![error]))
}

impl Registry {
    pub(super) fn as_scale(&self, target: &Target<'_>) -> Option<ScaleView> {
        target.subresource.filter(|sub| sub.gvk.kind == "Scale")?;
        if let Some(custom) = &target.version.custom {
            return Some(ScaleView { paths: custom.scale.clone()?, selector: Selector::Text });
        }
        let own = |path: &str| path.to_owned();
        let paths =
            ScalePaths { spec: own("spec.replicas"), status: own("status.replicas"), selector: own("spec.selector") };
        let plain = target.resource.kind == "ReplicationController";
        Some(ScaleView { paths, selector: if plain { Selector::Plain } else { Selector::Full } })
    }

    /// The Scale of an object.
    ///
    /// # Errors
    /// 404, or storage cannot be read.
    pub async fn get_scale(&self, target: &Target<'_>, resource_version: &str) -> Result<Option<Object>, Status> {
        let Some(view) = self.as_scale(target) else { return Ok(None) };
        let object = self.get(target, resource_version).await?.value();
        let object = self.to_version(target.resource, &target.version.version, object).await?;
        if target.resource.custom.is_some() && at(&object, &view.paths.spec).is_null() {
            return Err(Status::internal(format!("the spec replicas field {:?} does not exist", view.paths.spec)));
        }
        Ok(Some(Object::of(&view.show(&object))))
    }

    pub(super) async fn update_scale(
        &self,
        target: &Target<'_>,
        view: &ScaleView,
        change: Change<'_>,
    ) -> Result<Object, Status> {
        let parent = Target { subresource: None, ..*target };
        let through = |now: Option<&Value>| {
            let now = now.ok_or_else(|| target.not_found())?;
            let wanted = change(Some(&view.show(now)))?;
            let name = meta::name(&wanted);
            if name != target.name {
                return Err(Status::bad_request(format!(
                    "the name of the object ({name}) does not match the name on the URL ({})",
                    target.name
                )));
            }
            let namespace = meta::namespace(&wanted);
            if !namespace.is_empty() && namespace != target.namespace {
                return Err(Status::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            if target.resource.custom.is_none() {
                validate(target, &wanted)?;
            }
            Ok(view.take_over(now, &wanted))
        };
        let options = UpdateOptions { admission: Admission::Scale(view), ..UpdateOptions::default() };
        let (object, _) = Box::pin(self.update(&parent, &through, options)).await?;
        Ok(Object::of(&view.show(&object.value())))
    }
}
