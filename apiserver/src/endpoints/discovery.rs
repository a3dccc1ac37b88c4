//! Discovery: which groups, versions and resources are served, one document per path (`/api`, `/apis`, `/apis/G`,
//! `/apis/G/V`) and aggregated into one document per root.
//!
//! The documents are pure functions of the resource table; [`Discovery`] keeps those it was asked for until the table
//! changes. Groups come in upstream's order, custom ones after the built-in ones by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use apimachinery::proto;
use apimachinery::resources::GROUPS;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use crate::resources::{Resource, ResourceTable, SharedTable, Subresource};

/// Media type of the aggregated document.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A served group as discovery shows it.
struct Group<'t> {
    name: &'t str,
    versions: Vec<&'t str>,
}

impl Group<'_> {
    fn group_version(&self, version: &str) -> String {
        if self.name.is_empty() { version.to_owned() } else { format!("{}/{version}", self.name) }
    }
}

/// Groups in discovery order with their versions, the preferred one first.
fn groups(table: &ResourceTable) -> Vec<Group<'_>> {
    let mut served: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for resource in table.iter() {
        let versions = served.entry(&resource.group).or_default();
        for served in &resource.versions {
            if !versions.contains(&served.version.as_str()) {
                versions.push(&served.version);
            }
        }
    }
    let position = |name: &str| GROUPS.iter().position(|g| g.group == name).unwrap_or(usize::MAX);
    let mut groups: Vec<Group> = served.into_iter().map(|(name, versions)| Group { name, versions }).collect();
    groups.sort_by_key(|group| position(group.name));
    for group in &mut groups {
        match GROUPS.iter().find(|g| g.group == group.name) {
            Some(facts) => group.versions.sort_by_key(|v| facts.versions.iter().position(|(name, _)| name == v)),
            None => group.versions.sort_by(|a, b| version_priority(b).cmp(&version_priority(a)).then(a.cmp(b))),
        }
    }
    groups
}

/// Upstream's order of version names: `v2`, `v1`, `v2beta1`, `v1alpha1`, then others.
pub fn version_priority(name: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse::<u32>().ok();
    let parse = || -> Option<(u8, u32, u32)> {
        let rest = name.strip_prefix('v')?;
        for (word, level) in [("beta", 2), ("alpha", 1)] {
            if let Some((major, minor)) = rest.split_once(word) {
                return Some((level, number(major)?, number(minor)?));
            }
        }
        Some((3, number(rest)?, 0))
    };
    parse().unwrap_or((0, 0, 0))
}

/// `/api`.
fn core_versions(table: &ResourceTable, server_address: &str) -> Value {
    let versions: Vec<&str> =
        groups(table).into_iter().filter(|g| g.name.is_empty()).flat_map(|g| g.versions).collect();
    json!({
        "kind": "APIVersions",
        "versions": versions,
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

fn group_document(group: &Group) -> Value {
    let version = |v: &&str| json!({"groupVersion": group.group_version(v), "version": v});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

/// `/apis`.
fn group_list(table: &ResourceTable) -> Value {
    let groups: Vec<Value> = groups(table).iter().filter(|g| !g.name.is_empty()).map(group_document).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/G`.
fn group(table: &ResourceTable, name: &str) -> Option<Value> {
    let groups = groups(table);
    let mut document = group_document(groups.iter().find(|g| g.name == name && !name.is_empty())?);
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Some(document)
}

/// The resources of a group and version, sorted by name.
fn served<'t>(table: &'t ResourceTable, group: &str, version: &str) -> Vec<&'t Resource> {
    let serves = |r: &&Arc<Resource>| r.group == group && r.version(version).is_some();
    let mut rows: Vec<&Resource> = table.iter().filter(serves).map(AsRef::as_ref).collect();
    rows.sort_by(|a, b| a.plural.cmp(&b.plural));
    rows
}

/// `/api/v1` and `/apis/G/V`.
fn resource_list(table: &ResourceTable, group: &str, version: &str) -> Option<Value> {
    let rows = served(table, group, version);
    if rows.is_empty() {
        return None;
    }
    let mut resources = Vec::new();
    for resource in rows {
        let mut row = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs,
        });
        add_names(&mut row, resource);
        if let Some(storage) = &resource.storage {
            row["storageVersionHash"] = storage.version_hash.as_str().into();
        }
        resources.push(row);
        resources.extend(resource.subresources_of(version).map(|sub| subresource(resource, sub, version)));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources});
    // Upstream's core document has no apiVersion, for clients of the first days.
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    Some(list)
}

fn add_names(row: &mut Value, resource: &Resource) {
    if !resource.short_names.is_empty() {
        row["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        row["categories"] = resource.categories.clone().into();
    }
}

fn subresource(resource: &Resource, sub: &Subresource, version: &str) -> Value {
    let mut row = json!({
        "name": format!("{}/{}", resource.plural, sub.name), "singularName": "", "namespaced": resource.namespaced,
        "kind": sub.gvk.kind, "verbs": sub.verbs,
    });
    if (sub.gvk.group.as_str(), sub.gvk.version.as_str()) != (resource.group.as_str(), version)
        && !speaks_own(resource, sub)
    {
        row["group"] = sub.gvk.group.as_str().into();
        row["version"] = sub.gvk.version.as_str().into();
    }
    row
}

/// The subresource speaks the resource's own kind, whatever version the row was made for.
fn speaks_own(resource: &Resource, sub: &Subresource) -> bool {
    sub.gvk.group == resource.group && sub.gvk.kind == resource.kind
}

/// The aggregated form of `/api` (core only) or `/apis` (all others).
fn aggregated(table: &ResourceTable, core: bool) -> Value {
    let mut items = Vec::new();
    for group in groups(table).iter().filter(|g| g.name.is_empty() == core) {
        let version = |version: &&str| {
            let rows = served(table, group.name, version);
            let resources: Vec<Value> = rows.into_iter().map(|r| aggregated_resource(r, version)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        };
        let versions: Vec<Value> = group.versions.iter().map(version).collect();
        let metadata = if core { json!({}) } else { json!({"name": group.name}) };
        items.push(json!({"metadata": metadata, "versions": versions}));
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(resource: &Resource, version: &str) -> Value {
    let mut row = json!({
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    add_names(&mut row, resource);
    let sub = |sub: &Subresource| {
        let own = speaks_own(resource, sub);
        let version = if own { version } else { &sub.gvk.version };
        json!({
            "subresource": sub.name,
            "responseKind": {"group": sub.gvk.group, "version": version, "kind": sub.gvk.kind},
            "verbs": sub.verbs,
        })
    };
    let subresources: Vec<Value> = resource.subresources_of(version).map(sub).collect();
    if !subresources.is_empty() {
        row["subresources"] = subresources.into();
    }
    row
}

/// What a client accepts of what discovery can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Json,
    Yaml,
    Protobuf,
    Aggregated,
}

impl Form {
    fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => proto::MEDIA_TYPE,
            Self::Aggregated => AGGREGATED,
        }
    }
}

/// The first acceptable form; `None` when there is none.
fn negotiate(headers: &HeaderMap, can_aggregate: bool) -> Option<Form> {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",");
    if accept.trim().is_empty() {
        return Some(Form::Json);
    }
    accept.split(',').find_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
        let parameter = |name: &str| parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
        match (media, parameter("as")) {
            ("application/json", Some("APIGroupDiscoveryList"))
                if can_aggregate && (parameter("g"), parameter("v")) == (Some("apidiscovery.k8s.io"), Some("v2")) =>
            {
                Some(Form::Aggregated)
            }
            (_, Some(_)) => None,
            ("application/json" | "*/*", None) => Some(Form::Json),
            ("application/yaml", None) => Some(Form::Yaml),
            (proto::MEDIA_TYPE, None) => Some(Form::Protobuf),
            _ => None,
        }
    })
}

/// An encoded document.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    etag: Option<String>,
}

fn encode(value: &Value, form: Form) -> Document {
    let bytes: Bytes = match form {
        Form::Json | Form::Aggregated => value.to_string().into(),
        Form::Yaml => serde_saphyr::to_string(value).unwrap_or_default().into(),
        Form::Protobuf => proto::encode_any(value).unwrap_or_default().into(),
    };
    let etag = (form == Form::Aggregated).then(|| format!("\"{}\"", hex::encode_upper(Sha512::digest(&bytes))));
    Document { bytes, etag }
}

/// Answers discovery requests; keeps the documents of the current table.
pub struct Discovery {
    table: SharedTable,
    server_address: String,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    of: Option<Arc<ResourceTable>>,
    documents: BTreeMap<(String, Form), Document>,
}

impl Discovery {
    /// `server_address` (`host:port`) is what clients of any network are told in `/api`.
    pub fn new(table: SharedTable, server_address: String) -> Self {
        Self { table, server_address, cache: Mutex::default() }
    }

    /// Answers a GET of `path`; `None` when the path is no discovery path or names nothing served.
    pub fn respond(&self, path: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let root = matches!(segments.as_slice(), ["api" | "apis"]);
        if !root && !matches!(segments.as_slice(), ["api" | "apis", _] | ["apis", _, _]) {
            return None;
        }
        let Some(form) = negotiate(headers, root) else { return Some(not_acceptable()) };
        let document = self.document(&segments, form)?;
        let matches = |etag: &String| headers.get(IF_NONE_MATCH).is_some_and(|seen| seen.as_bytes() == etag.as_bytes());
        let unchanged = document.etag.as_ref().is_some_and(matches);
        let mut builder = Response::builder().header(CONTENT_TYPE, form.media_type()).header(VARY, "Accept");
        if let Some(etag) = &document.etag {
            builder = builder.header(ETAG, etag).header(http::header::CACHE_CONTROL, "public");
        }
        let (status, body) =
            if unchanged { (StatusCode::NOT_MODIFIED, Bytes::new()) } else { (StatusCode::OK, document.bytes) };
        builder.status(status).body(body).ok()
    }

    fn document(&self, segments: &[&str], form: Form) -> Option<Document> {
        let table = self.table.load();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if !cache.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &table)) {
            *cache = Cache { of: Some(Arc::clone(&table)), documents: BTreeMap::new() };
        }
        let key = (segments.join("/"), form);
        if let Some(document) = cache.documents.get(&key) {
            return Some(document.clone());
        }
        let value = match (segments, form) {
            ([root], Form::Aggregated) => aggregated(&table, *root == "api"),
            (["api"], _) => core_versions(&table, &self.server_address),
            (["apis"], _) => group_list(&table),
            (["api", version], _) => resource_list(&table, "", version)?,
            (["apis", name], _) => group(&table, name)?,
            (["apis", name, version], _) => resource_list(&table, name, version)?,
            _ => return None,
        };
        let document = encode(&value, form);
        cache.documents.insert(key, document.clone());
        Some(document)
    }
}

/// 406 with the media types that would do.
pub(super) fn not_acceptable() -> Response<Bytes> {
    let message = "only the following media types are accepted: application/json, application/yaml";
    let mut status = apimachinery::status::Status::not_acceptable(message);
    // As upstream's router answers, for which nothing is the object of the request.
    status.details = Some(Box::default());
    let mut response = Response::new(Bytes::from(status.to_value().to_string()));
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, accept: &str) -> Option<(String, Value)> {
        let discovery = Discovery::new(SharedTable::new(crate::resources::table()), "10.0.0.1:6443".to_owned());
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(ACCEPT, accept.parse().unwrap());
        }
        let response = discovery.respond(path, &headers)?;
        let media = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        Some((media, serde_json::from_slice(response.body()).unwrap_or_default()))
    }

    #[test]
    fn documents_of_each_path() {
        let (_, api) = get("/api/", "").unwrap();
        assert_eq!((&api["kind"], &api["versions"]), (&json!("APIVersions"), &json!(["v1"])));
        let (_, apis) = get("/apis", "").unwrap();
        assert_eq!(apis["groups"].as_array().unwrap().len(), GROUPS.len() - 1);
        let (_, autoscaling) = get("/apis/autoscaling", "").unwrap();
        assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
        let (_, apps) = get("/apis/apps/v1", "*/*").unwrap();
        let scale = apps["resources"].as_array().unwrap().iter().find(|r| r["name"] == "deployments/scale").unwrap();
        assert_eq!(
            (&scale["group"], &scale["version"], &scale["kind"]),
            (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
        );
        let (_, core) = get("/api/v1", "").unwrap();
        assert!(core.get("apiVersion").is_none());
        assert_eq!(core["resources"][0]["name"], "bindings");
        let (_, old) = get("/apis/autoscaling/v1", "").unwrap();
        assert!(old["resources"][1].get("group").is_none());
        assert!(get("/apis/none", "").is_none());
        assert!(get("/api/v2", "").is_none());
        assert!(get("/api/v1/pods", "").is_none());
    }

    #[test]
    fn forms_are_negotiated() {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        let (media, document) = get("/apis", accept).unwrap();
        assert_eq!(media, AGGREGATED);
        assert_eq!(document["items"][1]["metadata"]["name"], "apps");
        assert_eq!(document["items"][1]["versions"][0]["resources"][2]["subresources"][0]["subresource"], "scale");
        assert_eq!(get("/apis/apps", accept).unwrap().0, "application/json");
        assert_eq!(get("/api", "application/yaml").unwrap().0, "application/yaml");
        assert_eq!(get("/api", "text/html").unwrap().1["code"], 406);
        let discovery = Discovery::new(SharedTable::new(crate::resources::table()), String::new());
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let etag = discovery.respond("/api", &headers).unwrap().headers()[ETAG].clone();
        headers.insert(IF_NONE_MATCH, etag);
        assert_eq!(discovery.respond("/api", &headers).unwrap().status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn versions_sort_as_upstream_sorts_them() {
        let mut names = ["foo", "v1alpha1", "v1", "v10", "v2beta1", "v2"];
        names.sort_by(|a, b| version_priority(b).cmp(&version_priority(a)).then(a.cmp(b)));
        assert_eq!(names, ["v10", "v2", "v1", "v2beta1", "v1alpha1", "foo"]);
    }
}
