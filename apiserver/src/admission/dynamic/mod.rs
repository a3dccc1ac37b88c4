//! Admission that the cluster configures itself: webhooks, and policies written in CEL.
//!
//! Guarantees: configurations are compiled once per revision, when first needed; matching is pure and comes before anything is
//! asked or evaluated; what the group `admissionregistration.k8s.io` says about itself is never subject to webhooks, nor
//! policies to policies, so that a bad one can always be taken out again.

mod conditions;
mod feed;
mod matching;
mod mutating;
mod params;
mod policy;
mod round;
mod validating;
mod view;
mod webhooks;

use std::sync::Arc;

use apimachinery::status::Status;
use serde_json::Value;

pub use self::feed::Feeds;
pub(crate) use self::matching::Matcher;
pub(super) use self::mutating::MutatingPolicies;
pub(crate) use self::policy::{compile_all, compile_conditions};
pub use self::round::Round;
pub(super) use self::validating::ValidatingPolicies;
pub(super) use self::webhooks::Webhooks;

use super::Request;
use crate::authz;
use crate::config::ServerOptions;
use crate::objects::Objects;
use crate::resources::SharedTable;
use crate::webhook;

/// API group of the configurations.
pub const GROUP: &str = "admissionregistration.k8s.io";

/// What all of them need.
pub struct Shared {
    /// The configurations.
    pub feeds: Arc<Feeds>,
    /// The cluster.
    pub objects: Arc<dyn Objects>,
    /// What is served.
    pub table: SharedTable,
    /// Who may do what.
    pub authz: Arc<authz::Union>,
    /// Calls webhooks.
    pub client: Arc<webhook::Client>,
    /// For defaults.
    pub options: ServerOptions,
}

impl Shared {
    /// The namespace of the request, if it is in one; null otherwise.
    async fn namespace(&self, request: &Request<'_>) -> Result<Value, Status> {
        if request.namespace.is_empty() || (request.group.is_empty() && request.resource == "namespaces") {
            return Ok(Value::Null);
        }
        let found = crate::objects::find(&*self.objects, ("", "namespaces"), "", request.namespace).await?;
        Ok(found.map_or(Value::Null, |namespace| (*namespace).clone()))
    }
}
