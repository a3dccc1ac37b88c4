//! Calling webhooks: one JSON document there, one back, over verified TLS.
//!
//! Guarantees: the server's certificate is checked against the bundle given (or the system's authorities) and the name called;
//! a service is called as `name.namespace.svc` at one of its ready endpoints; no redirect is followed, no credential is sent,
//! answers are bounded, and everything ends with the deadline. Connections are reused. Knows nothing of what is asked.

mod pool;
#[cfg(test)]
pub(crate) mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use component_base::reload::Reloading;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;

use self::pool::{Pool, Trust};
use crate::objects::{Objects, find};
use crate::tunnels::locate::{SchemeNamePort, service_endpoints};

/// Longest answer.
const MAX_RESPONSE_BYTES: usize = 10 << 20;
/// Calls of a patient asker, and the pause after the first one that failed.
const MAX_ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest part of a refusal's text that is quoted.
const MAX_QUOTED_CHARS: usize = 512;

/// Where a webhook is, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    place: Place,
    trust: Arc<Trust>,
    /// Value of the `Authorization` header.
    authorization: Option<HeaderValue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Url(String),
    Service { namespace: String, name: String, port: u16, path: String },
}

/// Why a call gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Neither URL nor service, or one that means nothing.
    #[error("{0}")]
    Config(String),
    /// The service has nobody behind it.
    #[error("{call}: {why}")]
    Unreachable {
        /// Method and URL.
        call: String,
        /// What went wrong.
        why: String,
    },
    /// No answer in time.
    #[error("{call}: context deadline exceeded")]
    Timeout {
        /// Method and URL.
        call: String,
    },
    /// Not 200, or no JSON.
    #[error("{call}: {why}")]
    Answer {
        /// Method and URL.
        call: String,
        /// Status code; 0 when the answer could not be understood.
        code: u16,
        /// What was answered.
        why: String,
    },
}

impl CallError {
    /// Whether the same call may go better in a moment: the server said so by its status.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Answer { code: 429 | 500 | 504, .. })
    }
}

impl ClientConfig {
    /// Reads a `WebhookClientConfig`.
    ///
    /// # Errors
    /// [`CallError::Config`].
    pub fn parse(config: &Value) -> Result<Self, CallError> {
        let bad = |why: &str| CallError::Config(why.to_owned());
        let ca_pem = match config["caBundle"].as_str().filter(|text| !text.is_empty()) {
            Some(text) => {
                let pem = base64::engine::general_purpose::STANDARD.decode(text);
                Some(pem.map_err(|_| bad("caBundle is not base64"))?)
            }
            None => None,
        };
        let service = &config["service"];
        let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
        let place = match config["url"].as_str() {
            Some(url) => Place::Url(url.to_owned()),
            None if service.is_object() => {
                let port = service["port"].as_u64().map_or(Ok(443), u16::try_from).map_err(|_| bad("bad port"))?;
                Place::Service { namespace: text("namespace"), name: text("name"), port, path: text("path") }
            }
            None => return Err(bad("webhook has neither a url nor a service")),
        };
        Ok(Self { place, trust: Arc::new(Trust { ca_pem, ..Trust::default() }), authorization: None })
    }

    /// A URL, verified with these authorities or, without them, the system's.
    pub fn url(url: &str, ca_pem: Option<Vec<u8>>) -> Self {
        let trust = Arc::new(Trust { ca_pem, ..Trust::default() });
        Self { place: Place::Url(url.to_owned()), trust, authorization: None }
    }

    /// Where a webhook is and who we are there, as a kubeconfig file says; read again when the file, or one that it names,
    /// changes.
    ///
    /// # Errors
    /// [`CallError::Config`].
    pub fn from_kubeconfig(path: &Path) -> Result<Reloading<Self>, CallError> {
        let mut files = vec![path.to_owned()];
        let access = read_kubeconfig(path)?;
        files.extend([&access.ca, &access.certificate, &access.key, &access.token].into_iter().flatten().filter_map(
            |material| match material {
                client::Material::File(path) => Some(path.clone()),
                client::Material::Inline(_) => None,
            },
        ));
        let path = path.to_owned();
        Reloading::new("webhook configuration", files, move || Self::of_access(&path, read_kubeconfig(&path)?))
    }

    fn of_access(path: &Path, access: client::Access) -> Result<Self, CallError> {
        let bad = |why: &dyn std::fmt::Display| CallError::Config(format!("{}: {why}", path.display()));
        let read = |material: &Option<client::Material>| {
            material.as_ref().map(client::Material::read).transpose().map_err(|err| bad(&err))
        };
        let identity_pem = read(&access.certificate)?.zip(read(&access.key)?);
        let trust = Trust { ca_pem: read(&access.ca)?, identity_pem, insecure: access.insecure_skip_tls_verify };
        let authorization = match read(&access.token)? {
            Some(token) => {
                let value = [b"Bearer ", token.trim_ascii()].concat();
                Some(HeaderValue::from_bytes(&value).map_err(|err| bad(&err))?)
            }
            None => None,
        };
        Ok(Self { place: Place::Url(access.server), trust: Arc::new(trust), authorization })
    }
}

fn read_kubeconfig(path: &Path) -> Result<client::Access, CallError> {
    let bad = |err: client::ClientConfigError| CallError::Config(err.to_string());
    client::Access::from_kubeconfig(path).map_err(bad)
}

/// Where a call goes.
struct Target {
    /// Method and URL, for errors.
    call: String,
    /// `host:port` to connect to.
    address: String,
    /// Name in the certificate.
    server_name: String,
    /// `host:port` as the server sees it.
    authority: String,
    path_and_query: String,
}

impl Target {
    fn wrong(&self, code: u16, why: String) -> CallError {
        CallError::Answer { call: self.call.clone(), code, why }
    }
}

fn parse(call: String, answer: &[u8]) -> Result<Value, CallError> {
    let wrong = |error| CallError::Answer { call, code: 0, why: format!("the answer is not JSON: {error}") };
    serde_json::from_slice(answer).map_err(wrong)
}

/// Calls webhooks.
pub struct Client {
    objects: Arc<dyn Objects>,
    pool: Pool,
}

impl Client {
    /// Services are looked up in these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects, pool: Pool::default() }
    }

    /// Posts a document and returns the answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, config: &ClientConfig, body: &Value, timeout: Duration) -> Result<Value, CallError> {
        let (call, bytes) = self.send(config, body, timeout).await?;
        parse(call, &bytes)
    }

    /// As [`Self::call`], again up to four times when the server answers that it is overloaded or broken, as upstream's
    /// webhooks of authentication and authorization do.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call_patiently(
        &self,
        config: &ClientConfig,
        body: &Value,
        timeout: Duration,
    ) -> Result<Value, CallError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..MAX_ATTEMPTS {
            match self.call(config, body, timeout).await {
                Err(error) if error.is_passing() => {}
                outcome => return outcome,
            }
            tokio::time::sleep(pause).await;
            pause = pause.mul_f64(1.5);
        }
        self.call(config, body, timeout).await
    }

    /// Posts a document; returns the call's name for errors, and the answer as it is.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn send(
        &self,
        config: &ClientConfig,
        body: &Value,
        timeout: Duration,
    ) -> Result<(String, Bytes), CallError> {
        let target = self.locate(config, Some(timeout)).await?;
        let body = serde_json::to_vec(body).map_err(|error| target.wrong(0, error.to_string()))?;
        self.perform(target, config, Some(body.into()), timeout).await
    }

    /// Gets a JSON document.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get(&self, config: &ClientConfig, timeout: Duration) -> Result<Value, CallError> {
        let target = self.locate(config, None).await?;
        let (call, bytes) = self.perform(target, config, None, timeout).await?;
        parse(call, &bytes)
    }

    async fn perform(
        &self,
        target: Target,
        config: &ClientConfig,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<(String, Bytes), CallError> {
        let outcome = tokio::time::timeout(timeout, self.ask(&target, config, body)).await;
        let bytes = outcome.unwrap_or_else(|_| Err(CallError::Timeout { call: target.call.clone() }))?;
        Ok((target.call, bytes))
    }

    /// Posts tell the server how long is waited for it.
    async fn locate(&self, config: &ClientConfig, timeout: Option<Duration>) -> Result<Target, CallError> {
        let query = timeout.map_or_else(String::new, |timeout| format!("?timeout={}s", timeout.as_secs().max(1)));
        let call =
            |url: &str| format!("{} {:?}", if timeout.is_some() { "Post" } else { "Get" }, format!("{url}{query}"));
        match &config.place {
            Place::Url(url) => {
                let bad = || CallError::Config(format!("{url:?} is not an https URL"));
                let uri: http::Uri = url.parse().map_err(|_| bad())?;
                let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(bad)?;
                let address = format!("{host}:{}", uri.port_u16().unwrap_or(443));
                Ok(Target {
                    call: call(url),
                    server_name: host.trim_matches(['[', ']']).to_owned(),
                    authority: uri.authority().map_or_else(String::new, ToString::to_string),
                    path_and_query: match uri.query() {
                        Some(own) => format!("{}?{own}{}", uri.path(), query.replacen('?', "&", 1)),
                        None => format!("{}{query}", uri.path()),
                    },
                    address,
                })
            }
            Place::Service { namespace, name, port, path } => {
                let host = format!("{name}.{namespace}.svc");
                let path = format!("/{}", path.trim_start_matches('/'));
                let call = call(&format!("https://{host}:{port}{path}"));
                let address = self.endpoint(namespace, name, *port).await;
                let address = address.map_err(|why| CallError::Unreachable { call: call.clone(), why })?;
                let authority = format!("{host}:{port}");
                Ok(Target { call, address, server_name: host, authority, path_and_query: format!("{path}{query}") })
            }
        }
    }

    async fn endpoint(&self, namespace: &str, name: &str, port: u16) -> Result<String, String> {
        let service = find(&*self.objects, ("", "services"), namespace, name).await.map_err(|s| s.message)?;
        let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
        if service["spec"]["type"] == "ExternalName" {
            return Ok(format!("{}:{port}", service["spec"]["externalName"].as_str().unwrap_or_default()));
        }
        let slices = self.objects.list(("discovery.k8s.io", "endpointslices"), namespace);
        let id = SchemeNamePort { https: true, name: name.to_owned(), port: port.to_string() };
        let endpoints = service_endpoints(&service, &id, &slices).map_err(|status| status.message)?.unwrap_or_default();
        let chosen = endpoints.get(rand::random_range(0..endpoints.len().max(1)));
        let (address, port) = chosen.ok_or_else(|| format!("no endpoints available for service {name:?}"))?;
        Ok(if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") })
    }

    async fn ask(&self, target: &Target, config: &ClientConfig, body: Option<Bytes>) -> Result<Bytes, CallError> {
        let unreachable = |why: String| CallError::Unreachable { call: target.call.clone(), why };
        let wrong = |why: String| target.wrong(0, why);
        let mut reused = true;
        let response = loop {
            let (mut sender, fresh) = self
                .pool
                .sender(&target.address, &target.server_name, &config.trust, !reused)
                .await
                .map_err(unreachable)?;
            let request = request(target, body.clone(), sender.is_http2());
            let mut request = request.map_err(|error| wrong(error.to_string()))?;
            if let Some(authorization) = &config.authorization {
                request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            }
            match sender.send(request).await {
                Ok(response) => break (response, sender),
                // The server had closed it while it was idle.
                Err(_) if !fresh && reused => reused = false,
                Err(error) => return Err(unreachable(error.to_string())),
            }
        };
        let (response, sender) = response;
        let code = response.status();
        let bytes = Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await;
        let bytes = bytes.map_err(|error| wrong(error.to_string()))?.to_bytes();
        self.pool.give_back(&target.address, &target.server_name, &config.trust, sender);
        if !code.is_success() {
            let text: String = String::from_utf8_lossy(&bytes).chars().take(MAX_QUOTED_CHARS).collect();
            return Err(target.wrong(code.as_u16(), format!("the server answered {code}: {text}")));
        }
        Ok(bytes)
    }
}

fn request(target: &Target, body: Option<Bytes>, http2: bool) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request =
        Request::builder().header(ACCEPT, "application/json").header(USER_AGENT, "kube-apiserver-admission");
    if body.is_some() {
        request = request.method(Method::POST).header(CONTENT_TYPE, "application/json");
    }
    request = if http2 {
        request.uri(format!("https://{}{}", target.authority, target.path_and_query))
    } else {
        request.uri(&target.path_and_query).header(HOST, &target.authority)
    };
    request.body(Full::new(body.unwrap_or_default()))
}
