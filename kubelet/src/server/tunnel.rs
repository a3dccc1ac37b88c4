//! exec, attach and port-forward: asks the runtime for a streaming address and carries the bytes.
//!
//! The client's request goes on unchanged but for its path; the runtime's answer comes back unchanged. After a protocol
//! switch both connections are joined until one side ends. What is spoken over them is no business of the kubelet.

use bytes::Bytes;
use component_base::BoxError;
use component_base::serving::{Body, full};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

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
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

fn streams(parameters: &[(String, String)]) -> Result<Streams, Refusal> {
    let on = |names: [&str; 2]| {
        parameters.iter().any(|(n, v)| names.contains(&n.as_str()) && matches!(v.as_str(), "1" | "true"))
    };
    let tty = on(["tty", "tty"]);
    let streams = Streams {
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
    carry(&url, request).await
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
    carry(&url, request).await
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

/// Sends the request on to `url` and joins the connections when the protocol is switched.
async fn carry(url: &str, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
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
    let client_side = hyper::upgrade::on(&mut request);
    let mut forward = Request::new(Empty::<Bytes>::new());
    *forward.method_mut() = request.method().clone();
    let path = to.path_and_query().map_or("/", |p| p.as_str());
    *forward.uri_mut() = path.parse().map_err(internal)?;
    *forward.headers_mut() = request.headers().clone();
    forward.headers_mut().remove(header::AUTHORIZATION);
    forward.headers_mut().insert(header::HOST, HeaderValue::from_str(&authority).map_err(internal)?);
    let mut response =
        sender.send_request(forward).await.map_err(|e| Refusal(StatusCode::BAD_GATEWAY, e.to_string()))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(|body| Body::new(body.map_err(|e| -> BoxError { e.into() }))));
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
