//! A scripted API server over real HTTP/2 for tests: each request takes the next answer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use component_base::BoxError;
use component_base::serving::{Body, Server, full, service_fn};

use crate::{Access, Client, ClientConfig};

/// One scripted answer.
pub(crate) enum Answer {
    /// Status and body.
    Whole(u16, String),
    /// 200 and whatever the test sends, until it drops the sender.
    Stream(mpsc::Receiver<String>),
}

/// The server and what it saw.
pub(crate) struct FakeServer {
    pub(crate) client: Client,
    pub(crate) shutdown: CancellationToken,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: VecDeque<Answer>,
    seen: Vec<(String, http::HeaderMap, Bytes)>,
}

impl FakeServer {
    pub(crate) fn start() -> Self {
        Self::start_at(0)
    }

    pub(crate) fn start_at(port: u16) -> Self {
        let server = Server::bind("127.0.0.1".parse().unwrap(), port).unwrap();
        let (addr, shutdown, state) = (server.local_addr(), CancellationToken::new(), Arc::<Mutex<State>>::default());
        let shared = Arc::clone(&state);
        let service = service_fn(move |request| answer(Arc::clone(&shared), request));
        tokio::spawn(server.serve(None, service, shutdown.clone()));
        let access = Access { server: format!("http://{addr}"), ..Access::default() };
        let client = Client::new(ClientConfig::with_access(access, "test")).unwrap();
        Self { client, shutdown, state }
    }

    pub(crate) fn will_answer(&self, status: u16, body: impl Into<String>) {
        self.state.lock().unwrap().answers.push_back(Answer::Whole(status, body.into()));
    }

    pub(crate) fn will_stream(&self) -> mpsc::Sender<String> {
        let (sender, receiver) = mpsc::channel(16);
        self.state.lock().unwrap().answers.push_back(Answer::Stream(receiver));
        sender
    }

    /// `METHOD path?query` of every request so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.state.lock().unwrap().seen.iter().map(|(line, _, _)| line.clone()).collect()
    }

    /// Headers and body of a request.
    pub(crate) fn request(&self, index: usize) -> (http::HeaderMap, Bytes) {
        let state = self.state.lock().unwrap();
        (state.seen[index].1.clone(), state.seen[index].2.clone())
    }
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    assert_eq!(parts.version, http::Version::HTTP_2);
    let answer = {
        let mut state = state.lock().unwrap();
        let line = format!("{} {}", parts.method, parts.uri.path_and_query().unwrap());
        state.seen.push((line, parts.headers, bytes));
        state.answers.pop_front()
    };
    let (status, body) = match answer {
        None => (500, full("no answer is scripted")),
        Some(Answer::Whole(status, body)) => (status, full(body)),
        Some(Answer::Stream(receiver)) => {
            let frames = ReceiverStream::new(receiver).map(|text| Ok::<_, BoxError>(Frame::data(Bytes::from(text))));
            (200, Body::new(StreamBody::new(frames)))
        }
    };
    let response = Response::builder().status(status).header("retry-after", "1");
    let response = if status == 429 { response } else { Response::builder().status(status) };
    Ok(response.body(body).unwrap())
}

mod tests {
    use super::*;
    use crate::resources::{CONFIG_MAPS, PODS};
    use crate::{ClientError, DeleteOptions, ListOptions, Patch};
    use serde_json::{Value, json};

    #[tokio::test]
    async fn verbs_and_errors() {
        let server = FakeServer::start();
        server.will_answer(200, r#"{"metadata":{"name":"a"}}"#);
        let pod: Value = server.client.get(&PODS, Some("x"), "a").await.unwrap();
        assert_eq!(pod["metadata"]["name"], "a");
        server.will_answer(
            404,
            r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404,"message":"gone"}"#,
        );
        let error = server.client.get::<Value>(&PODS, Some("x"), "b").await.unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("gone"), "{error}");
        server.will_answer(502, "bad gateway");
        let error = server.client.get::<Value>(&PODS, Some("x"), "b").await.unwrap_err();
        assert!(matches!(&error, ClientError::Status(s) if s.code == 502), "{error}");
        server.will_answer(200, "{}");
        let patch = Patch::Merge(json!({"data": null}));
        server.client.patch::<Value>(&CONFIG_MAPS, Some("x"), "c", None, &patch).await.unwrap();
        let (headers, body) = server.request(3);
        assert_eq!(headers["content-type"], "application/merge-patch+json");
        assert!(headers["user-agent"].to_str().unwrap().starts_with("test/v1.36.3"));
        assert_eq!(body, r#"{"data":null}"#);
        server.will_answer(200, "{}");
        server.client.delete(&PODS, Some("x"), "a", &DeleteOptions::of_uid("u")).await.unwrap();
        assert_eq!(server.request(4).1, r#"{"preconditions":{"uid":"u"}}"#);
        server.will_answer(200, r#"{"metadata":{"resourceVersion":"7","continue":"t"},"items":[{}]}"#);
        let options = ListOptions { label_selector: "a=b,c in (d)".into(), limit: 1, ..ListOptions::default() };
        let list = server.client.list::<Value>(&PODS, None, &options).await.unwrap();
        assert_eq!((list.items.len(), list.resource_version.as_str(), list.continue_token.as_str()), (1, "7", "t"));
        assert_eq!(server.seen()[5], "GET /api/v1/pods?labelSelector=a%3Db%2Cc%20in%20%28d%29&limit=1");
    }

    #[tokio::test]
    async fn waits_when_asked_to() {
        let server = FakeServer::start();
        server.will_answer(429, "slow down");
        server.will_answer(200, "{}");
        server.client.get::<Value>(&PODS, Some("x"), "a").await.unwrap();
        assert_eq!(server.seen().len(), 2);
    }

    #[tokio::test]
    async fn a_refused_port_is_explained() {
        let server = Server::bind("127.0.0.1".parse().unwrap(), 0).unwrap();
        let addr = server.local_addr();
        drop(server);
        let access = Access { server: format!("http://{addr}"), ..Access::default() };
        let client = Client::new(ClientConfig::with_access(access, "test")).unwrap();
        let error = client.get::<Value>(&PODS, Some("x"), "a").await.unwrap_err();
        assert!(error.to_string().contains("is the API server running?"), "{error}");
    }
}
