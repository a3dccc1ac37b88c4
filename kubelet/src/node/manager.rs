//! Registers the node and keeps its status current.
//!
//! The status is computed every `nodeStatusUpdateFrequency` and whenever the runtime's health or a pressure changes;
//! it is written when it differs, or when nothing was written for `nodeStatusReportFrequency`. While the node is not
//! ready it is looked at more often, so that it becomes ready as soon as it is. A new cause of not being ready is one
//! log line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::informer::{Cached, Informer};
use client::{Client, ClientError, Patch, resources};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::conditions::{self, Health};
use super::status::{self, Facts};
use super::{lease, machine};
use crate::config::Config;
use crate::context::Context;
use crate::cri::api;
use crate::events::Kind;
use crate::pods::admission::NodeView;
use crate::volumes::csi;

/// How often a node that is not ready is looked at.
const NOT_READY_PERIOD: Duration = Duration::from_secs(1);
/// Delay between tries to register.
const REGISTER_PERIOD: Duration = Duration::from_secs(2);

/// Signals that evict pods, as the node shows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

/// What the node manager needs.
pub struct Parts {
    pub config: Arc<Config>,
    pub context: Arc<Context>,
    /// None in standalone mode: then causes only reach the log.
    pub client: Option<Client>,
    pub facts: Facts,
    pub runtime_health: watch::Receiver<Option<String>>,
    pub pressure: watch::Receiver<Pressure>,
}

/// Runs until shutdown.
pub async fn run(mut parts: Parts, shutdown: CancellationToken) {
    let mut report = Report {
        known: core::NodeStatus::default(),
        registered: !parts.config.file.register_node,
        leasing: false,
        last: None,
    };
    let mut last_causes: Option<Vec<String>> = None;
    loop {
        let health = look(&mut parts).await;
        if last_causes.as_ref() != Some(&health.causes) {
            explain(&parts, &health.causes);
            last_causes = Some(health.causes.clone());
        }
        let told = match parts.client.clone() {
            Some(client) => report.tell(&parts, &client, &health, &shutdown).await,
            None => true,
        };
        let period = if !told {
            REGISTER_PERIOD
        } else if health.causes.is_empty() {
            *parts.config.file.node_status_update_frequency
        } else {
            NOT_READY_PERIOD
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(period) => {}
            Ok(()) = parts.runtime_health.changed() => {}
            Ok(()) = parts.pressure.changed() => {}
        }
    }
}

/// What the API was told.
struct Report {
    known: core::NodeStatus,
    registered: bool,
    leasing: bool,
    last: Option<Instant>,
}

impl Report {
    /// Registers the node and writes its status, as far as that is due. False when it must be tried again soon.
    async fn tell(&mut self, parts: &Parts, client: &Client, health: &Health, shutdown: &CancellationToken) -> bool {
        let due = self.last.is_none_or(|at| at.elapsed() >= *parts.config.file.node_status_report_frequency);
        let mut next = status::generate(&parts.facts);
        next.volumes_in_use = Some(csi::in_use(&parts.config.root_dir));
        if !self.registered {
            next.conditions = Some(conditions::generate(health, &[], Timestamp::now()));
            let Some(existing) = register(parts, client, &next).await else { return false };
            self.registered = true;
            announce(parts, &existing);
            self.known = existing;
        }
        let previous = self.known.conditions.clone().unwrap_or_default();
        let current = conditions::generate(health, &previous, Timestamp::now());
        let reasons = conditions::events(&previous, &current);
        next.conditions = Some(current);
        if !self.leasing {
            self.leasing = true;
            let duration = parts.config.file.node_lease_duration_seconds;
            let name = parts.config.node_name.clone();
            // A node that starts many pods is alive all the same: this write waits for no others.
            tokio::spawn(lease::run(client.with_limits(0.0, 0), name, duration, shutdown.clone()));
        }
        if !due && !status::differs(&self.known, &next) {
            return true;
        }
        if due {
            check_clock(client).await;
        }
        match write(client, &parts.config.node_name, &next).await {
            Ok(()) => {
                let name = &parts.config.node_name;
                for reason in reasons {
                    let text = format!("Node {name} status is now: {reason}");
                    parts.context.events.node(Kind::Normal, reason, &text);
                }
                self.known = next;
                self.last = Some(Instant::now());
                true
            }
            Err(error) => {
                self.registered = !error.is_not_found();
                tracing::warn!(%error, "Failed to update the node's status");
                false
            }
        }
    }
}

/// Compares this machine's clock with the API server's; leases and certificates need them to agree.
async fn check_clock(client: &Client) {
    let Ok(request) = http::Request::get("/version").body(bytes::Bytes::new()) else { return };
    let Ok(answer) = client.raw(request).await else { return };
    let date = answer.headers().get(http::header::DATE).and_then(|d| d.to_str().ok());
    if let Some(words) = date.and_then(|date| conditions::clock_skew(date, Timestamp::now())) {
        tracing::warn!(remedy = "synchronise the clocks of nodes and masters (NTP)", "{words}");
    }
}

/// Asks the runtime how it is and refreshes the facts that come from it.
async fn look(parts: &mut Parts) -> Health {
    let runtime = &parts.context.runtime;
    let mut causes = Vec::new();
    if parts.facts.runtime_version.is_empty()
        && let Ok(version) = runtime.version(api::VersionRequest { version: "0.1.0".into() }).await
    {
        parts.facts.runtime_version = format!("{}://{}", version.runtime_name, version.runtime_version);
        // The first answer counts; a runtime does not change its name.
        let _ = parts.context.runtime_name.set(version.runtime_name);
    }
    match runtime.status(api::StatusRequest { verbose: false }).await {
        Ok(answer) => {
            causes.extend(conditions::runtime_causes(&answer.status.unwrap_or_default().conditions));
            parts.facts.runtime_handlers = handlers(answer.runtime_handlers);
            let supplemental_groups_policy = answer.features.map(|f| f.supplemental_groups_policy);
            parts.facts.features =
                supplemental_groups_policy.map(|on| core::NodeFeatures { supplemental_groups_policy: Some(on) });
        }
        Err(error) => causes.push(conditions::runtime_down(&parts.config.runtime_socket, &error.to_string())),
    }
    if let Ok(list) = runtime.list_images(api::ListImagesRequest { filter: None }).await {
        parts.facts.images = status::images(list.images, parts.config.file.node_status_max_images);
    }
    let pressure = *parts.pressure.borrow_and_update();
    parts.runtime_health.mark_unchanged();
    Health { causes, memory_pressure: pressure.memory, disk_pressure: pressure.disk, pid_pressure: pressure.pid }
}

fn handlers(list: Vec<api::RuntimeHandler>) -> Vec<core::NodeRuntimeHandler> {
    let handler = |h: api::RuntimeHandler| {
        let features = h.features.unwrap_or_default();
        core::NodeRuntimeHandler {
            name: Some(h.name),
            features: Some(core::NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
                user_namespaces: Some(features.user_namespaces),
            }),
        }
    };
    list.into_iter().map(handler).collect()
}

/// One line with cause and remedy.
fn explain(parts: &Parts, causes: &[String]) {
    if causes.is_empty() {
        tracing::info!(node = parts.config.node_name, "The node is ready");
        return;
    }
    for cause in causes {
        tracing::warn!(
            node = parts.config.node_name,
            socket = parts.config.runtime_socket,
            "The node is not ready: {cause}"
        );
    }
}

/// Creates the node, or brings the labels of an existing one up to date; its status before. None when it must be tried
/// again.
async fn register(parts: &Parts, client: &Client, status: &core::NodeStatus) -> Option<core::NodeStatus> {
    let object = status::node_object(&parts.config, status);
    let name = &parts.config.node_name;
    let result = match client.create::<Value>(&resources::NODES, None, &object).await {
        Err(error) if error.is_already_exists() => update_labels(client, name, &object).await,
        other => other.map(|_| core::NodeStatus::default()),
    };
    match result {
        Ok(existing) => {
            tracing::info!(node = name, "Successfully registered node");
            Some(existing)
        }
        Err(error) => {
            tracing::warn!(node = name, %error, "Unable to register node with API server; trying again");
            None
        }
    }
}

/// Tells of this start, and of the machine's own start since the node was last seen.
fn announce(parts: &Parts, existing: &core::NodeStatus) {
    let events = &parts.context.events;
    events.node(Kind::Normal, "Starting", "Starting kubelet.");
    let before = existing.node_info.as_ref().map(|i| i.boot_id.as_str()).unwrap_or_default();
    let now = &parts.facts.identity.boot_id;
    if !before.is_empty() && before != now {
        let text = format!("Node {} has been rebooted, boot id: {now}", parts.config.node_name);
        events.node(Kind::Warning, "Rebooted", &text);
    }
}

async fn update_labels(client: &Client, name: &str, object: &Value) -> Result<core::NodeStatus, ClientError> {
    let mut existing: Value = client.get(&resources::NODES, None, name).await?;
    // What cannot be read of it is written anew.
    let status = serde_json::from_value(existing["status"].take()).unwrap_or_default();
    let mut changes = json!({});
    for part in ["labels", "annotations"] {
        for (key, value) in object["metadata"][part].as_object().into_iter().flatten() {
            if existing["metadata"][part].get(key) != Some(value) {
                changes["metadata"][part][key] = value.clone();
            }
        }
    }
    if changes.get("metadata").is_some() {
        client.patch::<Value>(&resources::NODES, None, name, None, &Patch::Merge(changes)).await?;
    }
    Ok(status)
}

async fn write(client: &Client, name: &str, status: &core::NodeStatus) -> Result<(), ClientError> {
    let patch = Patch::Strategic(json!({"status": status}));
    client.patch::<Value>(&resources::NODES, None, name, Some("status"), &patch).await.map(|_| ())
}

/// The node's own object, for admission: its labels.
#[derive(Debug, serde::Deserialize)]
struct OwnNode {
    metadata: apimachinery::meta::ObjectMeta,
}

impl Cached for OwnNode {
    fn meta(&self) -> &apimachinery::meta::ObjectMeta {
        &self.metadata
    }
}

/// Keeps the view of this node that admission uses.
pub fn follow(client: &Client, view: watch::Sender<NodeView>, shutdown: CancellationToken) {
    let name = view.borrow().name.clone();
    Informer::<OwnNode>::builder(client, resources::NODES)
        .field_selector(&format!("metadata.name={name}"))
        .on_event(move |delta| {
            let labels = delta.object().metadata.labels.clone();
            view.send_if_modified(|v| {
                let changed = v.labels != labels;
                v.labels = labels.clone();
                changed
            });
        })
        .start(shutdown);
}

/// The amounts of this machine for a configuration.
pub fn amounts(config: &Config) -> (crate::pods::resources::Amounts, crate::pods::resources::Amounts) {
    let capacity = machine::capacity(&config.root_dir, config.file.max_pods.into(), config.file.pods_per_core.into());
    let allocatable = machine::allocatable(&capacity, &config.reserved);
    (capacity, allocatable)
}
