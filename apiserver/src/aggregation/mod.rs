//! Extension API servers behind APIService objects: their requests are passed on, their documents merged into ours.
//!
//! Guarantees: a group and version whose APIService names a service is served by that service and by nobody else; it is
//! reached at a ready endpoint over TLS, verified against `caBundle` under the name `SERVICE.NAMESPACE.svc`, with our front
//! proxy certificate; the client's own credentials stay here and only `X-Remote-*` tells who asks. No redirect passes. What
//! is not available is 503. Our authentication and authorization come first; admission is the extension server's affair.

mod check;
mod documents;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use apimachinery::status::Status;
use component_base::serving::Body;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::sync::Notify;

pub use self::documents::Merged;
use crate::http::request::{RequestContext, UserInfo};
use crate::http::respond;
use crate::objects::{Objects, ResourceName};
use crate::registry::Registry;
use crate::tunnels::relay::{self, Security, Target};

const API_SERVICES: ResourceName = ("apiregistration.k8s.io", "apiservices");
const SLICES: ResourceName = ("discovery.k8s.io", "endpointslices");
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What an APIService says of its backend.
#[derive(Clone, Debug, PartialEq)]
struct Spec {
    group: String,
    version: String,
    group_priority: i64,
    version_priority: i64,
    namespace: String,
    service: String,
    port: u16,
    ca_pem: Option<Vec<u8>>,
    insecure: bool,
}

impl Spec {
    /// `None` for an APIService that is served here.
    fn parse(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let service = spec["service"].as_object()?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let bundle = spec["caBundle"].as_str().filter(|bundle| !bundle.is_empty());
        let decode = |bundle| base64::Engine::decode(&base64::engine::general_purpose::STANDARD, bundle).ok();
        Some(Self {
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or_default(),
            version_priority: spec["versionPriority"].as_i64().unwrap_or_default(),
            namespace: text(service.get("namespace")?),
            service: text(service.get("name")?),
            port: service.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
            ca_pem: bundle.and_then(decode),
            insecure: spec["insecureSkipTLSVerify"] == true,
        })
    }
}

/// What an extension server said of itself when it was asked last.
#[derive(Clone, Debug, Default, PartialEq)]
struct Learned {
    /// `/apis/GROUP/VERSION`
    resources: Value,
    /// The index of `/openapi/v3`, as far as it is about the group.
    openapi_v3: serde_json::Map<String, Value>,
    /// `/openapi/v2`, as far as it is about the group.
    openapi_v2: Value,
}

/// One group and version of an extension server.
struct Backend {
    spec: Spec,
    tls: Result<Arc<rustls::ClientConfig>, String>,
    available: bool,
    learned: Arc<Learned>,
}

type Backends = BTreeMap<(String, String), Arc<Backend>>;

/// All extension servers.
pub struct Aggregator {
    objects: Arc<dyn Objects>,
    /// `--proxy-client-cert-file`, `--proxy-client-key-file`
    identity_files: Option<(PathBuf, PathBuf)>,
    identity: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
    backends: RwLock<Arc<Backends>>,
    changed: Arc<Notify>,
}

impl Aggregator {
    /// Knows nobody until [`Self::run`] has looked.
    pub fn new(objects: Arc<dyn Objects>, identity_files: Option<(PathBuf, PathBuf)>) -> Self {
        let (identity, backends, changed) = Default::default();
        Self { objects, identity_files, identity, backends, changed }
    }

    /// Looks again whenever an APIService, or what its service leads to, changes.
    pub fn follow(self: &Arc<Self>, registry: &Registry) {
        let changed = Arc::clone(&self.changed);
        registry.subscribe(API_SERVICES, Box::new(move |_| changed.notify_one()));
        for resource in [("", "services"), SLICES] {
            let this = Arc::clone(self);
            let notify = Box::new(move |event: &crate::storage::fanout::Event| {
                let (backends, entry) = (this.backends(), &event.entry);
                let named = |name: &str, service: &str| name.starts_with(service);
                let ours =
                    |b: &Arc<Backend>| b.spec.namespace == entry.namespace() && named(entry.name(), &b.spec.service);
                if backends.values().any(ours) {
                    this.changed.notify_one();
                }
            });
            registry.subscribe(resource, notify);
        }
    }

    fn backends(&self) -> Arc<Backends> {
        Arc::clone(&self.backends.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers a request whose path belongs to an extension server; gives any other request back.
    ///
    /// # Errors
    /// The request itself, when its path is not one of theirs.
    pub async fn answer(
        &self,
        ctx: &RequestContext,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Request<Incoming>> {
        let backends = self.backends();
        if backends.is_empty() {
            return Err(request);
        }
        let Some((backend, document)) = find(&backends, &ctx.info.path) else { return Err(request) };
        if !backend.available {
            return Ok(unavailable("service unavailable"));
        }
        let user = if document { aggregator_user() } else { (*ctx.user).clone() };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let response = match self.target(backend, path, &user) {
            Ok(target) => relay::forward(target, request).await,
            Err(why) => Err(Status::service_unavailable(why)),
        };
        Ok(match response {
            Ok(response) if response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED => {
                let why = "the backend attempted to redirect this request, which is not permitted";
                respond::text(StatusCode::BAD_GATEWAY, format!("{why}\n"))
            }
            Ok(response) => response,
            Err(status) => unavailable(&format!("error trying to reach service: {}", status.message)),
        })
    }

    fn target(&self, backend: &Backend, path_and_query: String, user: &UserInfo) -> Result<Target, String> {
        let (address, port) = check::endpoint(&*self.objects, &backend.spec).map_err(|(_, why)| why)?;
        let name = format!("{}.{}.svc", backend.spec.service, backend.spec.namespace);
        let tls = backend.tls.clone()?;
        Ok(Target {
            authority: crate::tunnels::kubelet::join(&address, port),
            security: Some(Security { tls, name: ServerName::try_from(name).map_err(|err| err.to_string())? }),
            path_and_query,
            connect_timeout: CONNECT_TIMEOUT,
            identity: remote_headers(user),
        })
    }
}

fn unavailable(why: &str) -> Response<Body> {
    respond::text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
}

/// In whose name documents are asked for.
fn aggregator_user() -> UserInfo {
    UserInfo {
        name: "system:aggregator".to_owned(),
        groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        ..UserInfo::default()
    }
}

/// The backend of a path, and whether the path is an OpenAPI document of it.
fn find<'b>(backends: &'b Backends, path: &str) -> Option<(&'b Backend, bool)> {
    let (path, document) = match path.strip_prefix("/openapi/v3") {
        Some(rest) => (rest, true),
        None => (path, false),
    };
    let mut segments = path.strip_prefix("/apis/")?.split('/');
    let (group, version) = (segments.next()?, segments.next());
    let backend = match version.filter(|version| !version.is_empty()) {
        Some(version) => backends.get(&(group.to_owned(), version.to_owned())),
        // The group's own document: from whoever has it.
        None if document => {
            let key = format!("apis/{group}");
            backends.values().find(|b| b.spec.group == group && b.learned.openapi_v3.contains_key(&key))
        }
        None => None,
    };
    backend.map(|backend| (&**backend, document))
}

/// Who asks, for an extension server that trusts our front proxy.
fn remote_headers(user: &UserInfo) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, text: &str| {
        let value = HeaderValue::from_bytes(text.as_bytes());
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        for value in values {
            add(&format!("x-remote-extra-{}", escape(key)), value);
        }
    }
    headers
}

/// Percent-encodes what must not stand in a header's name, and `%` itself.
fn escape(key: &str) -> String {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes().map(|byte| if legal(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
