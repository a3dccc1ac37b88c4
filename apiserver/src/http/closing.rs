//! How serving ends, and what requests see of it.
//!
//! In upstream's order: readiness fails; a delay passes, so that load balancers notice; then either the port closes at once,
//! or new requests are refused with 429 and `Retry-After` until those under way have ended. Watches end when requests are
//! not taken any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::ShutdownConfig;

/// How long requests under way are waited for.
const DRAIN: Duration = Duration::from_secs(60);
/// Answered also while everything else is refused.
const HEALTH: [&str; 3] = ["/readyz", "/livez", "/healthz"];

/// The state of the end.
#[derive(Debug, Default)]
pub struct Closing {
    begun: AtomicBool,
    refusing: AtomicBool,
    under_way: TaskTracker,
}

impl Closing {
    /// Whether the server is on its way out.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether a request for this path must come again later, elsewhere.
    pub fn refuses(&self, path: &str) -> bool {
        self.refusing.load(Ordering::Relaxed) && !HEALTH.iter().any(|health| path.starts_with(health))
    }

    /// Counts a request as under way until the token is dropped.
    pub fn request(&self) -> TaskTrackerToken {
        self.under_way.token()
    }

    /// Goes through the end, once `shutdown` is cancelled: cancels `stop_watches` and, last, `close`, upon which the port is
    /// closed.
    pub async fn in_order(
        &self,
        config: ShutdownConfig,
        shutdown: CancellationToken,
        stop_watches: CancellationToken,
        close: CancellationToken,
    ) {
        shutdown.cancelled().await;
        self.begun.store(true, Ordering::Relaxed);
        tokio::time::sleep(config.delay).await;
        self.refusing.store(config.refuse_with_retry, Ordering::Relaxed);
        stop_watches.cancel();
        if config.refuse_with_retry {
            self.under_way.close();
            if tokio::time::timeout(DRAIN, self.under_way.wait()).await.is_err() {
                tracing::warn!(requests = self.under_way.len(), "Not waiting any longer for requests under way");
            }
        }
        close.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_order_of_the_end() {
        let closing = Arc::new(Closing::default());
        let [shutdown, stop_watches, close] = [(); 3].map(|()| CancellationToken::new());
        let config = ShutdownConfig { delay: Duration::from_millis(1), refuse_with_retry: true };
        let (own, tokens) = (Arc::clone(&closing), (shutdown.clone(), stop_watches.clone(), close.clone()));
        let end = tokio::spawn(async move { own.in_order(config, tokens.0, tokens.1, tokens.2).await });
        let request = closing.request();
        assert!(!closing.has_begun() && !closing.refuses("/api"));
        shutdown.cancel();
        stop_watches.cancelled().await;
        assert!(closing.has_begun());
        assert!(closing.refuses("/api/v1/pods") && !closing.refuses("/readyz/etcd"));
        assert!(!close.is_cancelled(), "a request is under way");
        drop(request);
        end.await.unwrap();
        assert!(close.is_cancelled());
    }

    #[tokio::test]
    async fn without_refusing_the_port_closes_at_once() {
        let closing = Closing::default();
        let [shutdown, stop_watches, close] = [(); 3].map(|()| CancellationToken::new());
        let _request = closing.request();
        shutdown.cancel();
        let config = ShutdownConfig { delay: Duration::ZERO, refuse_with_retry: false };
        closing.in_order(config, shutdown, stop_watches, close.clone()).await;
        assert!(close.is_cancelled() && !closing.refuses("/api"));
    }
}
