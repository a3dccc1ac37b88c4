//! Start-up order and wiring: informers, secure port, leader election, the loop.

use std::sync::Arc;

use client::Client;
use client::delegated::DelegatedAuth;
use client::events::Recorder;
use client::leader::LeaderElector;
use component_base::health::Checks;
use component_base::secure_port::SecurePort;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DEFAULT_SCHEDULER_NAME};
use crate::executor::extender::Extender;
use crate::executor::inbox::Inbox;
use crate::executor::sources::Sources;
use crate::executor::{Scheduler, explain};

const COMPONENT: &str = "kube-scheduler";
const DEFAULT_PORT: u16 = 10259;

/// Runs the scheduler until shutdown.
///
/// # Errors
/// When the port or the connection cannot be set up, or the lead is lost.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Config { client, leader, mut profiles, extenders, times, serving, auth, always_allow_paths } = config;
    let extenders =
        extenders.into_iter().map(Extender::new).collect::<Result<Vec<_>, _>>().map_err(anyhow::Error::msg)?;
    for profile in &mut profiles {
        profile.fit.ignored_resources.extend(extenders.iter().flat_map(Extender::ignored_resources).map(str::to_owned));
    }
    let auth = auth.look_up().await?;
    let bound = serving.bind(COMPONENT, DEFAULT_PORT, auth.client_ca.clone())?;
    // As upstream: events have a connection and a rate of their own, so that they do not hold bindings up.
    let event_client = Client::new(client.clone())?;
    let client = Client::new(client)?;
    let inbox = Arc::new(Inbox::default());
    let sources = Sources::start(&client, &inbox, &shutdown);
    let checks = Checks::new();
    let synced = sources.clone();
    checks.add("informer-sync", move || {
        if synced.has_synced() { Ok(()) } else { Err("pods and nodes have not been listed yet".into()) }
    });
    let (ask, questions) = mpsc::channel(explain::MAX_QUESTIONS);
    if let Some((server, tls)) = bound {
        let names: Vec<String> = profiles.iter().map(|p| p.scheduler_name.clone()).collect();
        let port = SecurePort::new(checks)
            .auth(Arc::new(DelegatedAuth::new(auth)))
            .always_allow(&always_allow_paths)
            .route("/debug/explain", explain::route(ask))
            .configz(move || serde_json::json!({"componentconfig": {"profiles": names}}));
        tokio::spawn(port.serve(server, Some(tls), shutdown.clone()));
    }
    let instance = leader.identity.split('_').next().unwrap_or_default().to_owned();
    let recorder = Recorder::start(&event_client, DEFAULT_SCHEDULER_NAME, &instance, shutdown.clone());
    let elector = LeaderElector::new(&client, leader);
    let lead = |token: CancellationToken| async move {
        tokio::select! {
            () = sources.synced() => {}
            () = token.cancelled() => return Ok(()),
        }
        tracing::info!("all objects are known, scheduling begins");
        let scheduler = Scheduler::new(client, recorder, sources, inbox, profiles.into(), times);
        scheduler.with_extenders(extenders).with_questions(questions).run(token).await;
        Ok(())
    };
    Ok(elector.run(&shutdown, lead).await?)
}
