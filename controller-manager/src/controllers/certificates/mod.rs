//! The three controllers of certificate signing requests: `certificatesigningrequest-approving-controller` approves
//! kubelets' own client certificates, `…-signing-controller` signs what is approved, `…-cleaner-controller` removes old
//! requests.

pub mod approving;
pub mod cleaner;
pub mod rules;
pub mod signing;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::csr::Request;
use serde_json::{Value, json};

use crate::framework::{Action, View};
use crate::views::certificates::CsrView;
use crate::views::meta::{Condition, to_value};

/// Signs clients of the API server.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs kubelets as clients of the API server.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs kubelets as servers.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signs whatever older clients ask for.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// The request inside, decoded and with its signature checked.
pub fn request_of(csr: &CsrView) -> Result<Request, String> {
    let pem = STANDARD.decode(&csr.spec.request).map_err(|error| format!("spec.request is no base64: {error}"))?;
    Request::from_pem(&pem).map_err(|error| error.to_string())
}

/// A change of a request's status through `subresource`; conditions are merged by type.
pub fn change(csr: &CsrView, subresource: &'static str, added: &[Condition], certificate: Option<&str>) -> Action {
    let mut conditions: Vec<&Condition> =
        csr.status.conditions.iter().filter(|old| added.iter().all(|new| new.kind != old.kind)).collect();
    conditions.extend(added);
    let mut status = json!({});
    if !added.is_empty() {
        status["conditions"] = conditions.into_iter().map(to_value).collect();
    }
    if let Some(pem) = certificate {
        status["certificate"] = Value::String(STANDARD.encode(pem));
    }
    Action::Change {
        target: csr.target(),
        subresource: Some(subresource),
        change: json!({"metadata": {"resourceVersion": csr.metadata.resource_version}, "status": status}),
    }
}
