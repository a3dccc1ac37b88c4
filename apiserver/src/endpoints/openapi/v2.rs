//! The OpenAPI 2.0 document: all groups in one.

use serde_json::{Map, Value, json};

use super::operations::{self, Content, Operation, Parameter, PathItem};
use super::schemas::{Dialect, Schemas};
use super::v3::{common, description, patches};
use crate::resources::ResourceTable;

const STRUCTURED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// The whole document.
pub fn whole(table: &ResourceTable) -> Option<Value> {
    let mut paths = Map::new();
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for resource in table.iter() {
        for served in &resource.versions {
            let key = (resource.group.as_str(), served.version.as_str());
            if !seen.contains(&key) {
                seen.push(key);
            }
        }
    }
    let mut schemas = Schemas::new(Dialect::V2, seen.clone());
    for resource in table.iter() {
        for served in &resource.versions {
            schemas.add_served(resource, served);
        }
    }
    for (group, version) in seen {
        let mut items = operations::paths(table, group, version);
        let tag = operations::group_tag(group);
        let (path, id, kind) = if group.is_empty() {
            ("/api/".to_owned(), "getCoreAPIVersions".to_owned(), "APIVersions")
        } else {
            (format!("/apis/{group}/"), format!("get{}APIGroup", operations::group_title(group)), "APIGroup")
        };
        items.push(PathItem { path, tag, operations: vec![operations::document(id, kind)] });
        for item in &items {
            add(&mut paths, item, &mut schemas);
        }
    }
    let operations = vec![operations::document("getAPIVersions".to_owned(), "APIGroupList")];
    add(&mut paths, &PathItem { path: "/apis/".to_owned(), tag: "apis".to_owned(), operations }, &mut schemas);
    for item in [super::v3::version_item(), super::v3::key_set_item(), super::v3::issuer_item()] {
        add(&mut paths, &item, &mut schemas);
    }
    Some(json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": super::info_version()},
        "paths": paths,
        "definitions": schemas.into_map(),
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    }))
}

fn add(paths: &mut Map<String, Value>, item: &PathItem, schemas: &mut Schemas<'_>) {
    let common = common(item);
    let mut result = Map::new();
    for operation in &item.operations {
        let content = match &operation.content {
            Content::Type(name) => Some(name),
            Content::Stream | Content::Text => None,
        };
        for name in content.into_iter().chain(operation.body.as_ref().map(|(name, _)| name)) {
            schemas.add(name, None);
        }
        result.insert(operation.method.to_owned(), render(operation, &item.tag, &common));
    }
    if !common.is_empty() {
        result.insert("parameters".to_owned(), common.iter().map(parameter).collect());
    }
    paths.insert(item.path.clone(), result.into());
}

fn parameter(parameter: &Parameter) -> Value {
    let mut value = json!({"uniqueItems": true, "type": parameter.ty, "name": parameter.name,
        "in": if parameter.in_query { "query" } else { "path" }});
    if !parameter.in_query {
        value["required"] = true.into();
    }
    value
}

fn render(operation: &Operation, tag: &str, common: &[Parameter]) -> Value {
    let streams: &[&str] = if operation.streams { &STREAMS } else { &[] };
    let produces: Vec<&str> = match &operation.content {
        Content::Type(_) => STRUCTURED.iter().chain(streams).copied().collect(),
        Content::Stream => vec!["*/*"],
        Content::Text => ["text/plain"].iter().chain(&STRUCTURED).copied().collect(),
    };
    let consumes = match (operation.patch, operation.gvk.is_some()) {
        (true, _) => patches(operation),
        (_, true) => vec!["*/*"],
        _ => STRUCTURED.to_vec(),
    };
    let mut result = json!({"consumes": consumes, "produces": produces, "schemes": ["https"], "tags": [tag], "operationId": operation.id});
    let mut parameters = Vec::new();
    if let Some((name, required)) = &operation.body {
        let mut body = json!({"name": "body", "in": "body", "schema": Dialect::V2.reference(name)});
        if *required {
            body["required"] = true.into();
        }
        parameters.push(body);
    }
    let mut own: Vec<&Parameter> = operation.parameters.iter().filter(|p| !common.contains(p)).collect();
    own.sort();
    parameters.extend(own.into_iter().map(parameter));
    if !parameters.is_empty() {
        result["parameters"] = parameters.into();
    }
    let schema = match &operation.content {
        Content::Type(name) => Dialect::V2.reference(name),
        Content::Stream | Content::Text => json!({"type": "string"}),
    };
    let mut responses = Map::new();
    for code in operation.codes {
        responses.insert(code.to_string(), json!({"description": description(*code), "schema": schema}));
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    result["responses"] = responses.into();
    if let Some((group, version, kind)) = &operation.gvk {
        result["x-kubernetes-action"] = operation.action.into();
        result["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": kind});
    }
    result
}
