//! Gives a pod its claims of devices: what was found for them, and the right to use them.

use apimachinery::meta::ObjectMeta;
use client::{Client, ClientError, Patch, resources};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::pod::PodInfo;
use crate::plugins::devices::Grant;

/// Keeps a claim until its devices are given back.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Others may write to a claim at the same time.
const MAX_TRIES: usize = 5;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Claim {
    metadata: ObjectMeta,
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    allocation: Option<Value>,
    reserved_for: Vec<Value>,
}

/// Writes allocations and reservations of all of a pod's claims.
///
/// # Errors
/// In words, which claim could not be had.
pub(super) async fn give(client: &Client, pod: &PodInfo, grants: &[Grant]) -> Result<(), String> {
    for name in pod.template.claims.iter().flatten() {
        let allocation = grants.iter().find(|g| g.claim == *name).map(|g| &g.allocation);
        give_one(client, pod, name, allocation).await.map_err(|e| format!("reserving claim {name:?}: {e}"))?;
    }
    Ok(())
}

async fn give_one(client: &Client, pod: &PodInfo, name: &str, grant: Option<&Value>) -> Result<(), String> {
    let (resource, namespace) = (resources::RESOURCE_CLAIMS, Some(&*pod.key.namespace));
    let mut tries = 0;
    loop {
        tries += 1;
        let claim: Claim = client.get(&resource, namespace, name).await.map_err(|e| e.to_string())?;
        if grant.is_some() && claim.status.allocation.is_some() {
            return Err("it was allocated by somebody else meanwhile".into());
        }
        match write(client, pod, claim, grant).await {
            Err(error) if error.is_conflict() && tries < MAX_TRIES => {}
            result => return result.map_err(|e| e.to_string()),
        }
    }
}

async fn write(client: &Client, pod: &PodInfo, claim: Claim, grant: Option<&Value>) -> Result<(), ClientError> {
    let (resource, namespace) = (resources::RESOURCE_CLAIMS, Some(&*pod.key.namespace));
    let Claim { mut metadata, status } = claim;
    let name = metadata.name.clone();
    let mut change = json!({});
    if let Some(allocation) = grant {
        if !metadata.finalizers.iter().any(|f| f == FINALIZER) {
            metadata.finalizers.push(FINALIZER.to_owned());
            let meta = json!({"resourceVersion": metadata.resource_version, "finalizers": metadata.finalizers});
            let patch = Patch::Merge(json!({ "metadata": meta }));
            metadata = client.patch::<Claim>(&resource, namespace, &name, None, &patch).await?.metadata;
        }
        change["allocation"] = allocation.clone();
    }
    if !status.reserved_for.iter().any(|user| user["uid"] == *pod.uid) {
        let me = json!({"resource": "pods", "name": &*pod.key.name, "uid": &*pod.uid});
        change["reservedFor"] = status.reserved_for.into_iter().chain([me]).collect();
    }
    if change == json!({}) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": metadata.resource_version}, "status": change}));
    client.patch::<Claim>(&resource, namespace, &name, Some("status"), &patch).await.map(drop)
}
