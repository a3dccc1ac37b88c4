//! What the cluster makes of a write before it is stored: defaults that need other objects, and rules about them.
//!
//! All mutating plugins run in upstream's order, then (after validation of the object) all validating ones. A plugin looks
//! the cluster up only through [`Objects`]; it neither stores anything (but for quota's usage) nor knows of HTTP. Writes that
//! the API server makes itself (bootstrap) go through the same chain.

mod admin_access;
pub mod certificates;
pub mod classes;
pub mod dynamic;
mod escalation;
pub mod limit_ranger;
mod measure;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod pod_resize;
pub mod pod_security;
pub mod priority;
pub mod quota;
mod quota_store;
pub mod runtime_class;
pub mod service_account;
pub mod storage;
pub mod tolerations;
pub mod topology;

use std::sync::Arc;

use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::authz;
use crate::http::request::RequestContext;
use crate::objects::Objects;

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or an action on a subresource (binding, eviction, token).
    Create,
    /// A change by PUT or PATCH.
    Update,
    /// A removal.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

/// One write, as plugins see it. The new object travels beside it, mutable or not.
pub struct Request<'a> {
    /// Who, when, dry run, warnings.
    pub ctx: &'a RequestContext,
    /// What is done.
    pub operation: Operation,
    /// API group of the resource.
    pub group: &'a str,
    /// Plural resource name.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// Name in the URL; empty for creates.
    pub name: &'a str,
    /// The stored object on update and delete.
    pub old: Option<&'a Value>,
}

impl Request<'_> {
    /// Whether the request is about the resource itself or one of its subresources.
    pub fn is(&self, group: &str, resource: &str, subresource: &str) -> bool {
        self.resource == resource && self.group == group && self.subresource == subresource
    }

    /// Whether a new object of this resource is made.
    pub fn creates(&self, group: &str, resource: &str) -> bool {
        self.operation == Operation::Create && self.is(group, resource, "")
    }

    /// The name that refusals give: of the URL, of the object, or what it is generated from.
    pub fn display_name<'v>(&'v self, object: Option<&'v Value>) -> &'v str {
        if !self.name.is_empty() {
            return self.name;
        }
        let Some(metadata) = object.map(|object| &object["metadata"]) else { return "Unknown" };
        let given = |field: &str| metadata[field].as_str().filter(|name| !name.is_empty());
        given("name").or_else(|| given("generateName")).unwrap_or("Unknown")
    }

    /// The resource, for refusals.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group, self.resource)
    }

    /// The 403 of a plugin.
    pub fn forbidden(&self, object: Option<&Value>, why: &str) -> Status {
        Status::forbidden(&self.group_resource(), self.display_name(object), why)
    }
}

/// One admission plugin. The defaults do nothing.
pub trait Plugin: Send + Sync {
    /// Upstream's name, as in the flags.
    fn name(&self) -> &'static str;

    /// Whether the plugin wants to see the request at all; asked before anything is allocated for it.
    fn handles(&self, request: &Request<'_>) -> bool;

    /// May change the object (`None` on delete).
    fn admit<'a>(
        &'a self,
        _request: &'a Request<'_>,
        _object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The same, for plugins to which it matters which run over the object this is.
    fn mutate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a mut Value>,
        _round: &'a dynamic::Round,
    ) -> BoxFuture<'a, Result<(), Status>> {
        self.admit(request, object)
    }

    /// May refuse the object as it will be stored (`None` on delete).
    fn validate<'a>(
        &'a self,
        _request: &'a Request<'_>,
        _object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Wraps the result of a plugin that needs not wait.
pub(crate) fn done<'a>(result: Result<(), Status>) -> BoxFuture<'a, Result<(), Status>> {
    Box::pin(std::future::ready(result))
}

/// Where the chain stands on a plugin of upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Here and on unless disabled.
    On,
    /// On, with nothing to do: the feature that it guards is off by default.
    Idle,
    /// Here, off unless enabled.
    Off,
    /// Off upstream, not here yet: enabling it is an error.
    MissingOff,
}

/// Every plugin of upstream's, in its order.
const PLUGINS: &[(&str, State)] = &[
    ("AlwaysAdmit", State::Off),
    ("NamespaceAutoProvision", State::MissingOff),
    ("NamespaceLifecycle", State::On),
    ("NamespaceExists", State::MissingOff),
    ("LimitPodHardAntiAffinityTopology", State::MissingOff),
    ("LimitRanger", State::On),
    ("ServiceAccount", State::On),
    ("NodeRestriction", State::Off),
    ("TaintNodesByCondition", State::On),
    ("AlwaysPullImages", State::Off),
    ("ImagePolicyWebhook", State::MissingOff),
    ("PodSecurity", State::On),
    ("PodNodeSelector", State::MissingOff),
    ("Priority", State::On),
    ("DefaultTolerationSeconds", State::On),
    ("PodTolerationRestriction", State::MissingOff),
    ("EventRateLimit", State::MissingOff),
    ("ExtendedResourceToleration", State::MissingOff),
    ("DefaultStorageClass", State::On),
    ("StorageObjectInUseProtection", State::On),
    ("PodGroupProtection", State::Idle),
    ("OwnerReferencesPermissionEnforcement", State::MissingOff),
    ("PersistentVolumeClaimResize", State::On),
    ("RuntimeClass", State::On),
    ("CertificateApproval", State::On),
    ("CertificateSigning", State::On),
    ("ClusterTrustBundleAttest", State::Idle),
    ("CertificateSubjectRestriction", State::On),
    ("DefaultIngressClass", State::On),
    ("DenyServiceExternalIPs", State::Off),
    ("PodTopologyLabels", State::On),
    ("PodGroupWorkloadExists", State::Idle),
    ("NodeDeclaredFeatureValidator", State::On),
    ("JobValidation", State::Idle),
    ("PodResizeValidator", State::On),
    ("MutatingAdmissionPolicy", State::On),
    ("MutatingAdmissionWebhook", State::On),
    ("ValidatingAdmissionPolicy", State::On),
    ("ValidatingAdmissionWebhook", State::On),
    ("ResourceQuota", State::On),
    ("AlwaysDeny", State::Off),
];

/// What the admission flags say.
#[derive(Clone, Debug, Default)]
pub struct AdmissionConfig {
    /// `--enable-admission-plugins`
    pub enable: Vec<String>,
    /// `--disable-admission-plugins`
    pub disable: Vec<String>,
    /// `--default-not-ready-toleration-seconds`
    pub not_ready_toleration_seconds: i64,
    /// `--default-unreachable-toleration-seconds`
    pub unreachable_toleration_seconds: i64,
}

/// Why the chain could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A name upstream does not know either.
    #[error("--{flag}-admission-plugins: unknown plugin {name:?}{hint}")]
    Unknown {
        /// `enable` or `disable`.
        flag: &'static str,
        /// The name.
        name: String,
        /// `; did you mean …?`, or empty.
        hint: String,
    },
    /// In both lists.
    #[error("--enable-admission-plugins and --disable-admission-plugins both name {0}")]
    Both(String),
    /// Asked for, but not there.
    #[error("--enable-admission-plugins: {0} is not implemented; remove it")]
    NotImplemented(String),
}

fn known(flag: &'static str, name: &str) -> Result<State, ConfigError> {
    if let Some((_, state)) = PLUGINS.iter().find(|(plugin, _)| *plugin == name) {
        return Ok(*state);
    }
    let near = PLUGINS.iter().find(|(plugin, _)| plugin.eq_ignore_ascii_case(name));
    let hint = near.map_or_else(String::new, |(plugin, _)| format!("; did you mean {plugin:?}?"));
    Err(ConfigError::Unknown { flag, name: name.to_owned(), hint })
}

/// Names of the plugins that run, in order.
fn enabled(config: &AdmissionConfig) -> Result<Vec<&'static str>, ConfigError> {
    for name in &config.disable {
        known("disable", name)?;
        if config.enable.contains(name) {
            return Err(ConfigError::Both(name.clone()));
        }
    }
    for name in &config.enable {
        if known("enable", name)? == State::MissingOff {
            return Err(ConfigError::NotImplemented(name.clone()));
        }
    }
    let named = |list: &[String], name: &str| list.iter().any(|n| n == name);
    Ok(PLUGINS
        .iter()
        .filter(|(name, state)| match state {
            State::On => !named(&config.disable, name),
            State::Off => named(&config.enable, name),
            State::Idle | State::MissingOff => false,
        })
        .map(|(name, _)| *name)
        .collect())
}

/// What plugins are made of.
pub struct Parts {
    /// The cluster.
    pub objects: Arc<dyn Objects>,
    /// Who may do what, for plugins that ask on the user's behalf.
    pub authz: Arc<authz::Union>,
    /// Writes quota usage.
    pub quota: Arc<dyn quota::UsageStore>,
    /// For what the cluster configures itself.
    pub dynamic: Arc<dynamic::Shared>,
}

/// The plugins in order.
pub struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
}

/// Sets the chain up.
///
/// # Errors
/// An unknown, contradictory or not implemented plugin.
pub fn build(config: &AdmissionConfig, parts: &Parts) -> Result<Chain, ConfigError> {
    let mut plugins: Vec<Box<dyn Plugin>> =
        enabled(config)?.into_iter().filter_map(|name| plugin(name, config, parts)).collect();
    // Not plugins of upstream's but guards that cannot be disabled; they see what mutating plugins made of the object.
    plugins.push(Box::new(admin_access::AdminAccess(Arc::clone(&parts.objects))));
    plugins.push(Box::new(escalation::Escalation(Arc::clone(&parts.authz))));
    Ok(Chain { plugins })
}

fn plugin(name: &'static str, config: &AdmissionConfig, parts: &Parts) -> Option<Box<dyn Plugin>> {
    let objects = || Arc::clone(&parts.objects);
    let authz = || Arc::clone(&parts.authz);
    Some(match name {
        "NamespaceLifecycle" => Box::new(namespace_lifecycle::NamespaceLifecycle(objects())),
        "LimitRanger" => Box::new(limit_ranger::LimitRanger(objects())),
        "ServiceAccount" => Box::new(service_account::ServiceAccount(objects())),
        "NodeRestriction" => Box::new(node_restriction::NodeRestriction { objects: objects(), authz: authz() }),
        "TaintNodesByCondition" => Box::new(tolerations::TaintNodesByCondition),
        "AlwaysPullImages" => Box::new(classes::AlwaysPullImages),
        "PodSecurity" => Box::new(pod_security::PodSecurity(objects())),
        "Priority" => Box::new(priority::Priority(objects())),
        "DefaultTolerationSeconds" => Box::new(tolerations::DefaultTolerationSeconds {
            not_ready_seconds: config.not_ready_toleration_seconds,
            unreachable_seconds: config.unreachable_toleration_seconds,
        }),
        "DefaultStorageClass" => Box::new(classes::DefaultStorageClass(objects())),
        "StorageObjectInUseProtection" => Box::new(storage::InUseProtection),
        "PersistentVolumeClaimResize" => Box::new(storage::ClaimResize(objects())),
        "RuntimeClass" => Box::new(runtime_class::RuntimeClass(objects())),
        "CertificateApproval" => Box::new(certificates::Approval(authz())),
        "CertificateSigning" => Box::new(certificates::Signing(authz())),
        "CertificateSubjectRestriction" => Box::new(certificates::SubjectRestriction),
        "DefaultIngressClass" => Box::new(classes::DefaultIngressClass(objects())),
        "DenyServiceExternalIPs" => Box::new(classes::DenyServiceExternalIps),
        "NodeDeclaredFeatureValidator" => Box::new(pod_resize::NodeDeclaredFeatureValidator(objects())),
        "PodResizeValidator" => Box::new(pod_resize::PodResizeValidator(objects())),
        "PodTopologyLabels" => Box::new(topology::PodTopologyLabels(objects())),
        "MutatingAdmissionPolicy" => Box::new(dynamic::MutatingPolicies(Arc::clone(&parts.dynamic))),
        "MutatingAdmissionWebhook" => webhooks(parts, true),
        "ValidatingAdmissionPolicy" => Box::new(dynamic::ValidatingPolicies(Arc::clone(&parts.dynamic))),
        "ValidatingAdmissionWebhook" => webhooks(parts, false),
        "ResourceQuota" => Box::new(quota::ResourceQuota::new(objects(), Arc::clone(&parts.quota))),
        "AlwaysDeny" => Box::new(classes::AlwaysDeny),
        _ => return None,
    })
}

fn webhooks(parts: &Parts, mutating: bool) -> Box<dynamic::Webhooks> {
    Box::new(dynamic::Webhooks { shared: Arc::clone(&parts.dynamic), mutating })
}

impl Chain {
    /// Runs the mutating plugins on the object (`None` on delete), twice when what the cluster configures itself changed it.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn admit(&self, request: &Request<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        measure::step("admit", request.operation, self.mutate(request, object)).await
    }

    async fn mutate(&self, request: &Request<'_>, mut object: Option<&mut Value>) -> Result<(), Status> {
        let mut next = Some(dynamic::Round::default());
        while let Some(round) = next {
            for plugin in self.plugins.iter().filter(|plugin| plugin.handles(request)) {
                plugin.mutate(request, object.as_deref_mut(), &round).await?;
            }
            next = round.second();
        }
        Ok(())
    }

    /// Runs the validating plugins on the object as it will be stored (`None` on delete).
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        measure::step("validate", request.operation, self.judge(request, object)).await
    }

    async fn judge(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        for plugin in self.plugins.iter().filter(|plugin| plugin.handles(request)) {
            plugin.validate(request, object).await?;
        }
        Ok(())
    }
}

/// The containers of a pod spec, of the lists named.
pub(crate) fn containers<'a>(spec: &'a Value, lists: &'static [&'static str]) -> impl Iterator<Item = &'a Value> {
    lists.iter().flat_map(move |list| spec[*list].as_array().into_iter().flatten())
}

/// All containers of a pod spec.
pub(crate) const ALL_CONTAINERS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

/// The object's map field, made when absent. `None` when something else stands there.
pub(crate) fn map_mut<'a>(parent: &'a mut Value, field: &str) -> Option<&'a mut serde_json::Map<String, Value>> {
    let slot = parent.as_object_mut()?.entry(field).or_insert_with(|| Value::Object(serde_json::Map::new()));
    if slot.is_null() {
        *slot = Value::Object(serde_json::Map::new());
    }
    slot.as_object_mut()
}

/// The object's list field, made when absent. `None` when something else stands there.
pub(crate) fn list_mut<'a>(parent: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    let slot = parent.as_object_mut()?.entry(field).or_insert_with(|| Value::Array(Vec::new()));
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut()
}

/// Sets a field of an object; anything but an object is left alone (validation refuses it).
pub(crate) fn set(parent: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(map) = parent.as_object_mut() {
        map.insert(field.to_owned(), value.into());
    }
}

#[cfg(test)]
pub(crate) mod tests;
