//! The typed verbs: get, list, create, update, patch, delete, watch, and their subresource forms.
//!
//! Loops decode partially, so they never PUT what they decoded: they patch or create. `update` is for whole objects that
//! the caller built itself (a Lease, a CSR's approval).

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Client;
use crate::error::ClientError;
use crate::resource::{ResourceRef, encode_into};

/// What to list or watch. Empty fields are not sent.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// `a=b,c in (d,e)`.
    pub label_selector: String,
    /// `spec.nodeName=n`.
    pub field_selector: String,
    /// Objects per page; 0 is all.
    pub limit: u32,
    /// Token of the previous page.
    pub continue_token: String,
    /// State to list from; empty is the newest.
    pub resource_version: String,
    /// `Exact` or `NotOlderThan`.
    pub resource_version_match: String,
    /// Only metadata (`PartialObjectMetadata`), for loops that work on every kind.
    pub metadata_only: bool,
}

impl ListOptions {
    fn accept(&self) -> &'static str {
        if self.metadata_only {
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
        } else {
            JSON
        }
    }

    fn accept_list(&self) -> &'static str {
        if self.metadata_only {
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
        } else {
            JSON
        }
    }

    pub(crate) fn query(&self) -> Vec<(&'static str, String)> {
        let limit = if self.limit > 0 { self.limit.to_string() } else { String::new() };
        [
            ("labelSelector", self.label_selector.clone()),
            ("fieldSelector", self.field_selector.clone()),
            ("limit", limit),
            ("continue", self.continue_token.clone()),
            ("resourceVersion", self.resource_version.clone()),
            ("resourceVersionMatch", self.resource_version_match.clone()),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect()
    }
}

/// A page of objects, or all of them.
#[derive(Clone, Debug, Default)]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
    /// The state they are from.
    pub resource_version: String,
    /// Token of the next page; empty at the end.
    pub continue_token: String,
    /// How many more there are, where the server says so.
    pub remaining_items: usize,
}

#[derive(Deserialize)]
struct WireList<T> {
    #[serde(default)]
    metadata: WireListMeta,
    items: Option<Vec<T>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WireListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: String,
    remaining_item_count: usize,
}

/// A change of an object, in one of the API's forms.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 7386; put `metadata.resourceVersion` in it where a lost update matters.
    Merge(Value),
    /// Strategic merge, with the schema's merge keys.
    Strategic(Value),
    /// RFC 6902.
    Json(Value),
    /// Server-side apply of a whole intent.
    Apply {
        /// Field manager.
        manager: String,
        /// Take fields over from other managers.
        force: bool,
        /// The intent with `apiVersion`, `kind` and `metadata.name`.
        value: Value,
    },
}

/// How to delete.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Seconds; the object's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// `Foreground`, `Background`, `Orphan`; the resource's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<String>,
    /// Only this very object, only in this state.
    #[serde(skip_serializing_if = "Preconditions::is_empty")]
    pub preconditions: Preconditions,
}

/// What must hold for a deletion.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// Only the object of this uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Only in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl Preconditions {
    fn is_empty(&self) -> bool {
        self.uid.is_none() && self.resource_version.is_none()
    }
}

impl DeleteOptions {
    /// Only the object of this uid.
    pub fn of_uid(uid: &str) -> Self {
        Self { preconditions: Preconditions { uid: Some(uid.to_owned()), resource_version: None }, ..Self::default() }
    }
}

/// `path?a=b&c=d` with encoded values.
pub(crate) fn with_query(mut path: String, query: &[(&str, String)]) -> String {
    for (index, (key, value)) in query.iter().enumerate() {
        path.push(if index == 0 { '?' } else { '&' });
        path.push_str(key);
        path.push('=');
        encode_into(&mut path, value);
    }
    path
}

fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ClientError> {
    crate::decode::from_slice(bytes)
        .map_err(|e| ClientError::Decode { request: what.to_owned(), reason: e.to_string() })
}

fn request(method: Method, path: &str, content_type: &str, body: Bytes) -> Result<Request<Bytes>, ClientError> {
    accepting(JSON, method, path, content_type, body)
}

fn accepting(
    accept: &'static str,
    method: Method,
    path: &str,
    content_type: &str,
    body: Bytes,
) -> Result<Request<Bytes>, ClientError> {
    let mut builder = Request::builder().method(method).uri(path).header(http::header::ACCEPT, accept);
    if !content_type.is_empty() {
        builder = builder.header(http::header::CONTENT_TYPE, content_type);
    }
    builder.body(body).map_err(|e| ClientError::Request(format!("{path}: {e}")))
}

fn encode(body: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|e| ClientError::Request(e.to_string()))
}

const JSON: &str = "application/json";

impl Client {
    async fn unary<R: DeserializeOwned>(&self, request: Request<Bytes>) -> Result<R, ClientError> {
        let what = format!("{} {}", request.method(), request.uri());
        decode(&what, self.raw(request).await?.body())
    }

    /// One object.
    pub async fn get<T: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<T, ClientError> {
        self.unary(request(Method::GET, &resource.path(namespace, Some(name), None), "", Bytes::new())?).await
    }

    /// A subresource of one object (`scale`).
    pub async fn get_sub<T: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        name: &str,
        subresource: &str,
    ) -> Result<T, ClientError> {
        let path = resource.path(namespace, Some(name), Some(subresource));
        self.unary(request(Method::GET, &path, "", Bytes::new())?).await
    }

    /// One page (all objects without a limit) of one namespace, or of all.
    pub async fn list<T: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<List<T>, ClientError> {
        let path = with_query(resource.path(namespace, None, None), &options.query());
        let request = accepting(options.accept_list(), Method::GET, &path, "", Bytes::new())?;
        let page: WireList<T> = self.unary(request).await?;
        Ok(List {
            items: page.items.unwrap_or_default(),
            resource_version: page.metadata.resource_version,
            continue_token: page.metadata.continue_token,
            remaining_items: page.metadata.remaining_item_count,
        })
    }

    /// The raw event lines from a state on; the response's body does not end before the server ends it.
    pub async fn watch(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        options: &ListOptions,
        timeout_seconds: u32,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut query = options.query();
        query.push(("watch", "true".to_owned()));
        query.push(("allowWatchBookmarks", "true".to_owned()));
        query.push(("timeoutSeconds", timeout_seconds.to_string()));
        let path = with_query(resource.path(namespace, None, None), &query);
        self.stream(accepting(options.accept(), Method::GET, &path, "", Bytes::new())?).await
    }

    /// Creates an object.
    pub async fn create<R: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        object: &impl Serialize,
    ) -> Result<R, ClientError> {
        let path = resource.path(namespace, None, None);
        self.unary(request(Method::POST, &path, JSON, encode(object)?)?).await
    }

    /// Posts to a subresource: `binding`, `eviction`, `token`.
    pub async fn create_sub<R: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        name: &str,
        subresource: &str,
        body: &impl Serialize,
    ) -> Result<R, ClientError> {
        let path = resource.path(namespace, Some(name), Some(subresource));
        self.unary(request(Method::POST, &path, JSON, encode(body)?)?).await
    }

    /// Replaces a whole object that the caller built.
    pub async fn update<R: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        name: &str,
        object: &impl Serialize,
    ) -> Result<R, ClientError> {
        let path = resource.path(namespace, Some(name), None);
        self.unary(request(Method::PUT, &path, JSON, encode(object)?)?).await
    }

    /// Replaces a subresource: `approval`, `status`, `finalize`.
    pub async fn put_sub<R: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        name: &str,
        subresource: &str,
        body: &impl Serialize,
    ) -> Result<R, ClientError> {
        let path = resource.path(namespace, Some(name), Some(subresource));
        self.unary(request(Method::PUT, &path, JSON, encode(body)?)?).await
    }

    /// Patches an object or a subresource.
    pub async fn patch<R: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        patch: &Patch,
    ) -> Result<R, ClientError> {
        let path = resource.path(namespace, Some(name), subresource);
        let (content_type, query, body) = match patch {
            Patch::Merge(value) => ("application/merge-patch+json", Vec::new(), value),
            Patch::Strategic(value) => ("application/strategic-merge-patch+json", Vec::new(), value),
            Patch::Json(value) => ("application/json-patch+json", Vec::new(), value),
            Patch::Apply { manager, force, value } => (
                "application/apply-patch+yaml",
                vec![("fieldManager", manager.clone()), ("force", force.to_string())],
                value,
            ),
        };
        self.unary(request(Method::PATCH, &with_query(path, &query), content_type, encode(body)?)?).await
    }

    /// Deletes an object; it may stay for a while with a deletion timestamp.
    pub async fn delete(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), ClientError> {
        let path = resource.path(namespace, Some(name), None);
        self.raw(request(Method::DELETE, &path, JSON, encode(options)?)?).await.map(drop)
    }

    /// Deletes all objects of a collection that match.
    pub async fn delete_collection(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<(), ClientError> {
        let path = with_query(resource.path(namespace, None, None), &list.query());
        self.raw(request(Method::DELETE, &path, JSON, encode(options)?)?).await.map(drop)
    }
}
