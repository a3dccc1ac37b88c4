//! Sending requests: limits, retries that are safe, time bounds, and failures as [`ClientError`].

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use apimachinery::status::Status;

use crate::config::{ClientConfig, ClientConfigError};
use crate::connection::Connection;
use crate::error::ClientError;
use crate::limiter::Limiter;

/// Until when an answer's head must have come, and the longest pause within a body.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer that is collected.
const MAX_BODY_BYTES: usize = 1 << 30;
/// How often a request is sent again because the server said so (429 and 503 with Retry-After).
const MAX_ASKED_RETRIES: u32 = 10;
/// How often a request is sent again because its connection was gone before it was sent.
const MAX_RECONNECTS: u32 = 3;

/// A connection to the API server; cheap to clone, all clones share it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    limiter: Option<Arc<Limiter>>,
    token: Option<TokenSource>,
}

/// The bearer token of the moment; asked before every request.
pub type TokenSource = Arc<dyn Fn() -> Option<HeaderValue> + Send + Sync>;

struct Inner {
    connection: Connection,
    user_agent: HeaderValue,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server", &self.inner.connection.server()).finish_non_exhaustive()
    }
}

impl Client {
    /// Checks the configuration; connects with the first request.
    pub fn new(config: ClientConfig) -> Result<Self, ClientConfigError> {
        let user_agent =
            HeaderValue::try_from(&config.user_agent).unwrap_or_else(|_| HeaderValue::from_static("hardway"));
        let limiter = Limiter::new(config.qps, config.burst).map(Arc::new);
        let inner = Inner { connection: Connection::new(config.access)?, user_agent };
        Ok(Self { inner: Arc::new(inner), limiter, token: None })
    }

    /// The same connection with another identity: `token` gives the `Authorization` header of each request. The
    /// connection itself must not carry a client certificate, which would win over the token.
    #[must_use]
    pub fn with_token(&self, token: TokenSource) -> Self {
        Self { token: Some(token), ..self.clone() }
    }

    /// The same connection with limits of its own: requests per second (0 or less is no limit) and at once.
    #[must_use]
    pub fn with_limits(&self, qps: f32, burst: u32) -> Self {
        Self { limiter: Limiter::new(qps, burst).map(Arc::new), ..self.clone() }
    }

    /// Tells of each new connection to the server; loops use it to end their pauses.
    pub(crate) fn connections(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.connection.made()
    }

    /// URL of the server.
    pub fn server(&self) -> &str {
        self.inner.connection.server()
    }

    /// Sends a request (path and query as its URI) and collects the answer; a failure status is an error.
    pub async fn raw(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ClientError> {
        let what = format!("{} {}", request.method(), request.uri());
        let idempotent = request.method() == Method::GET;
        let mut retries = 0;
        loop {
            let outcome = match self.stream(request.clone()).await {
                Ok(response) => collect(response, &what).await,
                Err(error) => Err(error),
            };
            match outcome {
                Err(ClientError::Transport { reason, .. }) if idempotent && retries == 0 => {
                    tracing::debug!(request = what, reason, "sending again");
                    retries = 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// As [`raw`](Self::raw), once, over HTTP/1.1 and without a token: for servers that are no API server.
    pub async fn once(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ClientError> {
        let what = format!("{} {}", request.method(), request.uri());
        let mut outgoing = self.outgoing(&request)?;
        let host = outgoing.uri().authority().map(|authority| HeaderValue::try_from(authority.as_str()));
        outgoing.headers_mut().extend(host.and_then(Result::ok).map(|host| (header::HOST, host)));
        *outgoing.uri_mut() = request.uri().clone();
        let answer = self.inner.connection.once(outgoing).await;
        let response = answer.map_err(|reason| ClientError::Transport { request: what.clone(), reason })?;
        if response.status().is_success() {
            collect(response, &what).await
        } else {
            Err(failure(response, &what).await)
        }
    }

    /// Sends a request and hands out the answer as it comes; a failure status is an error.
    pub async fn stream(&self, request: Request<Bytes>) -> Result<Response<Incoming>, ClientError> {
        let what = format!("{} {}", request.method(), request.uri());
        for attempt in 0.. {
            if let Some(limiter) = &self.limiter {
                limiter.acquire().await;
            }
            let response = self.send(&request, &what).await?;
            if response.status().is_success() {
                return Ok(response);
            }
            let asked = retry_after(&response);
            match asked {
                Some(pause) if attempt < MAX_ASKED_RETRIES => tokio::time::sleep(pause).await,
                _ => return Err(failure(response, &what).await),
            }
        }
        Err(ClientError::Request(what))
    }

    #[cfg(test)]
    pub(crate) async fn look_at_files_again(&self) {
        self.inner.connection.look_at_files_again().await;
    }

    async fn send(&self, request: &Request<Bytes>, what: &str) -> Result<Response<Incoming>, ClientError> {
        let fail = |reason: String| ClientError::Transport { request: what.to_owned(), reason };
        let mut outgoing = self.outgoing(request)?;
        for attempt in 0.. {
            let (mut sender, authorization) = self.inner.connection.ready().await?;
            let own = self.token.as_ref().and_then(|token| token());
            if let Some(authorization) = own.or(authorization) {
                outgoing.headers_mut().insert(header::AUTHORIZATION, authorization);
            }
            if sender.ready().await.is_err() {
                self.inner.connection.broken().await;
                if attempt < MAX_RECONNECTS {
                    continue;
                }
                return Err(fail("the connection keeps closing".to_owned()));
            }
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.try_send_request(outgoing)).await;
            match answer {
                Err(_) => return Err(fail(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(mut error)) => match error.take_message() {
                    // Not sent, so sending it again on a new connection is safe for every method.
                    Some(unsent) if attempt < MAX_RECONNECTS => {
                        outgoing = unsent;
                        self.inner.connection.broken().await;
                    }
                    _ => {
                        self.inner.connection.broken().await;
                        return Err(fail(describe(error.error())));
                    }
                },
            }
        }
        Err(fail("gave up".to_owned()))
    }

    fn outgoing(&self, request: &Request<Bytes>) -> Result<Request<Full<Bytes>>, ClientError> {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let mut outgoing = Request::new(Full::new(request.body().clone()));
        *outgoing.method_mut() = request.method().clone();
        *outgoing.uri_mut() = self.inner.connection.uri(path)?;
        outgoing.headers_mut().clone_from(request.headers());
        outgoing.headers_mut().insert(header::USER_AGENT, self.inner.user_agent.clone());
        Ok(outgoing)
    }
}

/// The error and its causes in one line.
fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let seconds: u64 = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds.clamp(1, 30)))
}

async fn collect(response: Response<Incoming>, what: &str) -> Result<Response<Bytes>, ClientError> {
    let (parts, mut body) = response.into_parts();
    let fail = |reason: String| ClientError::Transport { request: what.to_owned(), reason };
    let mut bytes = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(ANSWER_TIMEOUT, body.frame()).await;
        match frame.map_err(|_| fail("the answer stopped in the middle".to_owned()))? {
            None => return Ok(Response::from_parts(parts, bytes.freeze())),
            Some(Err(error)) => return Err(fail(describe(&error))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    if bytes.len() + data.len() > MAX_BODY_BYTES {
                        return Err(fail(format!("the answer is larger than {MAX_BODY_BYTES} bytes")));
                    }
                    bytes.extend_from_slice(&data);
                }
            }
        }
    }
}

async fn failure(response: Response<Incoming>, what: &str) -> ClientError {
    let code = response.status();
    let body = match collect(response, what).await {
        Ok(response) => response.into_body(),
        Err(error) => return error,
    };
    if let Ok(status) = serde_json::from_slice::<Status>(&body)
        && status.code != 0
    {
        return ClientError::Status(status);
    }
    // Not an API answer: a proxy in between, or an endpoint that speaks plain text.
    let text: String = String::from_utf8_lossy(&body).chars().take(512).collect();
    let text = text.trim();
    let reason = match code.as_u16() {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "Unknown",
    };
    let message = if text.is_empty() { format!("{what}: {code}") } else { format!("{what}: {code}: {text}") };
    ClientError::Status(Status::failure(code.as_u16(), reason, message))
}
