//! `--authorization-config`: an AuthorizationConfiguration file, read at start.
//!
//! Guarantees: what it asks for and this server cannot do (match conditions) is an error that names the field.

use std::path::{Path, PathBuf};
use std::time::Duration;

use component_base::duration::GoDuration;
use serde::Deserialize;
use serde_json::Value;

use super::{Wanted, webhook};

const KNOWN_VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    authorizers: Vec<FileAuthorizer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileAuthorizer {
    #[serde(rename = "type")]
    mode: String,
    name: String,
    #[serde(default)]
    webhook: Option<FileWebhook>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileWebhook {
    #[serde(rename = "authorizedTTL", default = "authorized_ttl")]
    authorized_ttl: GoDuration,
    #[serde(rename = "unauthorizedTTL", default = "unauthorized_ttl")]
    unauthorized_ttl: GoDuration,
    #[serde(default = "yes")]
    cache_authorized_requests: bool,
    #[serde(default = "yes")]
    cache_unauthorized_requests: bool,
    timeout: GoDuration,
    subject_access_review_version: String,
    #[serde(default, rename = "matchConditionSubjectAccessReviewVersion")]
    _match_condition_version: String,
    failure_policy: String,
    connection_info: FileConnection,
    #[serde(default)]
    match_conditions: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileConnection {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    kube_config_file: Option<PathBuf>,
}

fn authorized_ttl() -> GoDuration {
    GoDuration(Duration::from_secs(300))
}

fn unauthorized_ttl() -> GoDuration {
    GoDuration(Duration::from_secs(30))
}

fn yes() -> bool {
    true
}

/// Authorizers in order.
///
/// # Errors
/// What is wrong, beginning with the field.
pub(super) fn load(path: &Path) -> Result<Vec<Wanted>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read: {e}"))?;
    let file: File = serde_saphyr::from_str(&text).map_err(|e| e.to_string())?;
    if file.kind != "AuthorizationConfiguration" || !KNOWN_VERSIONS.contains(&file.api_version.as_str()) {
        let (version, kind) = (&file.api_version, &file.kind);
        return Err(format!(
            "is {version}, Kind={kind}; expected {}, Kind=AuthorizationConfiguration",
            KNOWN_VERSIONS[0]
        ));
    }
    if file.authorizers.is_empty() {
        return Err("authorizers: at least one is needed".to_owned());
    }
    let mut names: Vec<String> = Vec::new();
    let mut modes = Vec::new();
    for (index, authorizer) in file.authorizers.into_iter().enumerate() {
        let at = |why: String| format!("authorizers[{index}].{why}");
        if authorizer.name.is_empty() || names.contains(&authorizer.name) {
            return Err(at(format!("name: {:?} is empty or there more than once", authorizer.name)));
        }
        names.push(authorizer.name.clone());
        let webhook = authorizer.webhook.map(FileWebhook::config).transpose().map_err(at)?;
        if webhook.is_some() != (authorizer.mode == "Webhook") {
            return Err(at("webhook: must be given with type Webhook, and only there".to_owned()));
        }
        modes.push(Wanted { mode: authorizer.mode, name: authorizer.name, webhook });
    }
    Ok(modes)
}

impl FileWebhook {
    fn config(self) -> Result<webhook::Config, String> {
        if !self.match_conditions.is_empty() {
            return Err("webhook.matchConditions: expressions are not implemented; let the webhook decide".to_owned());
        }
        if self.timeout.0.is_zero() || self.timeout.0 > MAX_TIMEOUT {
            return Err("webhook.timeout: must be more than 0s and at most 30s".to_owned());
        }
        if !["v1", "v1beta1"].contains(&self.subject_access_review_version.as_str()) {
            return Err("webhook.subjectAccessReviewVersion: must be v1 or v1beta1".to_owned());
        }
        let deny_on_failure = match self.failure_policy.as_str() {
            "Deny" => true,
            "NoOpinion" => false,
            _ => return Err("webhook.failurePolicy: must be NoOpinion or Deny".to_owned()),
        };
        let connection = self.connection_info;
        let Some(file) = connection.kube_config_file.filter(|_| connection.kind == "KubeConfigFile") else {
            return Err("webhook.connectionInfo: must be of type KubeConfigFile with a kubeConfigFile".to_owned());
        };
        let kept = |kept: bool, ttl: GoDuration| if kept { ttl.0 } else { Duration::ZERO };
        Ok(webhook::Config {
            file,
            version: self.subject_access_review_version,
            authorized_ttl: kept(self.cache_authorized_requests, self.authorized_ttl),
            unauthorized_ttl: kept(self.cache_unauthorized_requests, self.unauthorized_ttl),
            timeout: self.timeout.0,
            deny_on_failure,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(authorizers: &str) -> Result<Vec<Wanted>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authz.yaml");
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n";
        std::fs::write(&path, format!("{head}{authorizers}")).unwrap();
        load(&path)
    }

    const WEBHOOK: &str = "- type: Webhook\n  name: w\n  webhook: {timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, \
        cacheUnauthorizedRequests: false, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /k}}\n";

    #[test]
    fn order_and_webhooks() {
        let modes = read(&format!("- {{type: Node, name: n}}\n{WEBHOOK}- {{type: RBAC, name: r}}\n")).unwrap();
        let names: Vec<&str> = modes.iter().map(|wanted| wanted.mode.as_str()).collect();
        assert_eq!(names, ["Node", "Webhook", "RBAC"]);
        assert_eq!(modes[1].name, "w");
        let webhook = modes[1].webhook.as_ref().unwrap();
        assert!(webhook.deny_on_failure);
        assert_eq!((webhook.authorized_ttl, webhook.unauthorized_ttl), (Duration::from_secs(300), Duration::ZERO));
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let cases = [
            (WEBHOOK.replace("3s", "31s"), "webhook.timeout"),
            (WEBHOOK.replace("v1,", "v2,"), "subjectAccessReviewVersion"),
            (WEBHOOK.replace("Deny", "Ignore"), "failurePolicy"),
            (WEBHOOK.replace("KubeConfigFile,", "InClusterConfig,"), "connectionInfo"),
            (WEBHOOK.replace("timeout: 3s", "timeout: 3s, matchConditions: [{expression: 'true'}]"), "matchConditions"),
            (format!("{WEBHOOK}{WEBHOOK}"), "more than once"),
            ("- {type: Webhook, name: w}\n".to_owned(), "webhook"),
        ];
        for (text, named) in cases {
            let error = read(&text).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
