//! Start-up order: secure port, leader election, identities, controllers. Returns when shutdown does, or when the lead is
//! lost (the daemon must then end: somebody else acts).

use std::sync::Arc;

use client::Client;
use client::delegated::{DelegatedAuth, DelegatedError, DelegatedFlags};
use client::leader::{LeaderElector, LeaderError};
use component_base::health::Checks;
use component_base::secure_port::SecurePort;
use component_base::secure_serving::{SecureServingError, SecureServingFlags};
use component_base::serving::Server;
use component_base::tls::ServerTls;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, NAME};
use crate::framework::Setup;
use crate::framework::credentials::Credentials;

const DEFAULT_PORT: u16 = 10257;

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The lead was lost or could not be taken.
    #[error(transparent)]
    Leader(#[from] LeaderError),
    /// The connection to the API server cannot be made of the configuration.
    #[error(transparent)]
    Client(#[from] client::ClientConfigError),
}

/// Why there is no secure port.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// Address or certificate.
    #[error(transparent)]
    Secure(#[from] SecureServingError),
    /// Who may ask.
    #[error(transparent)]
    Delegated(#[from] DelegatedError),
}

/// The bound secure port, or none (`--secure-port=0`).
#[derive(Debug)]
pub struct Serving {
    bound: Option<(Server, ServerTls)>,
    port: SecurePort,
}

impl Serving {
    /// Binds the port, so that a taken port fails the start.
    pub async fn bind(serving: &SecureServingFlags, delegated: &DelegatedFlags) -> Result<Self, ServingError> {
        let options = delegated.to_options(NAME)?.look_up().await?;
        let bound = serving.bind(NAME, DEFAULT_PORT, options.client_ca.clone())?;
        let port = SecurePort::new(Checks::new())
            .auth(Arc::new(DelegatedAuth::new(options)))
            .always_allow(&delegated.authorization_always_allow_paths)
            .configz(|| json!({"kubecontrollermanager.config.k8s.io": {"Generic": {}}}));
        Ok(Self { bound, port })
    }

    /// No port at all.
    pub fn none() -> Self {
        Self { bound: None, port: SecurePort::new(Checks::new()) }
    }
}

/// Runs until shutdown.
pub async fn run(config: Config, serving: Serving, shutdown: CancellationToken) -> Result<(), RunError> {
    let Serving { bound, port } = serving;
    if let Some((server, tls)) = bound {
        tokio::spawn(port.serve(server, Some(tls), shutdown.clone()));
    }
    let election = Client::new(config.client.clone().limits(0.0, 0))?;
    let leader = LeaderElector::new(&election, config.leader.clone());
    let config = Arc::new(config);
    leader.run(&shutdown, |token| lead(Arc::clone(&config), token)).await?;
    Ok(())
}

/// What the leader does.
async fn lead(config: Arc<Config>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let credentials = Credentials::new(config.client.clone(), config.use_service_account_credentials)?;
    let mut setup = Setup::new(&config, &credentials, shutdown.clone());
    for entry in config.controllers.entries() {
        if let Some(register) = entry.register {
            tracing::debug!(controller = entry.name, "starting");
            register(&mut setup);
        }
    }
    credentials.start(&shutdown).await;
    let running = setup.run(shutdown.clone());
    tokio::pin!(running);
    tokio::select! {
        () = &mut running => {}
        () = shutdown.cancelled() => {
            if tokio::time::timeout(config.shutdown_timeout, running).await.is_err() {
                tracing::warn!("controllers did not finish in time");
            }
        }
    }
    Ok(())
}
