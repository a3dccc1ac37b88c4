//! Removing every pod of a node through its container runtime, so that the runtime takes down networks and mounts itself.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

mod proto {
    #![allow(missing_docs, clippy::pedantic)]
    tonic::include_proto!("runtime.v1");
}

use proto::runtime_service_client::RuntimeServiceClient;

/// Why pods could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The runtime does not answer.
    #[error("the container runtime does not answer at {socket}: {source}")]
    Connect {
        /// Its socket.
        socket: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// A call failed.
    #[error("the container runtime refuses to {step}: {source}")]
    Call {
        /// Which.
        step: &'static str,
        /// Why.
        source: Box<tonic::Status>,
    },
}

/// Stops and removes all sandboxes with their containers; returns how many there were.
///
/// # Errors
/// The first call that failed.
pub async fn remove_all_pods(socket: &Path) -> Result<usize, CriError> {
    let mut runtime = RuntimeServiceClient::new(connect(socket).await?);
    let call = |step| move |source| CriError::Call { step, source: Box::new(source) };
    let list = runtime.list_pod_sandbox(proto::ListPodSandboxRequest {}).await.map_err(call("list pods"))?;
    let items = list.into_inner().items;
    for pod in &items {
        let pod_sandbox_id = pod.id.clone();
        let stop = proto::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        runtime.stop_pod_sandbox(stop).await.map_err(call("stop a pod"))?;
        let remove = proto::RemovePodSandboxRequest { pod_sandbox_id };
        runtime.remove_pod_sandbox(remove).await.map_err(call("remove a pod"))?;
    }
    Ok(items.len())
}

async fn connect(socket: &Path) -> Result<Channel, CriError> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // the URI is only a name: the connector knows where to go
    Endpoint::from_static("http://runtime")
        .connect_with_connector(connector)
        .await
        .map_err(|source| CriError::Connect { socket: socket.display().to_string(), source })
}
