//! `certificatesigningrequest-approving-controller`: approves client certificates that kubelets ask for themselves,
//! if the requester may (`certificatesigningrequests/nodeclient` for the first, `…/selfnodeclient` for renewals).

use client::resources;
use serde_json::{Value, json};

use super::rules::kubelet_client;
use super::{KUBELET_CLIENT, change, request_of};
use crate::framework::{Controller, Executor, Key, Setup, Store, SyncError, SyncResult};
use crate::views::certificates::CsrView;
use crate::views::meta::Condition;

/// Registers `certificatesigningrequest-approving-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("certificate");
    let requests = setup.stores.of::<CsrView>();
    requests.wakes(&queue);
    let executor = setup.executor("certificate-controller");
    setup.workers(queue, 5, Approving { requests, executor });
}

/// The permissions to ask about, with what is said when one is there; empty when nothing is to be approved.
pub fn recognize(csr: &CsrView) -> Vec<(&'static str, &'static str)> {
    let decided = !csr.status.certificate.is_empty() || csr.has("Approved") || csr.has("Denied");
    if decided || csr.spec.signer_name != KUBELET_CLIENT {
        return Vec::new();
    }
    let Ok(request) = request_of(csr) else { return Vec::new() };
    if kubelet_client(&request, &csr.spec.usages).is_err() {
        return Vec::new();
    }
    let mut candidates = Vec::new();
    if request.subject.common_name == csr.spec.username {
        candidates
            .push(("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."));
    }
    candidates.push(("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."));
    candidates
}

fn review(csr: &CsrView, subresource: &str) -> Value {
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": csr.spec.username,
            "uid": csr.spec.uid,
            "groups": csr.spec.groups,
            "extra": csr.spec.extra,
            "resourceAttributes": {
                "group": "certificates.k8s.io",
                "resource": "certificatesigningrequests",
                "verb": "create",
                "subresource": subresource,
                "version": "*",
            },
        },
    })
}

struct Approving {
    requests: Store<CsrView>,
    executor: Executor,
}

impl Controller for Approving {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(csr) = self.requests.get("", &key.name) else { return Ok(None) };
        let candidates = recognize(&csr);
        for (subresource, message) in &candidates {
            let answer: Value =
                self.executor.create(&resources::SUBJECT_ACCESS_REVIEWS, None, &review(&csr, subresource)).await?;
            if answer["status"]["allowed"] == json!(true) {
                let approved = Condition {
                    kind: "Approved".to_owned(),
                    status: "True".to_owned(),
                    reason: "AutoApproved".to_owned(),
                    message: (*message).to_owned(),
                    ..Condition::default()
                };
                self.executor.apply(change(&csr, "approval", &[approved], None)).await?;
                return Ok(None);
            }
        }
        match candidates.is_empty() {
            true => Ok(None),
            // A permission may be granted later; upstream asks again with growing pauses.
            false => Err(SyncError::Waiting(format!(
                "{} may not have its certificate approved by itself",
                csr.spec.username
            ))),
        }
    }
}
