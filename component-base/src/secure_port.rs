//! The port every daemon has beside its work (10257, 10259, and plain on 10249 and 10256): `/healthz`, `/livez`,
//! `/readyz`, `/metrics`, `/configz`, `/version`, and what the daemon adds.
//!
//! Guarantees: every request is authenticated and authorised by the daemon's [`RequestAuth`] before its handler runs,
//! except for the always-allowed paths (upstream's default: `/healthz`, `/readyz`, `/livez`). Without a `RequestAuth` the
//! port is open: only for plain loopback and health ports, as upstream has them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use crate::health::{Checks, text};
use crate::serving::{Body, ConnInfo, Server, full, service_fn};
use crate::tls::ServerTls;
use crate::{metrics, version};

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User name; `system:anonymous` for nobody in particular.
    pub name: String,
    /// Stable id, where the authenticator knows one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further facts of the authenticator.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// `system:anonymous` in `system:unauthenticated`.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Self::default()
        }
    }
}

/// What a request wants to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// `get`, `create` …
    pub verb: String,
    /// On what.
    pub target: Target,
}

/// On what a request acts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A URL path that is no resource.
    Path(String),
    /// A resource (the kubelet's API maps to `nodes` subresources).
    Resource {
        /// API group, empty for core.
        group: String,
        /// Plural name.
        resource: String,
        /// Subresource or empty.
        subresource: String,
        /// Namespace or empty.
        namespace: String,
        /// Object name or empty.
        name: String,
    },
}

impl Attributes {
    /// A request on its path, with the verb that belongs to its method.
    pub fn of_path(parts: &Parts) -> Self {
        Self { verb: verb_of(&parts.method).to_owned(), target: Target::Path(parts.uri.path().to_owned()) }
    }
}

/// The authorisation verb of a method on something that is no collection.
pub fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// A refusal: 401, 403, or 500 when the question could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// HTTP status.
    pub status: StatusCode,
    /// Words for the body.
    pub message: String,
}

/// Who may do what. `client::delegated` asks the API server; a kubelet may be told otherwise by its flags.
pub trait RequestAuth: Send + Sync + 'static {
    /// Who this is; anonymous where that is allowed.
    fn authenticate<'a>(&'a self, parts: &'a Parts, conn: &'a ConnInfo) -> BoxFuture<'a, Result<User, Denied>>;
    /// Whether they may.
    fn authorize<'a>(&'a self, user: &'a User, attributes: &'a Attributes) -> BoxFuture<'a, Result<(), Denied>>;
}

/// Answers one route.
pub type Handler = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

type Configz = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// The routes of a port.
#[derive(Clone)]
pub struct SecurePort {
    checks: Checks,
    configz: Option<Configz>,
    auth: Option<Arc<dyn RequestAuth>>,
    always_allow: Arc<[String]>,
    routes: Vec<(String, Handler)>,
    metrics: bool,
}

impl std::fmt::Debug for SecurePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let routes: Vec<_> = self.routes.iter().map(|(prefix, _)| prefix).collect();
        f.debug_struct("SecurePort").field("checks", &self.checks).field("routes", &routes).finish_non_exhaustive()
    }
}

impl SecurePort {
    /// A port whose health endpoints answer `checks`.
    pub fn new(checks: Checks) -> Self {
        let always_allow = ["/healthz", "/readyz", "/livez"].map(str::to_owned).into();
        Self { checks, configz: None, auth: None, always_allow, routes: Vec::new(), metrics: true }
    }

    /// Asks `auth` before every request that is not always allowed.
    #[must_use]
    pub fn auth(mut self, auth: Arc<dyn RequestAuth>) -> Self {
        self.auth = Some(auth);
        self
    }

    /// `--authorization-always-allow-paths`: paths, or prefixes ending in `*`.
    #[must_use]
    pub fn always_allow(mut self, paths: &[String]) -> Self {
        self.always_allow = paths.into();
        self
    }

    /// `/configz` answers this.
    #[must_use]
    pub fn configz(mut self, configz: impl Fn() -> serde_json::Value + Send + Sync + 'static) -> Self {
        self.configz = Some(Arc::new(configz));
        self
    }

    /// Leaves `/metrics` out.
    #[must_use]
    pub fn without_metrics(mut self) -> Self {
        self.metrics = false;
        self
    }

    /// Adds a route: `path` exactly, or everything below when it ends in `/`. Own routes win over the built-in ones.
    #[must_use]
    pub fn route(mut self, path: &str, handler: Handler) -> Self {
        self.routes.push((path.to_owned(), handler));
        self
    }

    /// Serves until shutdown. Plain HTTP without `tls`.
    pub async fn serve(self, server: Server, tls: Option<ServerTls>, shutdown: CancellationToken) {
        let port = Arc::new(self);
        let service = service_fn(move |request| {
            let port = Arc::clone(&port);
            async move { Ok::<_, Infallible>(port.answer(request).await) }
        });
        server.serve(tls, service, shutdown).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        if let Err(denied) = self.admit(&parts).await {
            return text(denied.status, denied.message);
        }
        let path = parts.uri.path();
        let own =
            self.routes.iter().find(|(route, _)| route == path || (route.ends_with('/') && path.starts_with(route)));
        if let Some((_, handler)) = own {
            return handler(Request::from_parts(parts, body)).await;
        }
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is possible here\n".to_owned());
        }
        self.builtin(path, parts.uri.query().unwrap_or_default())
    }

    async fn admit(&self, parts: &Parts) -> Result<(), Denied> {
        let Some(auth) = &self.auth else { return Ok(()) };
        let path = parts.uri.path();
        let covers = |allowed: &String| match allowed.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == allowed,
        };
        if self.always_allow.iter().any(covers) {
            return Ok(());
        }
        let Some(conn) = parts.extensions.get::<ConnInfo>() else {
            return Err(Denied {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                message: "no connection facts".to_owned(),
            });
        };
        let user = auth.authenticate(parts, conn).await?;
        auth.authorize(&user, &Attributes::of_path(parts)).await
    }

    fn builtin(&self, path: &str, query: &str) -> Response<Body> {
        let mut segments = path.trim_start_matches('/').splitn(2, '/');
        let endpoint = segments.next().unwrap_or_default();
        let rest = segments.next().filter(|r| !r.is_empty());
        match (endpoint, rest) {
            ("healthz" | "livez" | "readyz", single) => self.checks.respond(endpoint, single, query),
            ("metrics", None) if self.metrics => typed(metrics::CONTENT_TYPE, metrics::render()),
            ("version", None) => json(&version::info()),
            ("configz", None) => match &self.configz {
                Some(configz) => json(&configz()),
                None => text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
            },
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
        }
    }
}

fn typed(content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// A JSON answer.
pub fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(body) => typed("application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Makes a [`Handler`] of an async function.
pub fn handler<F, Fut>(answer: F) -> Handler
where
    F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    Arc::new(move |request| answer(request).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct OnlyToken;

    impl RequestAuth for OnlyToken {
        fn authenticate<'a>(&'a self, parts: &'a Parts, _: &'a ConnInfo) -> BoxFuture<'a, Result<User, Denied>> {
            async move {
                match parts.headers.get("authorization") {
                    Some(_) => Ok(User { name: "u".to_owned(), ..User::default() }),
                    None => Err(Denied { status: StatusCode::UNAUTHORIZED, message: "Unauthorized".to_owned() }),
                }
            }
            .boxed()
        }
        fn authorize<'a>(&'a self, _: &'a User, attributes: &'a Attributes) -> BoxFuture<'a, Result<(), Denied>> {
            async move {
                match &attributes.target {
                    Target::Path(path) if path != "/configz" => Ok(()),
                    _ => Err(Denied { status: StatusCode::FORBIDDEN, message: "no".to_owned() }),
                }
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn asks_before_it_answers() {
        let server = Server::bind("127.0.0.1".parse().unwrap(), 0).unwrap();
        let (addr, shutdown) = (server.local_addr(), CancellationToken::new());
        let port = SecurePort::new(Checks::new())
            .auth(Arc::new(OnlyToken))
            .configz(|| serde_json::json!({}))
            .route("/own/", handler(|r| async move { text(StatusCode::OK, r.uri().path().to_owned()) }));
        let task = tokio::spawn(port.serve(server, None, shutdown.clone()));
        let get = async |path: &str, header: &str| {
            let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text.get(9..12).unwrap().to_owned() + " " + text.rsplit("\r\n").next().unwrap()
        };
        let token = "authorization: Bearer x\r\n";
        assert_eq!(get("/healthz", "").await, "200 ok");
        assert_eq!(get("/metrics", "").await, "401 Unauthorized");
        assert!(get("/metrics", token).await.starts_with("200 "));
        assert_eq!(get("/configz", token).await, "403 no");
        assert_eq!(get("/own/a/b", token).await, "200 /own/a/b");
        assert!(get("/nothing", token).await.starts_with("404"));
        assert!(get("/version", token).await.contains("v1.36.3"));
        shutdown.cancel();
        task.await.unwrap();
    }
}
