//! `certificatesigningrequest-cleaner-controller`: removes requests that are done or that nobody decides.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::framework::backoff::remaining;
use crate::framework::{Controller, Executor, Key, Setup, Store, SyncResult, View};
use crate::views::certificates::CsrView;
use crate::views::meta::created;

const DECIDED_SECONDS: i64 = 3600;
const PENDING_SECONDS: i64 = 24 * 3600;

/// Registers `certificatesigningrequest-cleaner-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("certificate_cleaner");
    let requests = setup.stores.of::<CsrView>();
    requests.wakes(&queue);
    let executor = setup.executor("certificate-controller");
    setup.workers(queue, 1, Cleaner { requests, executor });
}

/// How long until the request may go.
pub fn time_left(csr: &CsrView, now: Timestamp) -> Duration {
    let decided: Vec<Timestamp> = csr
        .status
        .conditions
        .iter()
        .filter(|condition| matches!(condition.kind.as_str(), "Approved" | "Denied" | "Failed"))
        .filter_map(|condition| condition.last_update_time.0.or(Some(created(&csr.metadata))))
        .collect();
    let by_age = match decided.iter().min() {
        Some(since) => remaining(*since, DECIDED_SECONDS, now),
        None => remaining(created(&csr.metadata), PENDING_SECONDS, now),
    };
    certificate_end(csr).map_or(by_age, |end| by_age.min(remaining(end, 0, now)))
}

fn certificate_end(csr: &CsrView) -> Option<Timestamp> {
    let pem = STANDARD.decode(&csr.status.certificate).ok()?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let certificate = block.parse_x509().ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

struct Cleaner {
    requests: Store<CsrView>,
    executor: Executor,
}

impl Controller for Cleaner {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(csr) = self.requests.get("", &key.name) else { return Ok(None) };
        let left = time_left(&csr, Timestamp::now());
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let target = csr.target();
        self.executor.apply(target.delete(&csr.metadata.uid)).await?;
        Ok(None)
    }
}
