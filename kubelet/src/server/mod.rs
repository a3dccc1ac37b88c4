//! The kubelet's server: what the API server, monitoring and operators ask of a node.
//!
//! Guarantees: every request but health is authenticated and, with mode Webhook, authorized by the API server before
//! anything else happens; exec, attach and port-forward are byte tunnels to the runtime's streaming server, so that
//! protocols and refusals are the runtime's.

mod auth;
mod files;
mod find;
pub mod logs;
mod stats;
mod tunnel;

use std::convert::Infallible;
use std::sync::Arc;

use component_base::health::{Checks, text};
use component_base::metrics;
use component_base::secure_port::{RequestAuth, json};
use component_base::serving::{Body, Server, full, service_fn};
use component_base::tls::ServerTls;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json as value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config_file::KubeletConfiguration;
use crate::context::Context;
use crate::pods::manager::Message;

pub use auth::{Mode, delegated};

/// What answers need.
pub struct State {
    pub context: Arc<Context>,
    pub messages: mpsc::Sender<Message>,
    pub configuration: KubeletConfiguration,
    pub checks: Checks,
}

/// The server with its access rules.
#[derive(Clone)]
pub struct KubeletServer {
    state: Arc<State>,
    /// None on the read-only port, which offers no more than it may.
    auth: Option<Arc<dyn RequestAuth>>,
    mode: Mode,
}

/// An answer that is not a success.
pub struct Refusal(pub StatusCode, pub String);

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        text(refusal.0, refusal.1)
    }
}

/// Query parameters in order; percent-decoded.
pub fn parameters(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|p| {
            let (name, value) = p.split_once('=').unwrap_or((p, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| *first == b'%').and_then(|d| std::str::from_utf8(d).ok());
        match hex.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl KubeletServer {
    /// The authenticated server.
    pub fn new(state: Arc<State>, auth: Arc<dyn RequestAuth>, mode: Mode) -> Self {
        Self { state, auth: Some(auth), mode }
    }

    /// The read-only one.
    pub fn read_only(state: Arc<State>) -> Self {
        Self { state, auth: None, mode: Mode::AlwaysAllow }
    }

    /// Serves until shutdown.
    pub async fn serve(self, server: Server, tls: Option<ServerTls>, shutdown: CancellationToken) {
        let service = service_fn(move |request| {
            let this = self.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        server.serve(tls, service, shutdown).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        if let Some(auth) = &self.auth
            && let Err(denied) = auth::admit(&**auth, self.mode, &self.state.context.node_name, &parts).await
        {
            return text(denied.status, denied.message);
        }
        let request = Request::from_parts(parts, body);
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let debugging = self.auth.is_some() && self.state.configuration.enable_debugging_handlers;
        let result = match (segments.as_slice(), request.method()) {
            (
                ["exec" | "attach" | "portForward" | "run" | "containerLogs" | "logs" | "runningpods" | "configz", ..],
                _,
            ) if !debugging => Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.".into())),
            (["exec", rest @ ..], _) => tunnel::exec(&self.state, rest, request).await,
            (["attach", rest @ ..], _) => tunnel::attach(&self.state, rest, request).await,
            (["portForward", rest @ ..], _) => tunnel::port_forward(&self.state, rest, request).await,
            (["run", rest @ ..], &Method::POST) => tunnel::run(&self.state, rest, request.uri().query()).await,
            (["containerLogs", ns, pod, container], &Method::GET) => {
                logs::answer(&self.state, ns, pod, container, request.uri().query().unwrap_or_default()).await
            }
            (segments, &Method::GET | &Method::HEAD) => self.read(segments, &request).await,
            _ => Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed".into())),
        };
        result.unwrap_or_else(Into::into)
    }

    async fn read(&self, segments: &[&str], request: &Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let state = &self.state;
        Ok(match segments {
            ["healthz"] => state.checks.respond("healthz", None, request.uri().query().unwrap_or_default()),
            ["healthz", name] => state.checks.respond("healthz", Some(name), ""),
            ["pods"] => json(&find::pod_list(state).await?),
            ["runningpods"] => json(&find::running_pods(state).await?),
            ["configz"] => json(&value!({"kubeletconfig": state.configuration})),
            ["metrics"] => metrics_text(metrics::render() + &stats::volume_metrics(state).await?),
            ["metrics", "resource"] => metrics_text(stats::resource_metrics(state).await?),
            ["metrics", "cadvisor"] => metrics_text(stats::cadvisor_metrics(state).await?),
            ["metrics", "probes"] => metrics_text(metrics::render_families(|name| name.starts_with("prober_"))),
            ["stats", "summary"] => json(&stats::summary(state).await?),
            ["logs", rest @ ..] if state.configuration.enable_system_log_handler => files::answer(rest)?,
            _ => return Err(Refusal(StatusCode::NOT_FOUND, "404 page not found\n".into())),
        })
    }
}

fn metrics_text(body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    let value = http::HeaderValue::from_static(metrics::CONTENT_TYPE);
    response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let p = parameters("command=sh&command=-c&command=echo%20%24A+b&tty");
        assert_eq!(p[2], ("command".into(), "echo $A b".into()));
        assert_eq!(p[3], ("tty".into(), String::new()));
    }
}
