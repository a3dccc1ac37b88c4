//! What of the start-up has been reached, under upstream's names of its post-start hooks, for health checks.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Something that is done once, or for the first time, after the port is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// The namespaces that must always be there.
    Namespaces,
    /// The default roles and bindings.
    Roles,
    /// The default priority classes.
    PriorityClasses,
    /// The default priority levels and flow schemas.
    PriorityLevels,
    /// The APIServices of what is served here.
    ApiServices,
    /// The default ServiceCIDR.
    ServiceRange,
    /// Since when the use of legacy tokens is recorded.
    TokenTracking,
    /// The `kubernetes` Service and this server among its endpoints.
    Endpoints,
    /// What extension servers must know.
    AuthenticationInfo,
    /// The own identity lease.
    Identity,
    /// The first look for leases of servers that are gone.
    IdentityCollector,
    /// The first comparison of services and their claims.
    ServiceRepair,
}

impl Hook {
    /// What the first successful round of making defaults reaches.
    pub const MADE_ONCE: [Self; 7] = [
        Self::Namespaces,
        Self::Roles,
        Self::PriorityClasses,
        Self::PriorityLevels,
        Self::ApiServices,
        Self::ServiceRange,
        Self::TokenTracking,
    ];

    /// Every hook with the names of the checks that wait for it.
    pub const CHECKS: [(Self, &'static [&'static str]); 12] = [
        (Self::Namespaces, &["poststarthook/start-system-namespaces-controller"]),
        (Self::AuthenticationInfo, &["poststarthook/start-cluster-authentication-info-controller"]),
        (Self::Identity, &["poststarthook/start-kube-apiserver-identity-lease-controller"]),
        (Self::IdentityCollector, &["poststarthook/start-kube-apiserver-identity-lease-garbage-collector"]),
        (Self::TokenTracking, &["poststarthook/start-legacy-token-tracking-controller"]),
        (Self::ServiceRepair, &["poststarthook/start-service-ip-repair-controllers"]),
        (Self::Roles, &["poststarthook/rbac/bootstrap-roles"]),
        (Self::PriorityClasses, &["poststarthook/scheduling/bootstrap-system-priority-classes"]),
        (Self::PriorityLevels, &["poststarthook/priority-and-fairness-config-producer"]),
        (Self::Endpoints, &["poststarthook/bootstrap-controller"]),
        (Self::ServiceRange, &["poststarthook/start-kubernetes-service-cidr-controller"]),
        (Self::ApiServices, &["poststarthook/kube-apiserver-autoregistration", "autoregister-completion"]),
    ];
}

/// What has been reached.
#[derive(Debug, Default)]
pub struct Progress(Mutex<BTreeSet<Hook>>);

impl Progress {
    /// It is done, now or before.
    pub fn reached(&self, hook: Hook) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(hook);
    }

    /// Whether it is done.
    ///
    /// # Errors
    /// It is not, in words.
    pub fn check(&self, hook: Hook) -> Result<(), String> {
        let reached = self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&hook);
        if reached { Ok(()) } else { Err("not finished".to_owned()) }
    }
}
