//! An API server of a few verbs, in memory: what the scheduler's own requests need.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use client::{Access, Client, ClientConfig};
use component_base::BoxError;
use component_base::serving::{Body, Server, full, service_fn};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Collection path, namespace, name.
type Key = (String, String, String);

#[derive(Default)]
struct Store {
    objects: BTreeMap<Key, Value>,
    log: Vec<(String, &'static str, Value)>,
}

/// The server.
#[derive(Clone)]
pub struct Fake {
    store: Arc<Mutex<Store>>,
    changed: Arc<watch::Sender<usize>>,
    /// Requests of this method and path ending are refused with 500 as long as it is set.
    pub refuse: Arc<Mutex<Option<(Method, &'static str)>>>,
    /// A client of it.
    pub client: Client,
}

impl Fake {
    /// Starts it on a port of the kernel's choice.
    pub fn start(shutdown: &CancellationToken) -> Self {
        let server = Server::bind("127.0.0.1".parse().unwrap(), 0).unwrap();
        let access = Access { server: format!("http://{}", server.local_addr()), ..Access::default() };
        let client = Client::new(ClientConfig::with_access(access, "test")).unwrap();
        let (changed, _) = watch::channel(0);
        let fake = Self { store: Arc::default(), changed: Arc::new(changed), refuse: Arc::default(), client };
        let me = fake.clone();
        let service = service_fn(move |request| {
            let me = me.clone();
            async move { Ok::<_, Infallible>(me.answer(request).await) }
        });
        tokio::spawn(server.serve(None, service, shutdown.clone()));
        fake
    }

    /// Puts an object, as the server would after a request.
    pub fn put(&self, collection: &str, mut object: Value) {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_string();
        let (namespace, name) = (text("namespace"), text("name"));
        let key = (collection.to_string(), namespace.clone(), name.clone());
        let mut store = self.store.lock().unwrap();
        let version = store.log.len() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{name}-{version}"));
        }
        let what = if store.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        store.log.push((collection.to_string(), what, object));
        self.changed.send_replace(version);
    }

    /// Takes an object away.
    pub fn remove(&self, collection: &str, namespace: &str, name: &str) -> bool {
        let key = (collection.to_string(), namespace.to_string(), name.to_string());
        let mut store = self.store.lock().unwrap();
        let Some(mut object) = store.objects.remove(&key) else { return false };
        let version = store.log.len() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        store.log.push((collection.to_string(), "DELETED", object));
        self.changed.send_replace(version);
        true
    }

    /// An object as it is.
    pub fn get(&self, collection: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (collection.to_string(), namespace.to_string(), name.to_string());
        self.store.lock().unwrap().objects.get(&key).cloned()
    }

    /// All objects of a collection.
    pub fn all(&self, collection: &str) -> Vec<Value> {
        let store = self.store.lock().unwrap();
        store.objects.iter().filter(|(k, _)| k.0 == collection).map(|(_, v)| v.clone()).collect()
    }

    /// Waits until a look at the store satisfies; panics with the last look after a generous time.
    pub async fn until<T: std::fmt::Debug>(&self, look: impl Fn(&Self) -> T, good: impl Fn(&T) -> bool) -> T {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.mark_unchanged();
                let seen = look(self);
                if good(&seen) {
                    return seen;
                }
                changed.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(30), wait).await {
            Ok(seen) => seen,
            Err(_) => panic!("still {:?}", look(self)),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let path = parts.uri.path().to_string();
        if self.refuse.lock().unwrap().as_ref().is_some_and(|(m, end)| *m == parts.method && path.ends_with(end)) {
            return status(500, "InternalError");
        }
        let query = parts.uri.query().unwrap_or_default();
        let (collection, namespace, rest) = split(&path);
        match (parts.method, rest.as_slice()) {
            (Method::GET, []) if query.contains("watch=true") => self.watch(&collection, query),
            (Method::GET, []) => self.list(&collection),
            (Method::GET, [name]) => match self.get(&collection, &namespace, name) {
                Some(object) => ok(&object),
                None => status(404, "NotFound"),
            },
            (Method::POST, []) => {
                let mut object: Value = serde_json::from_slice(&body).unwrap();
                object["metadata"]["namespace"] = json!(namespace);
                self.put(&collection, object.clone());
                ok(&object)
            }
            (Method::POST, [name, "binding"]) => {
                let binding: Value = serde_json::from_slice(&body).unwrap();
                let patch = json!({"spec": {"nodeName": binding["target"]["name"]},
                    "status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}});
                self.patch(&collection, &namespace, name, &patch)
            }
            (Method::PATCH, [name, ..]) => {
                let patch: Value = serde_json::from_slice(&body).unwrap();
                self.patch(&collection, &namespace, name, &patch)
            }
            (Method::DELETE, [name]) => match self.get(&collection, &namespace, name) {
                Some(_) => {
                    let patch = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
                    self.patch(&collection, &namespace, name, &patch)
                }
                None => status(404, "NotFound"),
            },
            _ => status(405, "MethodNotAllowed"),
        }
    }

    fn patch(&self, collection: &str, namespace: &str, name: &str, patch: &Value) -> Response<Body> {
        let Some(mut object) = self.get(collection, namespace, name) else { return status(404, "NotFound") };
        merge(&mut object, patch);
        self.put(collection, object.clone());
        ok(&object)
    }

    fn list(&self, collection: &str) -> Response<Body> {
        let store = self.store.lock().unwrap();
        let items: Vec<&Value> = store.objects.iter().filter(|(k, _)| k.0 == collection).map(|(_, v)| v).collect();
        ok(&json!({"metadata": {"resourceVersion": store.log.len().to_string()}, "items": items}))
    }

    fn watch(&self, collection: &str, query: &str) -> Response<Body> {
        let from = query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).unwrap_or("0");
        let state =
            (self.clone(), collection.to_string(), from.parse::<usize>().unwrap_or(0), self.changed.subscribe());
        let frames = futures::stream::unfold(state, |(me, collection, mut at, mut changed)| async move {
            loop {
                let next = me.store.lock().unwrap().log.get(at).cloned();
                match next {
                    Some((of, what, object)) => {
                        at += 1;
                        if of == collection {
                            let line = format!("{}\n", json!({"type": what, "object": object}));
                            let frame = Ok::<_, BoxError>(Frame::data(Bytes::from(line)));
                            return Some((frame, (me, collection, at, changed)));
                        }
                    }
                    None => changed.changed().await.ok()?,
                }
            }
        });
        Response::new(Body::new(StreamBody::new(frames)))
    }
}

/// Collection path, namespace, and what follows the plural.
fn split(path: &str) -> (String, String, Vec<&str>) {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let mut rest = parts.split_off(if parts[0] == "api" { 2 } else { 3 });
    let mut namespace = String::new();
    if rest[0] == "namespaces" && rest.len() > 2 {
        namespace = rest[1].to_string();
        rest.drain(..2);
    }
    (format!("/{}/{}", parts.join("/"), rest.remove(0)), namespace, rest)
}

/// A merge patch in which conditions are merged by type.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, value) in fields {
        if value.is_null() {
            if let Some(object) = target.as_object_mut() {
                object.remove(key);
            }
        } else if key == "conditions" {
            let mut list = target[key].as_array().cloned().unwrap_or_default();
            list.retain(|old| value.as_array().unwrap().iter().all(|new| new["type"] != old["type"]));
            list.extend(value.as_array().unwrap().iter().cloned());
            target[key] = Value::Array(list);
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn ok(value: &Value) -> Response<Body> {
    Response::builder().header("content-type", "application/json").body(full(value.to_string())).unwrap()
}

fn status(code: u16, reason: &str) -> Response<Body> {
    let value = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code});
    Response::builder().status(code).body(full(value.to_string())).unwrap()
}
