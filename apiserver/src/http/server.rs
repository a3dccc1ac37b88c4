//! The secure port, and the order in which it closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use component_base::serving::{BindError, Limits, Server, service_fn};
use http::Request;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use super::chain::Chain;
use crate::config::Config;

/// The bound port; binding comes early in start-up, so that a port in use is said before anything is written.
pub struct SecurePort {
    server: Server,
}

impl SecurePort {
    /// Binds.
    ///
    /// # Errors
    /// The port is in use, or the address is not ours.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        let mut limits = Limits { max_connections: 16_384, ..Limits::default() };
        if let Some(most) = config.max_streams {
            limits.max_concurrent_streams = most;
        }
        Ok(Self { server: Server::bind(config.bind_address, config.secure_port)?.limits(limits) })
    }

    /// Where it listens; differs from the configuration when port 0 was asked for.
    pub fn local_addr(&self) -> std::net::SocketAddr {
        self.server.local_addr()
    }

    /// Serves until `shutdown`, then in this order: readiness fails, the delay passes (so that load balancers notice),
    /// `stop_watches` is cancelled, no connection is accepted any more, requests in flight end.
    pub async fn serve(
        self,
        config: &Config,
        chain: Arc<Chain>,
        stop_watches: CancellationToken,
        shutdown: CancellationToken,
    ) {
        let closing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&closing);
        chain.health.add_ready("shutdown", move || {
            if seen.load(Ordering::Relaxed) { Err("the server is shutting down".to_owned()) } else { Ok(()) }
        });
        let close = CancellationToken::new();
        tokio::spawn(close_in_order(closing, config.shutdown_delay, stop_watches, close.clone(), shutdown));
        let service = service_fn(move |request: Request<Incoming>| {
            let chain = Arc::clone(&chain);
            async move { Ok::<_, std::convert::Infallible>(chain.handle(request).await) }
        });
        self.server.serve(Some(config.tls.clone()), service, close).await;
    }
}

async fn close_in_order(
    closing: Arc<AtomicBool>,
    delay: Duration,
    stop_watches: CancellationToken,
    close: CancellationToken,
    shutdown: CancellationToken,
) {
    shutdown.cancelled().await;
    closing.store(true, Ordering::Relaxed);
    tokio::time::sleep(delay).await;
    stop_watches.cancel();
    close.cancel();
}
