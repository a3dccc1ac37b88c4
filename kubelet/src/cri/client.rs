//! The CRI connection: one channel to the runtime's socket, typed calls with deadlines.
//!
//! Guarantees: `connect` does no I/O, so the kubelet starts before its runtime; each call connects when needed.
//! Errors keep the runtime's gRPC code, which the callers use to tell "gone" from "failed".

use std::sync::LazyLock;
use std::time::Duration;

use component_base::metrics::{self, Counter, Family};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use super::api::{self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};

/// Largest answer taken from the runtime; a list of some thousand containers is about 5 MiB.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A failed call to the runtime.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {message}")]
pub struct CriError {
    /// The call, as the interface names it.
    pub call: &'static str,
    /// The runtime's code.
    pub code: Code,
    /// The runtime's words.
    pub message: String,
}

/// Waits for a call and counts it.
async fn count<T>(
    call: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CriError> {
    OPERATIONS.with(&[call]).inc();
    answer.await.map(tonic::Response::into_inner).map_err(|status| {
        OPERATION_ERRORS.with(&[call]).inc();
        CriError::new(call, &status)
    })
}

static OPERATIONS: LazyLock<Family<Counter>> = LazyLock::new(|| {
    let help = "Cumulative number of runtime operations by operation type.";
    metrics::counter("kubelet_runtime_operations_total", help, &["operation_type"])
});
static OPERATION_ERRORS: LazyLock<Family<Counter>> = LazyLock::new(|| {
    let help = "Cumulative number of runtime operation errors by operation type.";
    metrics::counter("kubelet_runtime_operations_errors_total", help, &["operation_type"])
});

impl CriError {
    fn new(call: &'static str, status: &Status) -> Self {
        Self { call, code: status.code(), message: status.message().to_owned() }
    }

    /// The object of the call does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }
}

/// A cheap handle to the runtime and image services.
#[derive(Clone)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    timeout: Duration,
}

/// One method per call: `name(request) -> response`, with the default deadline.
macro_rules! calls {
    ($service:ident: $($(#[$doc:meta])* $name:ident($req:ident) -> $res:ident;)*) => {
        impl Runtime {
            $($(#[$doc])* pub async fn $name(&self, request: api::$req) -> Result<api::$res, CriError> {
                count(stringify!($name), self.$service.clone().$name(with_deadline(request, self.timeout))).await
            })*
        }
    };
}

calls! { runtime:
    /// Name and version of the runtime.
    version(VersionRequest) -> VersionResponse;
    /// Sandboxes, filtered.
    list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    /// Addresses and namespaces of one sandbox.
    pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    /// Ends a sandbox and what runs in it; repeating it is fine.
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    /// Forgets a sandbox.
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    /// Makes a container without starting it.
    create_container(CreateContainerRequest) -> CreateContainerResponse;
    /// Starts a created container.
    start_container(StartContainerRequest) -> StartContainerResponse;
    /// Forgets a container and its log.
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    /// Containers, filtered.
    list_containers(ListContainersRequest) -> ListContainersResponse;
    /// Everything about one container.
    container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    /// Changes a running container's limits.
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    /// Opens the log anew after a rotation.
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    /// A streaming address for exec.
    exec(ExecRequest) -> ExecResponse;
    /// A streaming address for attach.
    attach(AttachRequest) -> AttachResponse;
    /// A streaming address for port-forward.
    port_forward(PortForwardRequest) -> PortForwardResponse;
    /// CPU, memory and disk figures of containers.
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    /// The runtime's conditions.
    status(StatusRequest) -> StatusResponse;
    /// The runtime's cgroup driver, when it tells.
    runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
}

calls! { images:
    /// Images on this node.
    list_images(ListImagesRequest) -> ListImagesResponse;
    /// One image, or none.
    image_status(ImageStatusRequest) -> ImageStatusResponse;
    /// Deletes an image.
    remove_image(RemoveImageRequest) -> RemoveImageResponse;
    /// Where images are kept and how much they take.
    image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
}

fn with_deadline<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// A connection to a socket, made when it is first used.
pub fn channel(path: &str) -> Channel {
    let path = path.strip_prefix("unix://").unwrap_or(path).to_owned();
    // The authority is never looked at: the connector always opens the socket.
    Endpoint::from_static("http://runtime").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    }))
}

impl Runtime {
    /// A handle to the runtime behind `socket` (a path) and, when it is another one, the image service.
    pub fn connect(socket: &str, image_socket: &str, timeout: Duration) -> Self {
        let runtime = channel(socket);
        let images = if image_socket == socket { runtime.clone() } else { channel(image_socket) };
        Self {
            runtime: RuntimeServiceClient::new(runtime).max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(images).max_decoding_message_size(MAX_MESSAGE_BYTES),
            timeout,
        }
    }

    /// Makes and starts a sandbox. Network set-up may be slow, so the deadline is doubled, as upstream's.
    pub async fn run_pod_sandbox(&self, request: api::RunPodSandboxRequest) -> Result<String, CriError> {
        self.runtime
            .clone()
            .run_pod_sandbox(with_deadline(request, self.timeout * 2))
            .await
            .map(|r| r.into_inner().pod_sandbox_id)
            .map_err(|s| CriError::new("run_pod_sandbox", &s))
    }

    /// Stops a container: TERM, `grace_seconds`, KILL. The deadline leaves room for the grace.
    pub async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<(), CriError> {
        let deadline = self.timeout + Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
        let request = api::StopContainerRequest { container_id: id.to_owned(), timeout: grace_seconds };
        let result = self.runtime.clone().stop_container(with_deadline(request, deadline)).await;
        match result {
            Ok(_) => Ok(()),
            Err(s) if s.code() == Code::NotFound => Ok(()),
            Err(s) => Err(CriError::new("stop_container", &s)),
        }
    }

    /// Runs a command in a container and waits for it, at most `limit`.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<api::ExecSyncResponse, CriError> {
        let request = api::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        };
        self.runtime
            .clone()
            .exec_sync(with_deadline(request, limit + self.timeout))
            .await
            .map(tonic::Response::into_inner)
            .map_err(|s| CriError::new("exec_sync", &s))
    }

    /// Pulls an image; as long as it takes, since the caller drops the future when nobody wants it any more.
    pub async fn pull_image(&self, request: api::PullImageRequest) -> Result<String, CriError> {
        self.images
            .clone()
            .pull_image(Request::new(request))
            .await
            .map(|r| r.into_inner().image_ref)
            .map_err(|s| CriError::new("pull_image", &s))
    }

    /// The stream of container events; `Unimplemented` from runtimes that have none.
    pub async fn container_events(&self) -> Result<tonic::Streaming<api::ContainerEventResponse>, CriError> {
        self.runtime
            .clone()
            .get_container_events(Request::new(api::GetEventsRequest {}))
            .await
            .map(tonic::Response::into_inner)
            .map_err(|s| CriError::new("get_container_events", &s))
    }
}

/// The path of a runtime endpoint as the flags give it.
///
/// # Errors
/// An endpoint that is not a unix socket.
pub fn socket_path(endpoint: &str) -> Result<&str, String> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if path.starts_with('/') {
        Ok(path)
    } else {
        Err(format!(
            "container runtime endpoint {endpoint:?} is not a unix socket: use unix:///run/containerd/containerd.sock or the like"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::socket_path;

    #[test]
    fn endpoints() {
        assert_eq!(socket_path("unix:///run/x.sock"), Ok("/run/x.sock"));
        assert_eq!(socket_path("/run/x.sock"), Ok("/run/x.sock"));
        assert!(socket_path("tcp://1.2.3.4:1").is_err());
    }
}
