//! `certificatesigningrequest-signing-controller`: signs approved requests of the four built-in signers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pki::authority::{Authority, Policy, Usage};

use super::rules::check;
use super::{change, request_of};
use crate::framework::{Action, Controller, Executor, Key, Setup, Store, SyncResult};
use crate::views::certificates::CsrView;
use crate::views::meta::Condition;

const MIN_LIFETIME: Duration = Duration::from_secs(600);

/// Registers `certificatesigningrequest-signing-controller`. Signers without a configured authority are left to others.
pub fn register(setup: &mut Setup) {
    if setup.config.signers.is_empty() {
        tracing::warn!("no --cluster-signing-cert-file and key: certificate signing requests will not be signed");
        return;
    }
    let queue = setup.queue("certificate");
    let requests = setup.stores.of::<CsrView>();
    requests.wakes(&queue);
    let executor = setup.executor("certificate-controller");
    let signers = Signers { by_name: setup.config.signers.clone(), max_lifetime: setup.config.signing_duration };
    setup.workers(queue, 5, Signing { requests, executor, signers });
}

/// The authorities by signer name, and their longest life time.
#[derive(Clone)]
pub struct Signers {
    /// By signer name.
    pub by_name: HashMap<&'static str, Arc<Authority>>,
    /// The longest life time.
    pub max_lifetime: Duration,
}

/// The write a request needs: its certificate, or why there is none. None while it is not this controller's turn.
pub fn reconcile(csr: &CsrView, signers: &Signers, now: Timestamp) -> Option<Action> {
    let mine = csr.has("Approved") && !csr.has("Denied") && !csr.has("Failed") && csr.status.certificate.is_empty();
    let authority = signers.by_name.get(csr.spec.signer_name.as_str()).filter(|_| mine)?;
    let failed = |message: String| {
        let condition = Condition {
            kind: "Failed".to_owned(),
            status: "True".to_owned(),
            reason: "SignerValidationFailure".to_owned(),
            message,
            last_update_time: now.into(),
            ..Condition::default()
        };
        change(csr, "status", &[condition], None)
    };
    let request = match request_of(csr) {
        Ok(request) => request,
        Err(message) => return Some(failed(message)),
    };
    if let Err(message) = check(&csr.spec.signer_name, &request, &csr.spec.usages) {
        return Some(failed(message));
    }
    let usages: Option<Vec<Usage>> = csr.spec.usages.iter().map(|usage| Usage::parse(usage)).collect();
    let Some(usages) = usages else {
        return Some(failed(format!("usages {:?} cannot all be issued by this signer", csr.spec.usages)));
    };
    let policy = Policy { usages, lifetime: lifetime(csr.spec.expiration_seconds, signers.max_lifetime) };
    Some(match authority.sign_request(&request, &policy, now) {
        Ok(certificate) => change(csr, "status", &[], Some(&certificate)),
        Err(error) => failed(error.to_string()),
    })
}

/// What was wished for, but at least ten minutes and at most the configured life time.
fn lifetime(wished_seconds: Option<i64>, max: Duration) -> Duration {
    let wished = wished_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(max, Duration::from_secs);
    wished.max(MIN_LIFETIME).min(max)
}

struct Signing {
    requests: Store<CsrView>,
    executor: Executor,
    signers: Signers,
}

impl Controller for Signing {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(csr) = self.requests.get("", &key.name) else { return Ok(None) };
        if let Some(action) = reconcile(&csr, &self.signers, Timestamp::now()) {
            self.executor.apply(action).await?;
        }
        Ok(None)
    }
}
