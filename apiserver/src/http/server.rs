//! The secure port, and the order in which it closes.

use std::sync::Arc;

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

    /// Serves until `shutdown`, then ends as [`super::closing`] says; requests in flight when the port closes still end.
    pub async fn serve(
        self,
        config: &Config,
        chain: Arc<Chain>,
        stop_watches: CancellationToken,
        shutdown: CancellationToken,
    ) {
        let closing = Arc::clone(&chain.closing);
        let seen = Arc::clone(&closing);
        chain.health.add_ready("shutdown", move || {
            if seen.has_begun() { Err("the server is shutting down".to_owned()) } else { Ok(()) }
        });
        let (close, settings) = (CancellationToken::new(), config.shutdown);
        let close_too = close.clone();
        tokio::spawn(async move { closing.in_order(settings, shutdown, stop_watches, close_too).await });
        let service = service_fn(move |request: Request<Incoming>| {
            let chain = Arc::clone(&chain);
            async move { Ok::<_, std::convert::Infallible>(chain.handle(request).await) }
        });
        self.server.serve(Some(config.tls.clone()), service, close).await;
    }
}
