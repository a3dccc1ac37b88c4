//! One check: run a command, ask by HTTP, open a TCP connection, or ask a gRPC health service.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::cri::Runtime;

/// Most of an answer's body that is kept for messages.
const MAX_BODY_BYTES: usize = 10 * 1024;
/// Most redirects of one check; upstream's.
const MAX_REDIRECTS: usize = 10;

/// An HTTP check with everything resolved.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    host: String,
    port: u16,
    tls: bool,
    path: String,
    headers: Vec<(String, String)>,
}

impl HttpRequest {
    /// Resolves the action's host and (named) port.
    ///
    /// # Errors
    /// An unknown port.
    pub fn new(action: &HTTPGetAction, container: &Container, pod_ip: &str) -> Result<Self, String> {
        let path = action.path.as_deref().unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let headers = action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
        Ok(Self {
            host: action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_owned()),
            port: port(&action.port, container)?,
            tls: action.scheme.as_deref() == Some("HTTPS"),
            path,
            headers,
        })
    }
}

fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_deref() == Some(name))
                .map(|p| p.container_port)
                .ok_or_else(|| format!("port {name:?} is not a port of container {}", container.name))?,
        },
    };
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An answer: status, where it redirects to, and the beginning of the body.
type Answer = (u16, Option<String>, String);

/// Sends the request, following redirects within its host; status and beginning of the body of the last answer.
///
/// # Errors
/// No connection, no answer in time, too many redirects, or an unusable request.
pub async fn http(request: &HttpRequest, limit: Duration) -> Result<(u16, String), String> {
    let follow = async {
        let mut request = request.clone();
        for _ in 0..MAX_REDIRECTS {
            let (status, location, body) = exchange(&request).await?;
            match location.filter(|_| (300..400).contains(&status)).and_then(|l| redirected(&request, &l)) {
                Some(next) => request = next,
                None => return Ok((status, body)),
            }
        }
        Err(format!("Get \"{}\": stopped after {MAX_REDIRECTS} redirects", url(&request)))
    };
    let late = |_| Err(format!("Get \"{}\": context deadline exceeded", url(request)));
    tokio::time::timeout(limit, follow).await.unwrap_or_else(late)
}

/// The request that a redirect asks for, when it stays on the host.
fn redirected(request: &HttpRequest, location: &str) -> Option<HttpRequest> {
    let to: http::Uri = location.parse().ok()?;
    let mut next = request.clone();
    next.path = to.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    if let Some(host) = to.host() {
        if host.trim_matches(['[', ']']) != request.host.trim_matches(['[', ']']) {
            return None;
        }
        next.tls = to.scheme_str() == Some("https");
        next.port = to.port_u16().unwrap_or(if next.tls { 443 } else { 80 });
    }
    Some(next)
}

fn url(request: &HttpRequest) -> String {
    let scheme = if request.tls { "https" } else { "http" };
    format!("{scheme}://{}{}", address(&request.host, request.port), request.path)
}

async fn exchange(request: &HttpRequest) -> Result<Answer, String> {
    let fail = |e: &dyn std::fmt::Display| format!("Get \"{}\": {e}", url(request));
    let address = address(&request.host, request.port);
    let tcp = TcpStream::connect(&address).await.map_err(|e| fail(&format!("dial tcp {address}: {e}")))?;
    if request.tls {
        let stream = super::tls::connect_unverified(tcp, &request.host).await.map_err(|e| fail(&e))?;
        send(request, TokioIo::new(stream), &address).await.map_err(|e| fail(&e))
    } else {
        send(request, TokioIo::new(tcp), &address).await.map_err(|e| fail(&e))
    }
}

async fn send<S>(request: &HttpRequest, io: S, address: &str) -> Result<Answer, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
    let exchange = async {
        let mut message = Request::get(&request.path).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        let headers = message.headers_mut();
        headers.insert("host", HeaderValue::from_str(address).map_err(|e| e.to_string())?);
        headers.insert("user-agent", HeaderValue::from_static("kube-probe/1.36"));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        headers.insert("connection", HeaderValue::from_static("close"));
        for (name, value) in &request.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
        }
        let response = sender.send_request(message).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let location = response.headers().get("location").and_then(|l| l.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
        let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Ok((status, location, body))
    };
    tokio::select! {
        result = exchange => result,
        Err(error) = connection => Err(error.to_string()),
    }
}

/// Performs a probe's check; a success may come with a warning.
///
/// # Errors
/// Why it failed, for the event.
pub async fn check(
    runtime: &Runtime,
    probe: &Probe,
    container: &Container,
    container_id: &str,
    pod_ip: &str,
) -> Result<Option<String>, String> {
    let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1));
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        let asked =
            tokio::time::timeout(limit + Duration::from_secs(1), runtime.exec_sync(container_id, &command, limit));
        let output = match asked.await {
            Ok(result) => result.map_err(|e| e.to_string())?,
            Err(_) => return Err(format!("command timed out: {command:?} timed out after {}s", limit.as_secs())),
        };
        if output.exit_code != 0 {
            return Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
        }
        return Ok(None);
    }
    if let Some(action) = &probe.http_get {
        let (status, body) = http(&HttpRequest::new(action, container, pod_ip)?, limit).await?;
        return match status {
            200..300 => Ok(None),
            300..400 => Ok(Some(format!("Probe terminated redirects, Response body: {body}"))),
            _ => Err(format!("HTTP probe failed with statuscode: {status}")),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_owned());
        let address = address(&host, port(&action.port, container)?);
        return match tokio::time::timeout(limit, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => Ok(None),
            Ok(Err(e)) => Err(format!("dial tcp {address}: {e}")),
            Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
        };
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).map_err(|_| format!("invalid port number: {}", action.port))?;
        let service = action.service.clone().unwrap_or_default();
        let late = |_| Err("timeout: health rpc did not complete in time".to_owned());
        let result = tokio::time::timeout(limit, grpc(&address(pod_ip, port), service)).await.unwrap_or_else(late);
        return result.map(|()| None);
    }
    Err("probe has no exec, httpGet, tcpSocket or grpc".to_owned())
}

/// `grpc.health.v1.Health/Check`.
async fn grpc(address: &str, service: String) -> Result<(), String> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct HealthRequest {
        #[prost(string, tag = "1")]
        service: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct HealthResponse {
        #[prost(int32, tag = "1")]
        status: i32,
    }
    const SERVING: i32 = 1;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
    let channel = endpoint.connect().await.map_err(|e| format!("error: failed to connect service {address}: {e}"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| e.to_string())?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
    let response = client.unary(tonic::Request::new(HealthRequest { service }), path, codec).await;
    match response.map(|r| r.into_inner().status) {
        Ok(SERVING) => Ok(()),
        Ok(status) => Err(format!("service unhealthy (responded with status {status})")),
        Err(status) => Err(format!("error: health rpc failed: {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_the_host() {
        let request =
            HttpRequest { host: "10.0.0.1".into(), port: 8080, tls: false, path: "/a".into(), headers: Vec::new() };
        let to = |location| redirected(&request, location).map(|r| (r.port, r.tls, r.path));
        assert_eq!(to("/b?c=1"), Some((8080, false, "/b?c=1".into())));
        assert_eq!(to("https://10.0.0.1/x"), Some((443, true, "/x".into())));
        assert_eq!(to("http://0.0.0.0/"), None);
    }
}
