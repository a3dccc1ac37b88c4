//! What a fresh API server makes for itself, and what it keeps up while it runs.
//!
//! At start, once: roles and bindings, namespaces, priority classes, flow control, the service range, API services. While it
//! runs, every [`PERIOD`]: its own lease among the API servers, the `kubernetes` Service with the endpoints of all servers
//! that are alive, and its identity lease (the protocol between several servers is made of these times), what extension
//! servers must know; every hour, the identities of servers that are gone. At the end the own lease is given back. What is
//! done is told to [`Progress`], which health checks ask. Everything goes through [`Store`], in process, as the server's own user. A step that fails is logged
//! and tried again; nothing here delays readiness by waiting.

pub mod dangling;
pub mod desired;
pub mod policy;
pub mod progress;
mod store;

use std::net::IpAddr;
use std::time::Duration;

use apimachinery::status::Status;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use self::desired::Facts;
use self::policy::Step;
use self::progress::{Hook, Progress};
pub use self::store::RegistryStore;
use crate::http::chain::new_uuid;
use crate::objects::ResourceName;

/// Time between two rounds of upkeep.
pub const PERIOD: Duration = Duration::from_secs(10);
/// A server that has not renewed its lease for this long is no endpoint any more.
pub const MASTER_LEASE: Duration = Duration::from_secs(15);
/// Between two looks for identities of servers that are gone.
const IDENTITY_PERIOD: Duration = Duration::from_secs(3600);
/// Pause after a first round that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Default objects of a kind that are made at the same time.
const MAX_WRITES_AT_ONCE: usize = 16;

/// Writing objects as the server itself.
pub trait Store: Send + Sync {
    /// The object, from the cache.
    fn get(&self, resource: ResourceName<'static>, namespace: &str, name: &str) -> Option<Value>;
    /// All objects of a namespace, from the cache.
    fn list(&self, resource: ResourceName<'static>, namespace: &str) -> Vec<Value>;
    /// Makes a new object; the answer is the object as it is stored.
    fn create(&self, resource: ResourceName<'static>, object: Value) -> BoxFuture<'_, Result<Value, Status>>;
    /// Replaces an object (with its resourceVersion), or a subresource of it.
    fn update(
        &self,
        resource: ResourceName<'static>,
        subresource: &'static str,
        object: Value,
    ) -> BoxFuture<'_, Result<(), Status>>;
    /// Removes an object.
    fn delete<'a>(
        &'a self,
        resource: ResourceName<'static>,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<(), Status>>;
    /// Renews the key of a server among the API servers, for [`MASTER_LEASE`].
    fn renew_master<'a>(&'a self, address: IpAddr, value: Value) -> BoxFuture<'a, Result<(), Status>>;
    /// Gives that key back.
    fn remove_master(&self, address: IpAddr) -> BoxFuture<'_, Result<(), Status>>;
    /// The API servers whose keys are there.
    fn masters(&self) -> BoxFuture<'_, Result<Vec<IpAddr>, Status>>;
}

const RBAC: &str = "rbac.authorization.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const LEASES: ResourceName = ("coordination.k8s.io", "leases");

type Reconcile = fn(&Value, &Value) -> Step;

fn keep(_: &Value, _: &Value) -> Step {
    Step::Keep
}

/// Defaults in the order in which they are made, with how existing ones are brought up to date, and what waits for them.
fn defaults() -> [(Hook, ResourceName<'static>, &'static [Value], Reconcile); 8] {
    let (roles, levels) = (Hook::Roles, Hook::PriorityLevels);
    [
        (roles, (RBAC, "clusterroles"), policy::cluster_roles(), policy::reconcile_role),
        (roles, (RBAC, "clusterrolebindings"), policy::cluster_role_bindings(), policy::reconcile_binding),
        (roles, (RBAC, "roles"), policy::roles(), policy::reconcile_role),
        (roles, (RBAC, "rolebindings"), policy::role_bindings(), policy::reconcile_binding),
        (Hook::PriorityClasses, ("scheduling.k8s.io", "priorityclasses"), policy::priority_classes(), keep),
        (levels, (FLOW, "prioritylevelconfigurations"), policy::priority_levels(), policy::reconcile_flow_control),
        (levels, (FLOW, "flowschemas"), policy::flow_schemas(), policy::reconcile_flow_control),
        (Hook::ApiServices, ("apiregistration.k8s.io", "apiservices"), policy::api_services(), keep),
    ]
}

/// Somebody else made it first: as good.
async fn create(store: &dyn Store, resource: ResourceName<'static>, object: Value) -> Result<Option<Value>, Status> {
    match store.create(resource, object).await {
        Ok(made) => Ok(Some(made)),
        Err(status) if status.reason == "AlreadyExists" => Ok(None),
        Err(status) => Err(status),
    }
}

async fn ensure(
    store: &dyn Store,
    resource: ResourceName<'static>,
    default: &Value,
    reconcile: Reconcile,
) -> Result<(), Status> {
    use apimachinery::meta;
    let (namespace, name) = (meta::namespace(default), meta::name(default));
    let Some(existing) = store.get(resource, namespace, name) else {
        let made = create(store, resource, without_status(default)).await?;
        return set_status(store, resource, default, made).await;
    };
    match reconcile(&existing, default) {
        Step::Keep => set_status(store, resource, default, Some(existing)).await,
        Step::Update(updated) => store.update(resource, "", *updated).await,
        Step::Recreate => {
            store.delete(resource, namespace, name).await?;
            store.create(resource, without_status(default)).await.map(|_| ())
        }
    }
}

fn without_status(default: &Value) -> Value {
    let mut object = default.clone();
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    object
}

/// Kinds ignore `status` on create; the conditions that stand there by default are written after, where there are none.
async fn set_status(
    store: &dyn Store,
    resource: ResourceName<'static>,
    default: &Value,
    object: Option<Value>,
) -> Result<(), Status> {
    let conditions = |object: &Value| object["status"]["conditions"].as_array().is_some_and(|list| !list.is_empty());
    let Some(mut object) = object.filter(|object| conditions(default) && !conditions(object)) else { return Ok(()) };
    let mut status = default["status"].clone();
    let now = apimachinery::time::format_time(Timestamp::now());
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        crate::admission::set(condition, "lastTransitionTime", now.clone());
        if condition["message"] == "<message>" {
            crate::admission::set(condition, "message", message(resource));
        }
    }
    crate::admission::set(&mut object, "status", status);
    store.update(resource, "status", object).await
}

fn message(resource: ResourceName<'static>) -> &'static str {
    match resource.1 {
        "apiservices" => "Local APIServices are always available",
        "flowschemas" => "This FlowSchema references the PriorityLevelConfiguration object that exists",
        _ => "",
    }
}

fn named<'a>(
    object: &'a Value,
    made: impl Future<Output = Result<(), Status>> + Send + 'a,
) -> BoxFuture<'a, (&'a str, Result<(), Status>)> {
    Box::pin(async move { (apimachinery::meta::name(object), made.await) })
}

/// Everything that is made once. Goes on after a failure, so that one bad object does not keep the others away; the first
/// failure is returned.
async fn make_defaults(store: &dyn Store, facts: &Facts, progress: &Progress) -> Result<(), Status> {
    let mut first_failure = Ok(());
    let mut failed: Vec<Hook> = Vec::new();
    let mut note = |hook: Hook, what: &str, result: Result<(), Status>| {
        if let Err(err) = result {
            tracing::warn!(object = what, %err, "Cannot make a default object yet");
            failed.push(hook);
            if first_failure.is_ok() {
                first_failure = Err(err);
            }
        }
    };
    for name in desired::NAMESPACES {
        note(Hook::Namespaces, name, ensure(store, ("", "namespaces"), &desired::namespace(name), keep).await);
    }
    for (hook, resource, objects, reconcile) in defaults() {
        let made: Vec<BoxFuture<'_, (&str, Result<(), Status>)>> =
            objects.iter().map(|object| named(object, ensure(store, resource, object, reconcile))).collect();
        let mut made = futures::stream::iter(made).buffer_unordered(MAX_WRITES_AT_ONCE);
        while let Some((name, result)) = made.next().await {
            note(hook, name, result);
        }
    }
    note(Hook::ServiceRange, "kubernetes", make_service_range(store, facts).await);
    let tracking = desired::legacy_token_tracking(Timestamp::now());
    let tracked = ensure(store, ("", "configmaps"), &tracking, keep).await;
    note(Hook::TokenTracking, "legacy token tracking", tracked);
    for hook in Hook::MADE_ONCE {
        if !failed.contains(&hook) {
            progress.reached(hook);
        }
    }
    first_failure
}

async fn make_service_range(store: &dyn Store, facts: &Facts) -> Result<(), Status> {
    let mut default = desired::service_range(facts);
    crate::admission::set(&mut default, "status", desired::service_range_status(Timestamp::now()));
    ensure(store, ("networking.k8s.io", "servicecidrs"), &default, keep).await
}

async fn adopt(
    store: &dyn Store,
    resource: ResourceName<'static>,
    wanted: &Value,
    fields: &[&str],
) -> Result<(), Status> {
    use apimachinery::meta;
    match store.get(resource, meta::namespace(wanted), meta::name(wanted)) {
        None => create(store, resource, wanted.clone()).await.map(|_| ()),
        Some(existing) => match desired::adopt(&existing, wanted, fields) {
            Some(updated) => store.update(resource, "", updated).await,
            None => Ok(()),
        },
    }
}

/// One round of what must be kept up.
async fn keep_up(store: &dyn Store, facts: &Facts, holder: &str, progress: &Progress) -> Result<(), Status> {
    if facts.is_endpoint {
        store.renew_master(facts.advertise_address, desired::master_lease(facts.advertise_address)).await?;
    }
    let services = ("", "services");
    match store.get(services, "default", "kubernetes") {
        None => create(store, services, desired::service(facts)).await.map(|_| ())?,
        Some(existing) => {
            if let Some(repaired) = desired::repair_service(&existing, facts) {
                store.update(services, "", repaired).await?;
            }
        }
    }
    if facts.is_endpoint {
        publish_endpoints(store, facts).await?;
    }
    progress.reached(Hook::Endpoints);
    let authentication = desired::extension_authentication(facts);
    adopt(store, ("", "configmaps"), &authentication, &["data"]).await?;
    progress.reached(Hook::AuthenticationInfo);
    let lease = desired::identity_lease(facts, holder, Timestamp::now());
    adopt(store, LEASES, &lease, &["spec"]).await?;
    progress.reached(Hook::Identity);
    Ok(())
}

/// Removes the identities of servers that are gone. What fails is tried again by the next round.
async fn collect_identities(store: &dyn Store, now: Timestamp, progress: &Progress) {
    let leases = store.list(LEASES, "kube-system");
    for lease in leases.iter().filter(|lease| desired::is_stale_identity(lease, now)) {
        let name = apimachinery::meta::name(lease);
        match store.delete(LEASES, "kube-system", name).await {
            Ok(()) => tracing::info!(lease = name, "Removed the identity of an API server that is gone"),
            Err(err) => tracing::warn!(lease = name, %err, "Cannot remove the identity of an API server that is gone"),
        }
    }
    progress.reached(Hook::IdentityCollector);
}

async fn publish_endpoints(store: &dyn Store, facts: &Facts) -> Result<(), Status> {
    let mut masters = store.masters().await?;
    masters.sort();
    masters.dedup();
    // As upstream, the last server does not erase the endpoints: it is most likely only restarting.
    if masters.is_empty() {
        return Ok(());
    }
    adopt(store, ("", "endpoints"), &desired::endpoints(&masters, facts), &["subsets"]).await?;
    let slice = desired::endpoint_slice(&masters, facts);
    adopt(store, ("discovery.k8s.io", "endpointslices"), &slice, &["endpoints", "ports"]).await
}

/// Makes and keeps up everything until shutdown.
pub async fn run(store: &dyn Store, facts: &Facts, progress: &Progress, shutdown: CancellationToken) {
    let holder = format!("{}_{}", desired::identity(facts), new_uuid());
    let mut made = false;
    let mut kept = false;
    let mut collected: Option<tokio::time::Instant> = None;
    loop {
        if !made {
            made = make_defaults(store, facts, progress).await.is_ok();
        }
        match keep_up(store, facts, &holder, progress).await {
            Ok(()) => kept = true,
            Err(err) => tracing::warn!(%err, "Cannot keep the kubernetes service and the own leases up"),
        }
        if collected.is_none_or(|at| at.elapsed() >= IDENTITY_PERIOD) {
            collect_identities(store, Timestamp::now(), progress).await;
            collected = Some(tokio::time::Instant::now());
        }
        let pause = if made && kept { PERIOD } else { RETRY };
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    if !facts.is_endpoint {
        return;
    }
    let leave = async {
        store.remove_master(facts.advertise_address).await?;
        publish_endpoints(store, facts).await
    };
    if let Ok(Err(err)) = tokio::time::timeout(Duration::from_secs(5), leave).await {
        tracing::warn!(%err, "Cannot take this server out of the kubernetes endpoints; its lease ends by itself");
    }
}

#[cfg(test)]
mod tests;
