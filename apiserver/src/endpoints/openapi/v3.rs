//! OpenAPI 3.0 documents, one per group and version.

use serde_json::{Map, Value, json};

use super::operations::{self, Content, Operation, Parameter, PathItem};
use super::schemas::{Dialect, Schemas};
use crate::resources::ResourceTable;

const STRUCTURED: [&str; 3] = ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
/// Media types of patches, in upstream's order.
const PATCHES: [&str; 4] = [
    "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// The media types of an operation that patches; custom resources have no strategic merge.
pub fn patches(operation: &Operation) -> Vec<&'static str> {
    PATCHES.into_iter().filter(|media| !operation.custom || !media.contains("strategic")).collect()
}

/// The document of a group and version; `None` when nothing is served there.
pub fn group_version(table: &ResourceTable, group: &str, version: &str) -> Option<Value> {
    let served = |r: &&std::sync::Arc<crate::resources::Resource>| r.group == group && r.version(version).is_some();
    table.iter().find(served)?;
    let items = operations::paths(table, group, version);
    let mut own = vec![("", "v1"), (group, version)];
    own.dedup();
    let mut schemas = Schemas::new(Dialect::V3, own);
    for resource in table.iter().filter(served) {
        if let Some(served) = resource.version(version) {
            schemas.add_served(resource, served);
        }
    }
    Some(document(&items, schemas))
}

/// A document of discovery operations alone (`/api`, `/apis`, `/apis/G`).
pub fn discovery(path: &str, tag: &str, id: String, kind: &str) -> Value {
    let operations = vec![operations::document(id, kind)];
    let items = [PathItem { path: path.to_owned(), tag: tag.to_owned(), operations }];
    document(&items, Schemas::new(Dialect::V3, vec![("", "v1")]))
}

/// `/version`.
pub fn version_item() -> PathItem {
    let mut operation = operations::document("getCodeVersion".to_owned(), "");
    operation.content = Content::Type(VERSION.to_owned());
    PathItem { path: "/version/".to_owned(), tag: "version".to_owned(), operations: vec![operation] }
}

/// The keys that sign service account tokens.
pub fn key_set_item() -> PathItem {
    let mut operation = operations::document("getServiceAccountIssuerOpenIDKeyset".to_owned(), "");
    operation.content = Content::Text;
    PathItem { path: "/openid/v1/jwks/".to_owned(), tag: "openid".to_owned(), operations: vec![operation] }
}

/// Who issues service account tokens.
pub fn issuer_item() -> PathItem {
    let mut operation = operations::document("getServiceAccountIssuerOpenIDConfiguration".to_owned(), "");
    operation.content = Content::Text;
    let path = "/.well-known/openid-configuration/".to_owned();
    PathItem { path, tag: "WellKnown".to_owned(), operations: vec![operation] }
}

/// The document of one path that is no API.
pub fn single(item: &PathItem) -> Value {
    let mut document = document(std::slice::from_ref(item), Schemas::new(Dialect::V3, vec![("", "v1")]));
    if item.path == "/version/" {
        // The version is JSON only.
        document["paths"]["/version/"]["get"]["responses"]["200"]["content"] =
            json!({"application/json": {"schema": Dialect::V3.reference(VERSION)}});
    }
    document
}

const VERSION: &str = "io.k8s.apimachinery.pkg.version.Info";

fn document(items: &[PathItem], mut schemas: Schemas<'_>) -> Value {
    let mut paths = Map::new();
    for item in items {
        for operation in &item.operations {
            let content = match &operation.content {
                Content::Type(name) => Some(name),
                Content::Stream | Content::Text => None,
            };
            for name in content.into_iter().chain(operation.body.as_ref().map(|(name, _)| name)) {
                schemas.add(name, None);
            }
        }
        paths.insert(item.path.clone(), path_item(item));
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": super::info_version()},
        "paths": paths,
        "components": {
            "schemas": schemas.into_map(),
            "securitySchemes": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        },
    })
}

/// Parameters that every operation of a path has, with those of the path itself.
pub fn common(item: &PathItem) -> Vec<Parameter> {
    let Some((first, others)) = item.operations.split_first() else { return Vec::new() };
    let everywhere = |p: &&Parameter| others.iter().all(|o| o.parameters.contains(p));
    let mut parameters: Vec<Parameter> = first.parameters.iter().filter(everywhere).cloned().collect();
    parameters.extend(operations::path_parameters(&item.path));
    parameters.sort();
    parameters
}

fn path_item(item: &PathItem) -> Value {
    let common = common(item);
    let mut result = Map::new();
    for operation in &item.operations {
        result.insert(operation.method.to_owned(), render(operation, &item.tag, &common));
    }
    if !common.is_empty() {
        result.insert("parameters".to_owned(), common.iter().map(parameter).collect());
    }
    result.into()
}

fn parameter(parameter: &Parameter) -> Value {
    let mut value = json!({"name": parameter.name, "in": if parameter.in_query { "query" } else { "path" },
        "schema": {"type": parameter.ty, "uniqueItems": true}});
    if !parameter.in_query {
        value["required"] = true.into();
    }
    value
}

fn render(operation: &Operation, tag: &str, common: &[Parameter]) -> Value {
    let mut result = json!({"tags": [tag], "operationId": operation.id});
    let mut own: Vec<&Parameter> = operation.parameters.iter().filter(|p| !common.contains(p)).collect();
    own.sort();
    if !own.is_empty() {
        result["parameters"] = own.into_iter().map(parameter).collect();
    }
    if let Some((name, required)) = &operation.body {
        let schema = json!({"schema": Dialect::V3.reference(name)});
        let media = if operation.patch { patches(operation) } else { vec!["*/*"] };
        let content: Map<String, Value> = media.iter().map(|&m| (m.to_owned(), schema.clone())).collect();
        result["requestBody"] = json!({"content": content});
        if *required {
            result["requestBody"]["required"] = true.into();
        }
    }
    let mut responses = Map::new();
    for code in operation.codes {
        responses.insert(code.to_string(), json!({"description": description(*code), "content": content(operation)}));
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    result["responses"] = responses.into();
    if let Some((group, version, kind)) = &operation.gvk {
        result["x-kubernetes-action"] = operation.action.into();
        result["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": kind});
    }
    result
}

/// The word for a status code.
pub fn description(code: u16) -> &'static str {
    match code {
        201 => "Created",
        202 => "Accepted",
        _ => "OK",
    }
}

fn content(operation: &Operation) -> Value {
    let (schema, media): (Value, Vec<&str>) = match &operation.content {
        Content::Type(name) => {
            let streams: &[&str] = if operation.streams { &STREAMS } else { &[] };
            (Dialect::V3.reference(name), STRUCTURED.iter().chain(streams).copied().collect())
        }
        Content::Stream => (json!({"type": "string"}), vec!["*/*"]),
        Content::Text => (json!({"type": "string"}), STRUCTURED.iter().copied().chain(["text/plain"]).collect()),
    };
    media.into_iter().map(|m| (m.to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}
