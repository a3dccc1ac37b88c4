//! Shared by the plugins' tables, and the tables of the chain itself.

use super::*;

/// A request as an ordinary user makes it.
pub(crate) fn request<'a>(
    ctx: &'a RequestContext,
    operation: Operation,
    group: &'a str,
    resource: &'a str,
    namespace: &'a str,
) -> Request<'a> {
    Request { ctx, operation, group, resource, subresource: "", namespace, name: "", old: None }
}

fn config(enable: &[&str], disable: &[&str]) -> AdmissionConfig {
    let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
    AdmissionConfig { enable: own(enable), disable: own(disable), ..AdmissionConfig::default() }
}

#[test]
fn flags() {
    let default = enabled(&config(&[], &[])).unwrap();
    assert!(default.contains(&"NamespaceLifecycle") && !default.contains(&"NodeRestriction"));
    assert_eq!(default.last(), Some(&"ResourceQuota"));
    let changed = enabled(&config(&["NodeRestriction", "ValidatingAdmissionWebhook"], &["PodSecurity"])).unwrap();
    assert!(changed.contains(&"NodeRestriction") && !changed.contains(&"PodSecurity"));
    assert!(
        matches!(enabled(&config(&["noderestriction"], &[])), Err(ConfigError::Unknown { hint, .. }) if hint.contains("NodeRestriction"))
    );
    assert!(matches!(enabled(&config(&["EventRateLimit"], &[])), Err(ConfigError::NotImplemented(_))));
    assert!(matches!(enabled(&config(&["Priority"], &["Priority"])), Err(ConfigError::Both(_))));
    assert!(matches!(enabled(&config(&[], &["Initializers"])), Err(ConfigError::Unknown { .. })));
}
