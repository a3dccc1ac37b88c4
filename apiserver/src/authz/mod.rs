//! May this user do this? The authorizers in the order of `--authorization-mode`, first opinion wins, none means no.
//!
//! Guarantees: `system:masters` is allowed before any mode is asked; a request nobody allows is refused. Assumes an
//! authenticated user (anonymous is one). Knows nothing of HTTP beyond the attributes.

mod config_file;
pub mod escalation;
mod feed;
pub(crate) mod measure;
pub mod node;
mod pod_uses;
pub mod rbac;
pub mod rules;
pub mod webhook;

use std::path::PathBuf;
use std::sync::Arc;

use apimachinery::gvk::GroupResource;
use apimachinery::status::{Details, Status};
use component_base::metrics::Counter;
use futures::future::BoxFuture;

use self::node::NodeAuthorizer;
use self::rbac::{MASTERS, Rbac};
use self::rules::PolicyRule;
use crate::http::request::{RequestInfo, UserInfo};

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// `get`, `list`, `create` …, or the lower-case HTTP method for paths.
    pub verb: String,
    /// Namespace; empty for cluster-wide.
    pub namespace: String,
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Object name, or empty.
    pub name: String,
    /// URL path of a request that is not about a resource.
    pub path: String,
    /// About a resource (else about `path`).
    pub resource_request: bool,
    /// Field selector as asked, in `key=value,…` form; empty when none.
    pub field_selector: String,
    /// Label selector as asked; empty when none.
    pub label_selector: String,
}

impl Attributes {
    /// The attributes of an HTTP request.
    pub fn of(user: Arc<UserInfo>, info: &RequestInfo) -> Self {
        Self {
            user,
            verb: info.verb.clone(),
            namespace: info.namespace.clone(),
            group: info.api_group.clone(),
            version: info.api_version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            name: info.name.clone(),
            path: info.path.clone(),
            resource_request: info.is_resource_request,
            field_selector: info.field_selector.clone(),
            label_selector: info.label_selector.clone(),
        }
    }

    /// `pods` or `pods/log`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The 403 that tells what was refused and to whom.
    pub fn forbidden(&self, reason: &str) -> Status {
        let user = &self.user.name;
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        if !self.resource_request {
            let message = format!("forbidden: User {user:?} cannot {} path {:?}{why}", self.verb, self.path);
            let mut status = Status::failure(403, "Forbidden", message);
            status.details = Some(Box::new(Details::default()));
            return status;
        }
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        let sentence = format!(
            "User {user:?} cannot {} resource {:?} in API group {:?} {place}{why}",
            self.verb,
            self.full_resource(),
            self.group
        );
        Status::forbidden(&GroupResource::new(&*self.group, &*self.resource), &self.name, &sentence)
    }
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes; nobody else is asked.
    Allow {
        /// For audit and reviews.
        reason: String,
    },
    /// No; nobody else is asked.
    Deny {
        /// For the client.
        reason: String,
    },
    /// Ask the next; no when there is none.
    NoOpinion {
        /// For the client, when nobody allows.
        reason: String,
    },
}

impl Decision {
    /// Whether this is [`Decision::Allow`].
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

/// Something that has an opinion on requests.
pub trait Authorizer: Send + Sync {
    /// The opinion. Never panics; a failure to find out is `NoOpinion` with the reason.
    fn authorize<'a>(&'a self, request: &'a Attributes) -> BoxFuture<'a, Decision>;

    /// The rules that this authorizer would let the user use in a namespace, as far as it can list them.
    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Vec<PolicyRule> {
        Vec::new()
    }

    /// Why the user may do more than [`Self::rules_for`] can list; `None` when it lists all.
    fn rules_missing(&self, _user: &UserInfo) -> Option<&'static str> {
        None
    }
}

/// Why the authorizers could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A name that upstream does not know either.
    #[error("--authorization-mode: unknown mode {0:?} (known: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny)")]
    UnknownMode(String),
    /// A mode upstream has and this server does not.
    #[error("--authorization-mode={0} is not implemented; use Node,RBAC")]
    NotImplemented(String),
    /// The webhook's kubeconfig is missing or bad.
    #[error("--authorization-webhook-config-file: {0}")]
    Webhook(String),
    /// The configuration file is bad.
    #[error("--authorization-config: {path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Two places to say it.
    #[error("--authorization-config excludes --authorization-mode and --authorization-webhook-*; remove one of them")]
    Twice,
    /// A mode twice.
    #[error("--authorization-mode: {0} is given more than once")]
    Duplicate(String),
}

/// What `--authorization-mode` and its companions say.
#[derive(Clone, Debug, Default)]
pub struct AuthzConfig {
    /// Modes in order; empty means `AlwaysAllow`, as upstream.
    pub modes: Vec<String>,
    /// `--authorization-webhook-config-file` and companions
    pub webhook: Option<webhook::Config>,
    /// `--authorization-config`, instead of all others.
    pub config_file: Option<PathBuf>,
}

/// An authorizer as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// `Node`, `RBAC` …
    mode: String,
    /// Its name in metrics.
    name: String,
    /// Of a webhook.
    webhook: Option<webhook::Config>,
}

impl AuthzConfig {
    fn in_order(&self) -> Result<Vec<Wanted>, ConfigError> {
        let Some(path) = &self.config_file else {
            if self.webhook.is_some() && !self.modes.iter().any(|mode| mode == "Webhook") {
                return Err(ConfigError::Webhook("needs Webhook among --authorization-mode".to_owned()));
            }
            let wanted =
                |mode: &String| Wanted { mode: mode.clone(), name: mode.to_lowercase(), webhook: self.webhook.clone() };
            return Ok(self.modes.iter().map(wanted).collect());
        };
        if !self.modes.is_empty() || self.webhook.is_some() {
            return Err(ConfigError::Twice);
        }
        config_file::load(path).map_err(|why| ConfigError::File { path: path.display().to_string(), why })
    }
}

/// An authorizer, and how often it decided.
struct Mode {
    authorizer: Arc<dyn Authorizer>,
    allowed: Arc<Counter>,
    denied: Arc<Counter>,
}

impl Mode {
    fn new(kind: &str, name: &str, authorizer: Arc<dyn Authorizer>) -> Self {
        let decisions = measure::decisions();
        let (allowed, denied) = (decisions.with(&["allowed", name, kind]), decisions.with(&["denied", name, kind]));
        Self { authorizer, allowed, denied }
    }

    async fn authorize(&self, request: &Attributes) -> Decision {
        let decision = self.authorizer.authorize(request).await;
        match &decision {
            Decision::Allow { .. } => self.allowed.inc(),
            Decision::Deny { .. } => self.denied.inc(),
            Decision::NoOpinion { .. } => {}
        }
        decision
    }
}

/// All configured authorizers in order, and the two that live on cache events.
pub struct Union {
    modes: Vec<Mode>,
    /// The RBAC index, fed whether or not the mode is on (escalation checks need it).
    pub rbac: Arc<Rbac>,
    /// The node graph.
    pub node: Arc<NodeAuthorizer>,
    rbac_enabled: bool,
}

struct Always(bool);

impl Authorizer for Always {
    fn authorize<'a>(&'a self, _: &'a Attributes) -> BoxFuture<'a, Decision> {
        let reason = String::new();
        let decision = if self.0 {
            Decision::Allow { reason }
        } else {
            Decision::NoOpinion { reason: "Everything is forbidden.".to_owned() }
        };
        Box::pin(std::future::ready(decision))
    }

    fn rules_for(&self, _: &UserInfo, _: &str) -> Vec<PolicyRule> {
        if !self.0 {
            return Vec::new();
        }
        let all = || vec!["*".to_owned()];
        vec![
            PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() },
            PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() },
        ]
    }
}

/// Sets the authorizers up.
///
/// # Errors
/// An unknown, repeated or not implemented mode.
pub fn build(config: &AuthzConfig) -> Result<Union, ConfigError> {
    let rbac = Arc::new(Rbac::default());
    let node = Arc::new(NodeAuthorizer::new());
    let mut modes: Vec<Mode> = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for Wanted { mode, name, webhook: settings } in config.in_order()? {
        if seen.contains(&mode) && mode != "Webhook" {
            return Err(ConfigError::Duplicate(mode));
        }
        let authorizer = match mode.as_str() {
            "Node" => Arc::clone(&node) as Arc<dyn Authorizer>,
            "RBAC" => Arc::clone(&rbac) as Arc<dyn Authorizer>,
            "AlwaysAllow" => Arc::new(Always(true)),
            "AlwaysDeny" => Arc::new(Always(false)),
            "Webhook" => {
                let settings = settings.ok_or_else(|| ConfigError::Webhook("mode Webhook needs it".to_owned()))?;
                let webhook = webhook::Webhook::new(settings);
                Arc::new(webhook.map_err(|error| ConfigError::Webhook(error.to_string()))?)
            }
            "ABAC" => return Err(ConfigError::NotImplemented(mode)),
            _ => return Err(ConfigError::UnknownMode(mode)),
        };
        modes.push(Mode::new(&mode, &name, authorizer));
        seen.push(mode);
    }
    if modes.is_empty() {
        modes.push(Mode::new("AlwaysAllow", "alwaysallow", Arc::new(Always(true))));
    }
    let rbac_enabled = seen.iter().any(|mode| mode == "RBAC");
    Ok(Union { modes, rbac, node, rbac_enabled })
}

impl Union {
    /// Whether RBAC is one of the modes; only then are escalation checks made.
    pub fn rbac_enabled(&self) -> bool {
        self.rbac_enabled
    }

    /// Why [`Authorizer::rules_for`] does not list all; empty when it does.
    pub fn rules_missing(&self, user: &UserInfo) -> Vec<&'static str> {
        self.modes.iter().filter_map(|mode| mode.authorizer.rules_missing(user)).collect()
    }

    /// Authorizes, and turns anything but yes into the 403.
    ///
    /// # Errors
    /// The 403 for the client.
    pub async fn require(&self, request: &Attributes) -> Result<(), Status> {
        match self.authorize(request).await {
            Decision::Allow { .. } => Ok(()),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => Err(request.forbidden(&reason)),
        }
    }
}

impl Authorizer for Union {
    fn authorize<'a>(&'a self, request: &'a Attributes) -> BoxFuture<'a, Decision> {
        Box::pin(async move {
            if request.user.groups.iter().any(|group| group == MASTERS) {
                return Decision::Allow { reason: String::new() };
            }
            let mut reasons: Vec<String> = Vec::new();
            for mode in &self.modes {
                match mode.authorize(request).await {
                    Decision::NoOpinion { reason } if reason.is_empty() => {}
                    Decision::NoOpinion { reason } => reasons.push(reason),
                    opinion => return opinion,
                }
            }
            Decision::NoOpinion { reason: reasons.join(", ") }
        })
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        self.modes.iter().flat_map(|mode| mode.authorizer.rules_for(user, namespace)).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The attributes of a resource request, for tables.
    pub(crate) fn resource(
        user: &str,
        verb: &str,
        namespace: &str,
        group: &str,
        resource: &str,
        subresource: &str,
        name: &str,
    ) -> Attributes {
        Attributes {
            user: Arc::new(UserInfo { name: user.into(), ..UserInfo::default() }),
            verb: verb.into(),
            namespace: namespace.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            resource_request: true,
            ..Attributes::default()
        }
    }

    fn config(modes: &[&str]) -> AuthzConfig {
        AuthzConfig { modes: modes.iter().map(|m| (*m).to_owned()).collect(), ..AuthzConfig::default() }
    }

    #[test]
    fn modes() {
        assert!(build(&config(&["Node", "RBAC"])).is_ok());
        assert!(matches!(build(&config(&["ABAC"])), Err(ConfigError::NotImplemented(_))));
        assert!(matches!(build(&config(&["Webhook"])), Err(ConfigError::Webhook(_))));
        let twice = AuthzConfig { config_file: Some("/x".into()), ..config(&["RBAC"]) };
        assert!(matches!(build(&twice), Err(ConfigError::Twice)));
        assert!(matches!(build(&config(&["rbac"])), Err(ConfigError::UnknownMode(_))));
        assert!(matches!(build(&config(&["RBAC", "RBAC"])), Err(ConfigError::Duplicate(_))));
    }

    #[tokio::test]
    async fn masters_before_all() {
        let union = build(&config(&["AlwaysDeny"])).unwrap();
        let mut request = resource("alice", "get", "", "", "nodes", "", "");
        assert!(union.require(&request).await.is_err());
        request.user = Arc::new(UserInfo { name: "a".into(), groups: vec![MASTERS.into()], ..UserInfo::default() });
        assert!(union.require(&request).await.is_ok());
    }
}
