//! Upstream's label and annotation names on sandboxes and containers.
//!
//! They are the kubelet's only memory: with them a new process finds out which pod, which container and which attempt
//! something in the runtime is, and how long it may take to stop even when its pod is already gone from the API.

/// Label: name of the pod.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: namespace of the pod.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: uid of the pod (for a static pod, the hash of its file).
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: name of the container in the pod's spec.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: hash of what must not change without a restart.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how often this container was started before.
pub const CONTAINER_RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: where the container writes its last words.
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: `File` or `FallbackToLogsOnError`.
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: the pod's terminationGracePeriodSeconds.
pub const POD_TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation: the container's ports as JSON.
pub const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";
/// Annotation: the container's preStop handler as JSON.
pub const CONTAINER_PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// Annotation on pods: where the kubelet has the pod from (`api`, `file`, `http`).
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Annotation on pods: hash of a static pod's file.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation on pods: when the kubelet first saw the pod.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
/// Annotation on pods: marks the API's picture of a static pod; its value is the file's hash.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
