//! exec, attach and port-forward: asks the runtime for a streaming address and carries the bytes.
//!
//! The client's request goes on unchanged but for its path; the runtime's answer comes back unchanged. After a protocol
//! switch both connections are joined until one side ends. What is spoken over them is no business of the kubelet, but for
//! clients of WebSocket protocols that runtimes do not speak: those get a translation to SPDY.

use bytes::Bytes;
use component_base::BoxError;
use component_base::serving::{Body, full};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

use super::streams::translate::{self, Wanted};
use super::streams::websocket;
use super::{Refusal, State, find, parameters};
use crate::cri::api;
use crate::cri::snapshot::State as ContainerState;

/// Bytes buffered per direction.
const COPY_BUFFER_BYTES: usize = 64 << 10;
/// How long `/run` waits for its command.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// Namespace, pod, uid and container of a path below exec or attach.
fn target<'a>(rest: &[&'a str]) -> Result<(&'a str, &'a str, Option<&'a str>, &'a str), Refusal> {
    match rest {
        [ns, pod, container] => Ok((ns, pod, None, container)),
        [ns, pod, uid, container] => Ok((ns, pod, Some(uid), container)),
        _ => Err(Refusal(StatusCode::NOT_FOUND, "404 page not found\n".into())),
    }
}

/// The running container's id.
async fn container_id(state: &State, rest: &[&str]) -> Result<String, Refusal> {
    let (namespace, name, uid, container) = target(rest)?;
    let view = find::pod(state, namespace, name, uid).await?;
    let actual = find::actual(state, &view.pod).await?;
    let running = actual.latest(container).filter(|c| c.state == ContainerState::Running);
    running
        .map(|c| c.id.clone())
        .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))
}

/// Which streams a request wants.
fn streams(parameters: &[(String, String)]) -> Result<Wanted, Refusal> {
    let on = |names: [&str; 2]| {
        parameters.iter().any(|(n, v)| names.contains(&n.as_str()) && matches!(v.as_str(), "1" | "true"))
    };
    let tty = on(["tty", "tty"]);
    let streams = Wanted {
        stdin: on(["input", "stdin"]),
        stdout: on(["output", "stdout"]),
        // With a terminal both outputs are one.
        stderr: on(["error", "stderr"]) && !tty,
        tty,
    };
    if streams.stdin || streams.stdout || streams.stderr {
        Ok(streams)
    } else {
        Err(Refusal(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr".into()))
    }
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// `/exec/NS/POD[/UID]/CONTAINER`
pub async fn exec(state: &State, rest: &[&str], request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let parameters = parameters(request.uri().query().unwrap_or_default());
    let streams = streams(&parameters)?;
    let cmd: Vec<String> = parameters.into_iter().filter(|(n, _)| n == "command").map(|(_, v)| v).collect();
    let ask = api::ExecRequest {
        container_id: container_id(state, rest).await?,
        cmd,
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    let url = state.context.runtime.exec(ask).await.map_err(internal)?.url;
    carry_command(&url, request, streams).await
}

/// `/attach/NS/POD[/UID]/CONTAINER`
pub async fn attach(state: &State, rest: &[&str], request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let streams = streams(&parameters(request.uri().query().unwrap_or_default()))?;
    let ask = api::AttachRequest {
        container_id: container_id(state, rest).await?,
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    let url = state.context.runtime.attach(ask).await.map_err(internal)?.url;
    carry_command(&url, request, streams).await
}

/// `/portForward/NS/POD[/UID]`
pub async fn port_forward(state: &State, rest: &[&str], request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let (namespace, name, uid) = match rest {
        [ns, pod] => (*ns, *pod, None),
        [ns, pod, uid] => (*ns, *pod, Some(*uid)),
        _ => return Err(Refusal(StatusCode::NOT_FOUND, "404 page not found\n".into())),
    };
    let view = find::pod(state, namespace, name, uid).await?;
    let actual = find::actual(state, &view.pod).await?;
    let sandbox = actual
        .ready_sandbox()
        .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("pod not found (\"{name}_{namespace}\")")))?;
    let parameters = parameters(request.uri().query().unwrap_or_default());
    let ports = parameters.iter().filter(|(n, _)| n == "port" || n == "ports");
    let port = ports.flat_map(|(_, v)| v.split(',')).filter_map(|p| p.parse().ok()).collect();
    let ask = api::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port };
    let url = state.context.runtime.port_forward(ask).await.map_err(internal)?.url;
    if websocket::offers(request.headers(), translate::TUNNEL_PROTOCOL) {
        let protocols = [translate::TUNNEL_PROTOCOL, "portforward.k8s.io"];
        return carry_translated(&url, request, protocols, translate::tunnel).await;
    }
    carry(&url, request).await
}

/// `/run/NS/POD[/UID]/CONTAINER?cmd=`: the output of a command.
pub async fn run(state: &State, rest: &[&str], query: Option<&str>) -> Result<Response<Body>, Refusal> {
    let parameters = parameters(query.unwrap_or_default());
    let command = parameters.iter().find(|(n, _)| n == "cmd").map(|(_, v)| v.as_str()).unwrap_or_default();
    let command: Vec<String> = command.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect();
    let id = container_id(state, rest).await?;
    let output = state.context.runtime.exec_sync(&id, &command, RUN_LIMIT).await.map_err(internal)?;
    let bytes = [output.stdout, output.stderr].concat();
    if output.exit_code == 0 {
        Ok(Response::new(full(bytes)))
    } else {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Err(internal(format!("command exited with {}: {text}", output.exit_code)))
    }
}

/// Sends a request on to the runtime's streaming server.
async fn ask(url: &str, mut forward: Request<Empty<Bytes>>) -> Result<Response<Incoming>, Refusal> {
    let to: Uri = url.parse().map_err(|e| internal(format!("the runtime's streaming address {url:?}: {e}")))?;
    let authority = to.authority().map(ToString::to_string).unwrap_or_default();
    let stream = TcpStream::connect(&authority).await.map_err(|e| {
        Refusal(StatusCode::BAD_GATEWAY, format!("cannot reach the runtime's streaming server at {authority}: {e}"))
    })?;
    // Terminals send single keystrokes.
    let _ = stream.set_nodelay(true);
    let handshake =
        hyper::client::conn::http1::Builder::new().preserve_header_case(true).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(internal)?;
    tokio::spawn(connection.with_upgrades());
    let path = to.path_and_query().map_or("/", |p| p.as_str());
    *forward.uri_mut() = path.parse().map_err(internal)?;
    forward.headers_mut().insert(header::HOST, HeaderValue::from_str(&authority).map_err(internal)?);
    sender.send_request(forward).await.map_err(|e| Refusal(StatusCode::BAD_GATEWAY, e.to_string()))
}

/// The runtime's answer as it is.
fn passed_on(response: Response<Incoming>) -> Response<Body> {
    response.map(|body| Body::new(body.map_err(|e| -> BoxError { e.into() })))
}

/// Carries a command's streams, translated where the client speaks what the runtime does not.
async fn carry_command(url: &str, request: Request<Incoming>, streams: Wanted) -> Result<Response<Body>, Refusal> {
    if websocket::offers(request.headers(), translate::COMMAND_PROTOCOL) {
        let protocols = [translate::COMMAND_PROTOCOL, "v4.channel.k8s.io"];
        return carry_translated(url, request, protocols, move |c, r| translate::command(c, r, streams)).await;
    }
    carry(url, request).await
}

/// Sends the request on to `url` and joins the connections when the protocol is switched.
async fn carry(url: &str, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let client_side = hyper::upgrade::on(&mut request);
    let mut forward = Request::new(Empty::<Bytes>::new());
    *forward.method_mut() = request.method().clone();
    *forward.headers_mut() = request.headers().clone();
    forward.headers_mut().remove(header::AUTHORIZATION);
    let mut response = ask(url, forward).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(passed_on(response));
    }
    let runtime_side = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let (Ok(client), Ok(runtime)) = tokio::join!(client_side, runtime_side) else { return };
        let (mut client, mut runtime) = (TokioIo::new(client), TokioIo::new(runtime));
        // However it ends, it ends.
        let _ =
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut runtime, COPY_BUFFER_BYTES, COPY_BUFFER_BYTES)
                .await;
    });
    let (parts, _) = response.into_parts();
    Ok(Response::from_parts(parts, full("")))
}

/// Makes the client's connection a WebSocket and the runtime's one of SPDY, and lets `translate` carry what flows.
/// `protocols` are what the client and what the runtime speak inside.
async fn carry_translated<F>(
    url: &str,
    mut request: Request<Incoming>,
    protocols: [&'static str; 2],
    translate: impl FnOnce(TokioIo<Upgraded>, TokioIo<Upgraded>) -> F + Send + 'static,
) -> Result<Response<Body>, Refusal>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).and_then(|k| k.to_str().ok());
    let key = key.ok_or_else(|| Refusal(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing".into()))?;
    let accept = HeaderValue::from_str(&websocket::accept(key)).map_err(internal)?;
    let [outer, inner] = protocols.map(HeaderValue::from_static);
    let client_side = hyper::upgrade::on(&mut request);
    let mut forward = Request::new(Empty::<Bytes>::new());
    *forward.method_mut() = Method::POST;
    forward.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    forward.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    forward.headers_mut().insert("x-stream-protocol-version", inner);
    let mut response = ask(url, forward).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(passed_on(response));
    }
    let runtime_side = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let (Ok(client), Ok(runtime)) = tokio::join!(client_side, runtime_side) else { return };
        if let Err(error) = translate(TokioIo::new(client), TokioIo::new(runtime)).await {
            tracing::debug!(%error, "A stream over WebSocket ended");
        }
    });
    let mut answer = Response::new(full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
        (header::SEC_WEBSOCKET_PROTOCOL, outer),
    ] {
        answer.headers_mut().insert(name, value);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_flags() {
        let of = |query: &str| streams(&parameters(query)).map(|s| (s.stdin, s.stdout, s.stderr, s.tty)).ok();
        assert_eq!(of("input=1&output=1&error=1&tty=1"), Some((true, true, false, true)));
        assert_eq!(of("stdout=true&stderr=true"), Some((false, true, true, false)));
        assert_eq!(of("command=ls"), None);
    }
}
