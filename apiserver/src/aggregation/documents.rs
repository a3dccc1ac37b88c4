//! Our own documents with those of the extension servers in them: discovery (by group and aggregated) and OpenAPI.
//!
//! A merged document is kept as long as ours and theirs stay the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use apimachinery::resources::GROUPS;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use super::{Aggregator, Backend, Backends};
use crate::endpoints::route::Documents;

/// Lowest priority of a group that comes before custom resources' groups.
const CUSTOM_PRIORITY: i64 = 1000;

struct Kept {
    ours: Bytes,
    theirs: Arc<Backends>,
    merged: Bytes,
    etag: HeaderValue,
}

/// Documents of the server, merged with those of extension servers.
pub struct Merged<D> {
    ours: D,
    aggregator: Arc<Aggregator>,
    kept: Mutex<BTreeMap<String, Kept>>,
}

impl<D: Documents> Merged<D> {
    /// `ours` with what the aggregator knows.
    pub fn new(ours: D, aggregator: Arc<Aggregator>) -> Self {
        Self { ours, aggregator, kept: Mutex::default() }
    }

    fn group(&self, backends: &Backends, path: &str, ours: Option<Response<Bytes>>) -> Option<Response<Bytes>> {
        let name = path.strip_prefix("/apis/")?;
        let mut groups: Vec<Value> = Vec::new();
        match ours {
            Some(response) => groups.push(serde_json::from_slice(response.body()).ok()?),
            None => {
                backends.keys().find(|(group, _)| group == name)?;
            }
        }
        merge_groups(&mut groups, backends);
        let mut group = groups.into_iter().find(|group| group["name"] == name)?;
        crate::admission::set(&mut group, "kind", "APIGroup");
        crate::admission::set(&mut group, "apiVersion", "v1");
        let builder = Response::builder().header(CONTENT_TYPE, "application/json");
        builder.body(group.to_string().into()).ok()
    }
}

impl<D: Documents> Documents for Merged<D> {
    fn respond(&self, path: &str, query: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
        let backends = self.aggregator.backends();
        let path = path.trim_end_matches('/');
        if backends.is_empty() {
            return self.ours.respond(path, query, headers);
        }
        let group = path.strip_prefix("/apis/").filter(|group| !group.contains('/'));
        if let Some(group) = group {
            let ours = self.ours.respond(path, query, headers);
            return match backends.keys().any(|(name, _)| name == group) {
                true => self.group(&backends, path, ours),
                false => ours,
            };
        }
        if !matches!(path, "/apis" | "/openapi/v2" | "/openapi/v3") {
            return self.ours.respond(path, query, headers);
        }
        let mut unconditional = headers.clone();
        unconditional.remove(IF_NONE_MATCH);
        let mut response = self.ours.respond(path, "", &unconditional)?;
        if response.status() != StatusCode::OK {
            return Some(response);
        }
        let media = response.headers().get(CONTENT_TYPE)?.to_str().ok()?.to_owned();
        let key = format!("{path} {media}");
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Ours is shared: as long as it is kept here, nothing else can lie at its address.
        let same =
            |kept: &&Kept| kept.ours.as_ptr() == response.body().as_ptr() && Arc::ptr_eq(&kept.theirs, &backends);
        if kept.get(&key).filter(same).is_none() {
            let ours = response.body().clone();
            let merged = merge(path, &media, &ours, &backends)?;
            let etag = HeaderValue::from_str(&format!("\"{}\"", hex::encode_upper(Sha512::digest(&merged)))).ok()?;
            kept.insert(key.clone(), Kept { ours, theirs: Arc::clone(&backends), merged, etag });
        }
        let found = kept.get(&key)?;
        if response.headers().contains_key(ETAG) {
            response.headers_mut().insert(ETAG, found.etag.clone());
        }
        if headers.get(IF_NONE_MATCH) == Some(&found.etag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Bytes::new();
        } else {
            *response.body_mut() = found.merged.clone();
        }
        Some(response)
    }
}

pub(super) fn merge(path: &str, media: &str, ours: &Bytes, backends: &Backends) -> Option<Bytes> {
    let yaml = media.contains("yaml");
    let mut document: Value = match yaml {
        true => serde_saphyr::from_str(std::str::from_utf8(ours).ok()?).ok()?,
        false => serde_json::from_slice(ours).ok()?,
    };
    match path {
        "/openapi/v3" => {
            let paths = document["paths"].as_object_mut()?;
            for backend in backends.values() {
                for (path, link) in &backend.learned.openapi_v3 {
                    paths.entry(path.clone()).or_insert_with(|| link.clone());
                }
            }
        }
        "/openapi/v2" => {
            for (part, backend) in ["paths", "definitions"].iter().flat_map(|p| backends.values().map(move |b| (p, b)))
            {
                let theirs = backend.learned.openapi_v2[*part].as_object().into_iter().flatten();
                let ours = document[*part].as_object_mut()?;
                for (name, value) in theirs {
                    ours.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
        }
        _ if document["kind"] == "APIGroupDiscoveryList" => {
            merge_aggregated(document["items"].as_array_mut()?, backends);
        }
        _ => merge_groups(document["groups"].as_array_mut()?, backends),
    }
    Some(if yaml { serde_saphyr::to_string(&document).ok()?.into() } else { document.to_string().into() })
}

/// The extension servers' groups, the most important first; versions within a group likewise.
fn ordered(backends: &Backends) -> Vec<&Backend> {
    let mut list: Vec<&Backend> = backends.values().map(|backend| &**backend).collect();
    list.sort_by_key(|b| (-b.spec.group_priority, b.spec.group.clone(), -b.spec.version_priority));
    list
}

/// Finds a group, or makes it where its priority says: before or after the custom ones.
fn entry<'g>(
    groups: &'g mut Vec<Value>,
    backend: &Backend,
    name: fn(&Value) -> &Value,
    new: impl FnOnce() -> Value,
) -> Option<&'g mut Value> {
    let found = groups.iter().position(|group| *name(group) == backend.spec.group);
    let at = found.unwrap_or_else(|| {
        let built_in = |group: &Value| GROUPS.iter().any(|g| *name(group) == g.group);
        let after_built_in = groups.iter().rposition(built_in).map_or(0, |last| last + 1);
        let at = if backend.spec.group_priority > CUSTOM_PRIORITY { after_built_in } else { groups.len() };
        groups.insert(at, new());
        at
    });
    groups.get_mut(at)
}

fn merge_groups(groups: &mut Vec<Value>, backends: &Backends) {
    for backend in ordered(backends).into_iter().rev() {
        let (group, version) = (&backend.spec.group, &backend.spec.version);
        let this = json!({"groupVersion": format!("{group}/{version}"), "version": version});
        let new = || json!({"name": group, "versions": [], "preferredVersion": this});
        let Some(entry) = entry(groups, backend, |group| &group["name"], new) else { continue };
        if let Some(versions) = entry["versions"].as_array_mut().filter(|versions| !versions.contains(&this)) {
            versions.insert(0, this.clone());
            crate::admission::set(entry, "preferredVersion", this);
        }
    }
}

fn merge_aggregated(groups: &mut Vec<Value>, backends: &Backends) {
    for backend in ordered(backends).into_iter().rev() {
        let new = || json!({"metadata": {"name": backend.spec.group}, "versions": []});
        let Some(entry) = entry(groups, backend, |group| &group["metadata"]["name"], new) else { continue };
        let this = json!({
            "version": backend.spec.version,
            "resources": aggregated_resources(backend),
            "freshness": if backend.available { "Current" } else { "Stale" },
        });
        if let Some(versions) = entry["versions"].as_array_mut() {
            versions.retain(|version| version["version"] != this["version"]);
            versions.insert(0, this);
        }
    }
}

/// An APIResourceList in the aggregated form.
fn aggregated_resources(backend: &Backend) -> Vec<Value> {
    let rows = backend.learned.resources["resources"].as_array().map_or(&[][..], Vec::as_slice);
    let kind = |row: &Value| {
        let or = |value: &Value, or: &str| value.as_str().filter(|v| !v.is_empty()).unwrap_or(or).to_owned();
        let (group, version) = (or(&row["group"], &backend.spec.group), or(&row["version"], &backend.spec.version));
        json!({"group": group, "version": version, "kind": row["kind"]})
    };
    let mut resources: Vec<Value> = Vec::new();
    for row in rows {
        let name = row["name"].as_str().unwrap_or_default();
        if let Some((parent, sub)) = name.split_once('/') {
            let sub = json!({"subresource": sub, "responseKind": kind(row), "verbs": row["verbs"]});
            let Some(parent) = resources.iter_mut().find(|r| r["resource"] == parent) else { continue };
            match parent["subresources"].as_array_mut() {
                Some(list) => list.push(sub),
                None => crate::admission::set(parent, "subresources", json!([sub])),
            }
            continue;
        }
        let mut resource = Map::from_iter([
            ("resource".to_owned(), name.into()),
            ("responseKind".to_owned(), kind(row)),
            ("scope".to_owned(), if row["namespaced"] == true { "Namespaced" } else { "Cluster" }.into()),
            ("singularResource".to_owned(), row["singularName"].clone()),
            ("verbs".to_owned(), row["verbs"].clone()),
        ]);
        for field in ["shortNames", "categories"] {
            resource.extend(row.get(field).map(|value| (field.to_owned(), value.clone())));
        }
        resources.push(resource.into());
    }
    resources
}
