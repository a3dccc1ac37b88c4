//! Tables and metadata-only views: what `kubectl get` and metadata informers ask for. Pure; one object at a time, so that
//! lists stream.

use apimachinery::meta;
use serde_json::{Value, json};

use crate::http::request::Query;
use crate::resources::check::At;
use crate::resources::edit::edit_map;
use crate::resources::printing::age;
use crate::resources::{Column, HookContext, Resource, ServedVersion};
use apimachinery::status::Status;

/// How much of the object goes along with a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata: the default.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// From `?includeObject=`.
    ///
    /// # Errors
    /// 400 for an unknown value.
    pub fn of(query: &Query) -> Result<Self, Status> {
        match query.get("includeObject") {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(Status::bad_request(format!(
                "unrecognized includeObject value {other:?}: use None, Metadata or Object"
            ))),
        }
    }
}

/// `meta.k8s.io/v1` or `v1beta1`.
pub fn api_version(beta: bool) -> &'static str {
    if beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
}

/// `columnDefinitions`.
pub fn columns(version: &ServedVersion, context: &HookContext) -> Value {
    if context.resource.strategy.cells.is_none() {
        return json!([
            {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
            {"name": "Created At", "type": "date", "format": "", "description": "", "priority": 0},
        ]);
    }
    let column = |c: &Column| json!({"name": c.name, "type": c.ty, "format": c.format, "description": c.description, "priority": c.priority});
    version.columns.iter().map(column).collect()
}

/// `columnDefinitions` of a Scale.
pub fn scale_columns() -> Value {
    let column =
        |(name, ty): (&str, &str)| json!({"name": name, "type": ty, "format": "", "description": "", "priority": 0});
    [("Name", "string"), ("Desired", "integer"), ("Available", "integer"), ("Age", "string")]
        .into_iter()
        .map(column)
        .collect()
}

/// The row of a Scale.
pub fn scale_row(scale: &Value, include: IncludeObject, beta: bool, context: &HookContext) -> Value {
    let at = At::root(scale);
    let (desired, available) = (at.get("spec.replicas").number(), at.get("status.replicas").number());
    let cells = vec![meta::name(scale).into(), desired.into(), available.into(), age(&at, context.request.now)];
    with_object(&cells, None, scale, include, beta, context)
}

/// One row of an object in its served form.
pub fn row(object: &Value, include: IncludeObject, beta: bool, context: &HookContext) -> Value {
    let cells = match context.resource.strategy.cells {
        Some(cells) => cells(object, context),
        None => vec![meta::name(object).into(), object["metadata"]["creationTimestamp"].clone()],
    };
    let conditions = (context.resource.strategy.row_conditions)(object);
    with_object(&cells, conditions, object, include, beta, context)
}

fn with_object(
    cells: &[Value],
    conditions: Option<Value>,
    object: &Value,
    include: IncludeObject,
    beta: bool,
    context: &HookContext,
) -> Value {
    let mut row = json!({"cells": cells});
    if let Some(conditions) = conditions {
        row["conditions"] = conditions;
    }
    match include {
        IncludeObject::None => row["object"] = Value::Null,
        IncludeObject::Metadata => row["object"] = partial(object, beta, context.resource),
        IncludeObject::Object => row["object"] = object.clone(),
    }
    row
}

/// The object's PartialObjectMetadata.
pub fn partial(object: &Value, beta: bool, resource: &Resource) -> Value {
    let mut metadata = object["metadata"].clone();
    for hidden in resource.strategy.hidden_annotations {
        edit_map(&mut metadata, "annotations", |annotations| drop(annotations.remove(*hidden)));
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": api_version(beta), "metadata": metadata})
}

/// A Table of the given rows; `with_columns` is false for all but the first event of a watch.
pub fn table(list_metadata: &Value, columns: &Value, rows: &[Value], beta: bool) -> Value {
    json!({"kind": "Table", "apiVersion": api_version(beta), "metadata": list_metadata,
        "columnDefinitions": columns, "rows": rows})
}
