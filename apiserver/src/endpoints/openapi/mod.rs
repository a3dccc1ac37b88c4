//! OpenAPI: `/openapi/v3` (an index with hashes and one document per path) and `/openapi/v2`, from the schema table.
//!
//! Documents are made when first asked for and kept, compressed, until the resource table changes. Served as JSON,
//! `/openapi/v2` by [`WithProtobuf`] in protobuf too; a client that insists on protobuf of version 3 gets 406.

mod descriptions;
mod operations;
mod protobuf;
mod schemas;
#[cfg(test)]
mod tests;
mod v2;
mod v3;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use descriptions::Descriptions;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use crate::resources::{ResourceTable, SharedTable};

pub use self::protobuf::WithProtobuf;

/// `info.version` of the documents: major and minor.
fn info_version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"))
}

/// A document, kept small: together they are megabytes that hardly anybody asks for twice.
#[derive(Clone)]
struct Document {
    /// gzip.
    packed: Bytes,
    /// Upper-case hex of SHA-512 of the plain text.
    hash: String,
}

impl Document {
    fn new(text: &str) -> Option<Self> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).ok()?;
        Some(Self { packed: encoder.finish().ok()?.into(), hash: hex::encode_upper(Sha512::digest(text)) })
    }

    fn text(&self) -> std::io::Result<Bytes> {
        let mut text = Vec::new();
        GzDecoder::new(&*self.packed).read_to_end(&mut text)?;
        Ok(text.into())
    }
}

#[derive(Default)]
struct Cache {
    of: Option<Arc<ResourceTable>>,
    documents: BTreeMap<String, Document>,
}

/// Answers OpenAPI requests.
pub struct OpenApi {
    table: SharedTable,
    cache: Mutex<Cache>,
}

/// Paths with a document, relative to `/openapi/v3/`.
fn served_paths(table: &ResourceTable) -> Vec<String> {
    let fixed = [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"];
    let mut paths: Vec<String> = fixed.map(str::to_owned).to_vec();
    for resource in table.iter() {
        for served in &resource.versions {
            if resource.group.is_empty() {
                paths.push(format!("api/{}", served.version));
            } else {
                paths.push(format!("apis/{}", resource.group));
                paths.push(format!("apis/{}/{}", resource.group, served.version));
            }
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

/// The document of a path relative to `/openapi/v3/`.
fn make(table: &ResourceTable, path: &str) -> Option<Value> {
    let segments: Vec<&str> = path.split('/').collect();
    match segments.as_slice() {
        ["version"] => Some(v3::single(&v3::version_item())),
        ["openid", "v1", "jwks"] => Some(v3::single(&v3::key_set_item())),
        [".well-known", "openid-configuration"] => Some(v3::single(&v3::issuer_item())),
        ["api"] => Some(v3::discovery("/api/", "core", "getCoreAPIVersions".to_owned(), "APIVersions")),
        ["apis"] => Some(v3::discovery("/apis/", "apis", "getAPIVersions".to_owned(), "APIGroupList")),
        ["apis", group] => {
            table.iter().find(|r| r.group == *group)?;
            let id = format!("get{}APIGroup", operations::group_title(group));
            Some(v3::discovery(&format!("/apis/{group}/"), &operations::group_tag(group), id, "APIGroup"))
        }
        ["api", version] => v3::group_version(table, "", version),
        ["apis", group, version] => v3::group_version(table, group, version),
        _ => None,
    }
}

impl OpenApi {
    /// Of what the table serves.
    pub fn new(table: SharedTable) -> Self {
        Self { table, cache: Mutex::default() }
    }

    /// Answers a GET of `path` with `query` (as in the URL, not decoded); `None` when there is no such document.
    pub fn respond(&self, path: &str, query: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
        let path = path.trim_matches('/');
        let wanted = path.strip_prefix("openapi/v3").map(|rest| rest.trim_start_matches('/'));
        if path != "openapi/v2" && wanted.is_none() {
            return None;
        }
        if !accepts_json(headers) {
            return Some(super::discovery::not_acceptable());
        }
        let document = match wanted {
            None => self.document("v2", v2::whole)?,
            Some("") => self.document("v3", |table| self.index(table))?,
            Some(document) => match self.document(document, |table| make(table, document)) {
                Some(document) => document,
                None => return Response::builder().status(StatusCode::NOT_FOUND).body(Bytes::new()).ok(),
            },
        };
        let hash = query.split('&').find_map(|pair| pair.strip_prefix("hash="));
        answer(path, &document, hash, headers)
    }

    fn document(&self, key: &str, make: impl FnOnce(&ResourceTable) -> Option<Value>) -> Option<Document> {
        let table = self.table.load();
        let known = {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if !cache.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &table)) {
                *cache = Cache { of: Some(Arc::clone(&table)), documents: BTreeMap::new() };
            }
            cache.documents.get(key).cloned()
        };
        if known.is_some() {
            return known;
        }
        // Made without the lock: the index asks for every other document.
        let document = Document::new(&make(&table)?.to_string())?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &table)) {
            cache.documents.insert(key.to_owned(), document.clone());
        }
        Some(document)
    }

    fn index(&self, table: &ResourceTable) -> Option<Value> {
        let mut paths = serde_json::Map::new();
        let _unpacked_once = Descriptions::get();
        for path in served_paths(table) {
            let document = self.document(&path, |table| make(table, &path))?;
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
        Some(json!({"paths": paths}))
    }
}

fn accepts_json(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",");
    let json = |clause: &str| {
        let media = clause.split(';').next().unwrap_or_default().trim();
        matches!(media, "application/json" | "application/*" | "*/*")
    };
    accept.trim().is_empty() || accept.split(',').any(json)
}

fn answer(path: &str, document: &Document, hash: Option<&str>, headers: &HeaderMap) -> Option<Response<Bytes>> {
    let builder = Response::builder();
    if hash.is_some_and(|asked| asked != document.hash) {
        // The client's link is of another time: it is sent to the present one.
        let location = format!("/{path}?hash={}", document.hash);
        return builder.status(StatusCode::MOVED_PERMANENTLY).header(LOCATION, location).body(Bytes::new()).ok();
    }
    let etag = format!("\"{}\"", document.hash);
    let mut builder = builder.header(CONTENT_TYPE, "application/json").header(VARY, "Accept").header(ETAG, &etag);
    if hash.is_some() {
        builder = builder.header(CACHE_CONTROL, "public, immutable").header("Expires", "Fri, 31 Dec 2100 00:00:00 GMT");
    }
    if headers.get(IF_NONE_MATCH).is_some_and(|seen| seen.as_bytes() == etag.as_bytes()) {
        return builder.status(StatusCode::NOT_MODIFIED).body(Bytes::new()).ok();
    }
    builder.body(document.text().ok()?).ok()
}
