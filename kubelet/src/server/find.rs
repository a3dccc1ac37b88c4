//! Finding pods and containers for a request, and listing them.

use http::StatusCode;
use k8s_openapi::api::core::v1::ContainerStatus;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Refusal, State};
use crate::cri::snapshot::{self, PodActual};
use crate::pods::manager::{Message, PodView};
use crate::pods::types::Pod;

/// All pods.
pub async fn pods(state: &State) -> Result<Vec<PodView>, Refusal> {
    let ending = || Refusal(StatusCode::SERVICE_UNAVAILABLE, "the kubelet is ending".into());
    let (reply, answer) = oneshot::channel();
    state.messages.send(Message::List(reply)).await.map_err(|_| ending())?;
    answer.await.map_err(|_| ending())
}

/// One pod by name and, when given, uid.
pub async fn pod(state: &State, namespace: &str, name: &str, uid: Option<&str>) -> Result<PodView, Refusal> {
    let found = pods(state).await?.into_iter().find(|view| {
        let pod = &view.pod;
        pod.namespace() == namespace && pod.name() == name && uid.is_none_or(|uid| pod.uid() == uid)
    });
    found.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist")))
}

/// What the runtime has for a pod now.
pub async fn actual(state: &State, pod: &Pod) -> Result<PodActual, Refusal> {
    let found = snapshot::fetch(&state.context.runtime, pod.uid()).await;
    found.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// The status of a container in a pod's status.
pub fn status<'a>(view: &'a PodView, container: &str) -> Option<&'a ContainerStatus> {
    let status = &view.status;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|s| s.name == container)
}

fn list(items: &[Value]) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// `/pods`: every pod with its newest status.
pub async fn pod_list(state: &State) -> Result<Value, Refusal> {
    let item = |view: PodView| json!({"metadata": view.pod.metadata, "spec": view.pod.spec, "status": *view.status});
    Ok(list(&pods(state).await?.into_iter().map(item).collect::<Vec<_>>()))
}

/// `/runningpods`: what the runtime runs, told by names alone.
pub async fn running_pods(state: &State) -> Result<Value, Refusal> {
    let running = pods(state).await?.into_iter().filter(|view| !view.finished);
    let item = |view: PodView| {
        let containers: Vec<_> = view
            .status
            .container_statuses
            .iter()
            .flatten()
            .filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
            .map(|c| json!({"name": c.name, "image": c.image, "resources": {}}))
            .collect();
        let m = &view.pod.metadata;
        json!({"metadata": {"name": m.name, "namespace": m.namespace, "uid": m.uid},
            "spec": {"containers": containers}, "status": {}})
    };
    Ok(list(&running.map(item).collect::<Vec<_>>()))
}
