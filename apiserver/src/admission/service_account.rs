//! ServiceAccount: every pod runs as a service account and gets its token, unless it says otherwise.
//!
//! Mirror pods get none of it: a kubelet that invents a pod must not gain rights by it. The token volume is projected
//! (rotating token, the cluster's root certificate, the namespace) under a generated name, as upstream.

use std::sync::Arc;

use apimachinery::status::Status;
use futures::future::BoxFuture;
use rand::RngExt as _;
use serde_json::{Value, json};

use super::{ALL_CONTAINERS, Operation, Plugin, Request, containers, done, list_mut, set};
use crate::authz::node::MIRROR_ANNOTATION;
use crate::objects::{Objects, find};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// The odd number tells the token endpoint that the kubelet asks by default and may be given a longer-lived token.
const TOKEN_SECONDS: i64 = 3607;
const MOUNTABLE_ANNOTATION: &str = "kubernetes.io/enforce-mountable-secrets";

/// The plugin.
pub struct ServiceAccount(pub Arc<dyn Objects>);

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR_ANNOTATION].is_null()
}

fn account_name(pod: &Value) -> &str {
    pod["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty()).unwrap_or("default")
}

/// Why a mirror pod is refused, if it is.
fn mirror_refusal(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Some("a mirror pod may not reference service accounts");
    }
    if !secrets_of(spec).is_empty() {
        return Some("a mirror pod may not reference secrets");
    }
    let token_source = |volume: &Value| {
        volume["projected"]["sources"]
            .as_array()
            .is_some_and(|sources| sources.iter().any(|source| !source["serviceAccountToken"].is_null()))
    };
    let volumes = spec["volumes"].as_array();
    volumes
        .is_some_and(|volumes| volumes.iter().any(token_source))
        .then_some("a mirror pod may not use ServiceAccountToken volume projections")
}

/// Names of the secrets that a pod's volumes and environment name.
fn secrets_of(spec: &Value) -> Vec<&str> {
    let mut names = Vec::new();
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        names.extend(volume["secret"]["secretName"].as_str());
    }
    for container in containers(spec, ALL_CONTAINERS) {
        for variable in container["env"].as_array().into_iter().flatten() {
            names.extend(variable["valueFrom"]["secretKeyRef"]["name"].as_str());
        }
        for source in container["envFrom"].as_array().into_iter().flatten() {
            names.extend(source["secretRef"]["name"].as_str());
        }
    }
    names
}

fn wants_token(account: &Value, pod: &Value) -> bool {
    let said = pod["spec"]["automountServiceAccountToken"].as_bool();
    said.or_else(|| account["automountServiceAccountToken"].as_bool()).unwrap_or(true)
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// Five random characters as upstream's name generator makes them: no vowels, so no words.
pub(crate) fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// Mounts the token where a container has nothing at that path, and adds the volume when anybody mounts it.
fn add_token(pod: &mut Value, suffix: &str) {
    let existing = pod["spec"]["volumes"].as_array().into_iter().flatten().find_map(|volume| {
        let name = volume["name"].as_str().filter(|name| name.starts_with(VOLUME_PREFIX))?;
        (!volume["projected"].is_null()).then(|| name.to_owned())
    });
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(mounts) = list_mut(container, "volumeMounts") else { continue };
            if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "mountPath": MOUNT_PATH, "readOnly": true}));
            mounted = true;
        }
    }
    if mounted
        && existing.is_none()
        && let Some(volumes) = list_mut(&mut pod["spec"], "volumes")
    {
        volumes.push(token_volume(&name));
    }
}

/// What `kubernetes.io/enforce-mountable-secrets` of the account refuses.
fn mountable_refusal(account: &Value, spec: &Value) -> Option<String> {
    let enforced = account["metadata"]["annotations"][MOUNTABLE_ANNOTATION].as_str();
    if !matches!(enforced, Some("1" | "t" | "T" | "TRUE" | "true" | "True")) {
        return None;
    }
    let names = |list: &str| -> Vec<&str> {
        account[list].as_array().into_iter().flatten().filter_map(|entry| entry["name"].as_str()).collect()
    };
    let (mountable, pull) = (names("secrets"), names("imagePullSecrets"));
    let account_name = account["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(secret) = secrets_of(spec).into_iter().find(|secret| !mountable.contains(secret)) {
        return Some(format!(
            "secret {secret:?} is not allowed because service account {account_name} does not reference it"
        ));
    }
    let pulls = spec["imagePullSecrets"].as_array().into_iter().flatten().filter_map(|entry| entry["name"].as_str());
    let mut strange = pulls.filter(|secret| !pull.contains(secret));
    strange.next().map(|secret| {
        format!("imagePullSecrets {secret:?} is not allowed because service account {account_name} does not reference that imagePullSecret")
    })
}

impl ServiceAccount {
    async fn account(&self, request: &Request<'_>, pod: &Value) -> Result<Arc<Value>, Status> {
        let name = account_name(pod);
        let namespace = request.namespace;
        find(&*self.0, ("", "serviceaccounts"), namespace, name).await?.ok_or_else(|| {
            let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
            request.forbidden(Some(pod), &why)
        })
    }

    async fn admit_pod(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if is_mirror(pod) {
            return match mirror_refusal(pod) {
                Some(why) => Err(request.forbidden(Some(pod), why)),
                None => Ok(()),
            };
        }
        let name = account_name(pod).to_owned();
        // The old name of the field follows the new one.
        set(&mut pod["spec"], "serviceAccount", name.clone());
        set(&mut pod["spec"], "serviceAccountName", name);
        let account = self.account(request, pod).await?;
        if wants_token(&account, pod) {
            add_token(pod, &random_suffix());
        }
        let no_pull_secrets = pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty);
        if no_pull_secrets && account["imagePullSecrets"].as_array().is_some_and(|list| !list.is_empty()) {
            set(&mut pod["spec"], "imagePullSecrets", account["imagePullSecrets"].clone());
        }
        match mountable_refusal(&account, &pod["spec"]) {
            Some(why) => Err(request.forbidden(Some(pod), &why)),
            None => Ok(()),
        }
    }
}

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "pods")
            || (request.operation == Operation::Update && request.is("", "pods", "ephemeralcontainers"))
    }

    fn admit<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        match object.filter(|pod| request.operation == Operation::Create && pod["spec"].is_object()) {
            Some(pod) => Box::pin(self.admit_pod(request, pod)),
            None => done(Ok(())),
        }
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let Some(pod) = object else { return done(Ok(())) };
        if is_mirror(pod) {
            return done(match mirror_refusal(pod) {
                Some(why) => Err(request.forbidden(Some(pod), why)),
                None => Ok(()),
            });
        }
        Box::pin(async move {
            let account = self.account(request, pod).await?;
            match mountable_refusal(&account, &pod["spec"]) {
                Some(why) => Err(request.forbidden(Some(pod), &why)),
                None => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::tests::request;
    use crate::http::request::RequestContext;
    use crate::objects::fake::Fake;

    async fn admit(account: Value, mut pod: Value) -> Result<Value, u16> {
        let plugin = ServiceAccount(Arc::new(Fake::default().with(("", "serviceaccounts"), account)));
        let ctx = RequestContext::default();
        let request = request(&ctx, Operation::Create, "", "pods", "ns");
        plugin.admit(&request, Some(&mut pod)).await.map_err(|status| status.code)?;
        Ok(pod)
    }

    fn account(extra: &Value) -> Value {
        let mut account = json!({"metadata": {"namespace": "ns", "name": "default"}});
        account.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        account
    }

    #[tokio::test]
    async fn token_and_pull_secrets() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"mountPath": MOUNT_PATH, "name": "own"}]}]}});
        let got = admit(account(&json!({"imagePullSecrets": [{"name": "reg"}]})), pod).await.unwrap();
        assert_eq!(got["spec"]["serviceAccountName"], "default");
        assert_eq!(got["spec"]["imagePullSecrets"][0]["name"], "reg");
        let volume = &got["spec"]["volumes"][0];
        assert!(volume["name"].as_str().unwrap().starts_with(VOLUME_PREFIX));
        assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        assert_eq!(got["spec"]["containers"][0]["volumeMounts"][0]["name"], volume["name"]);
        assert_eq!(got["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn no_automount() {
        let pod = || json!({"spec": {"containers": [{"name": "a"}]}});
        let got = admit(account(&json!({"automountServiceAccountToken": false})), pod()).await.unwrap();
        assert!(got["spec"]["volumes"].is_null());
        let mut insists = pod();
        insists["spec"]["automountServiceAccountToken"] = true.into();
        let got = admit(account(&json!({"automountServiceAccountToken": false})), insists).await.unwrap();
        assert_eq!(got["spec"]["volumes"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn refusals() {
        let cases = [
            json!({"spec": {"serviceAccountName": "absent", "containers": []}}),
            json!({"metadata": {"annotations": {MIRROR_ANNOTATION: "x"}}, "spec": {"serviceAccountName": "default"}}),
            json!({"metadata": {"annotations": {MIRROR_ANNOTATION: "x"}}, "spec": {"volumes": [{"secret": {"secretName": "s"}}]}}),
        ];
        for pod in cases {
            assert_eq!(admit(account(&json!({})), pod.clone()).await.err(), Some(403), "{pod}");
        }
        let strict = account(
            &json!({"metadata": {"namespace": "ns", "name": "default", "annotations": {MOUNTABLE_ANNOTATION: "true"}}}),
        );
        let pod = json!({"spec": {"volumes": [{"secret": {"secretName": "s"}}], "containers": []}});
        assert_eq!(admit(strict, pod).await.err(), Some(403));
    }
}
