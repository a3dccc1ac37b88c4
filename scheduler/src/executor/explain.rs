//! `/debug/explain`: where a pod could go and why, as the scheduler sees it now. Every node with each plugin's weighted
//! score, or with what keeps the pod from it; computed from scratch, so that it also checks the kept answers.

use std::sync::Arc;
use std::time::Duration;

use component_base::health::text;
use component_base::secure_port::{Handler, handler, json as answer_json};
use component_base::serving::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::Scheduler;
use crate::evaluate::naive::{CycleState, NodeView};
use crate::model::pod::PodInfo;
use crate::queue::State;

/// Questions that may wait.
pub const MAX_QUESTIONS: usize = 8;
/// A scheduler that does not lead has no answers.
const TIMEOUT: Duration = Duration::from_secs(10);

/// About which pod.
#[derive(Debug)]
pub struct Question {
    namespace: String,
    pod: String,
    answer: oneshot::Sender<Value>,
}

/// Answers `GET /debug/explain?namespace=NAMESPACE&pod=NAME` by asking the scheduler.
pub fn route(questions: mpsc::Sender<Question>) -> Handler {
    handler(move |request| {
        let questions = questions.clone();
        let query = request.uri().query().unwrap_or_default().to_owned();
        async move { ask(&questions, &query).await }
    })
}

async fn ask(questions: &mpsc::Sender<Question>, query: &str) -> Response<Body> {
    // Names of namespaces and pods need no escaping.
    let parameter = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let (Some(namespace), Some(pod)) = (parameter("namespace"), parameter("pod")) else {
        return text(StatusCode::BAD_REQUEST, "which pod? /debug/explain?namespace=NAMESPACE&pod=NAME\n".to_owned());
    };
    let (answer, answered) = oneshot::channel();
    let question = Question { namespace: namespace.to_owned(), pod: pod.to_owned(), answer };
    let silent = || text(StatusCode::SERVICE_UNAVAILABLE, "this scheduler does not lead, or is busy\n".to_owned());
    if questions.try_send(question).is_err() {
        return silent();
    }
    match tokio::time::timeout(TIMEOUT, answered).await {
        Ok(Ok(Value::Null)) => text(StatusCode::NOT_FOUND, format!("no pod {namespace}/{pod} that has not ended\n")),
        Ok(Ok(value)) => answer_json(&value),
        _ => silent(),
    }
}

impl Scheduler {
    /// Answers a question; the asker may have gone.
    pub(super) fn explain(&self, question: Question) {
        let known = self.sources.pods.get(&question.namespace, &question.pod);
        let answer = known.map_or(Value::Null, |pod| self.explanation(&pod.info));
        let _ = question.answer.send(answer);
    }

    fn explanation(&self, pod: &Arc<PodInfo>) -> Value {
        let mut out = json!({"pod": pod.key.to_string(), "state": self.state_of(pod), "nodes": []});
        let Some(profile) = self.profile_of(pod).map(|p| &self.profiles[p]) else { return out };
        out["profile"] = json!(profile.scheduler_name);
        let mut state = match CycleState::new(&self.cluster, profile, &pod.template) {
            Ok(state) => state,
            Err(unready) => {
                out["message"] = json!(format!("{}: {}", unready.plugin.name(), unready.reason));
                return out;
            }
        };
        let ids = self.cluster.nodes.ids();
        let mut views: Vec<NodeView<'_>> = ids.filter_map(|id| NodeView::of(&self.cluster, id)).collect();
        // A pod that has a place is judged as if it had none.
        if let Some(view) = views.iter_mut().find(|v| v.pods.iter().any(|p| p.key == pod.key)) {
            state.remove(view, pod);
        }
        let (mut feasible, mut nodes) = (Vec::new(), Vec::new());
        for view in views {
            match state.filter(&view) {
                Ok(_) => feasible.push(view),
                Err(r) => nodes.push(json!({
                    "name": &*view.info.name,
                    "rejectedBy": r.plugin.name(),
                    "reasons": r.reasons().collect::<Vec<_>>(),
                    "preemptionMayHelp": !r.unresolvable,
                })),
            }
        }
        for score in state.score(&feasible) {
            let by: serde_json::Map<String, Value> =
                score.by_plugin.iter().map(|(p, s)| (p.name().to_owned(), json!(s))).collect();
            nodes.push(json!({"name": &**self.cluster.nodes.name(score.node), "score": score.total, "scores": by}));
        }
        nodes.sort_by_key(|n| (std::cmp::Reverse(n["score"].as_i64()), n["name"].to_string()));
        out["nodes"] = Value::Array(nodes);
        out
    }

    fn state_of(&self, pod: &PodInfo) -> String {
        if !pod.node_name.is_empty() {
            return format!("on node {}", pod.node_name);
        }
        let Some(entry) = self.queue.get(&pod.key) else { return "not for this scheduler".to_owned() };
        let state = match entry.state {
            State::Active => "to be tried",
            State::Backoff => "to be tried again soon",
            State::Unschedulable => "waits for a change",
            State::Gated => "held by its gates, or for want of a claim of devices",
            State::Held => "being bound, or waiting for its victims to leave",
        };
        format!("{state} ({} attempts)", entry.attempts)
    }
}
