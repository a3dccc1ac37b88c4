//! The node's lease: the heartbeat by which the cluster knows that this kubelet lives.

use std::time::Duration;

use client::{Client, ClientError, resources};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-node-lease";

/// Renews the lease every quarter of its duration until shutdown.
pub async fn run(client: Client, node: String, duration_seconds: i32, shutdown: CancellationToken) {
    let period = Duration::from_secs(u64::try_from(duration_seconds).unwrap_or(40).max(4) / 4);
    let mut held: Option<Value> = None;
    let mut failing = false;
    loop {
        match renew(&client, &node, duration_seconds, held.take()).await {
            Ok(lease) => {
                held = Some(lease);
                failing = false;
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "Failed to update the node's lease; trying again every {period:?}");
                }
                failing = true;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
    }
}

async fn renew(client: &Client, node: &str, duration: i32, held: Option<Value>) -> Result<Value, ClientError> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    if let Some(mut lease) = held {
        lease["spec"]["renewTime"] = json!(now);
        match client.update(&resources::LEASES, Some(NAMESPACE), node, &lease).await {
            Err(error) if error.is_conflict() || error.is_not_found() => {}
            other => return other,
        }
    }
    match client.get::<Value>(&resources::LEASES, Some(NAMESPACE), node).await {
        Ok(mut lease) => {
            lease["spec"]["renewTime"] = json!(now);
            lease["spec"]["holderIdentity"] = json!(node);
            lease["spec"]["leaseDurationSeconds"] = json!(duration);
            client.update(&resources::LEASES, Some(NAMESPACE), node, &lease).await
        }
        Err(error) if error.is_not_found() => {
            let owner = client.get::<Value>(&resources::NODES, None, node).await?;
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": node, "namespace": NAMESPACE, "ownerReferences": [{"apiVersion": "v1",
                    "kind": "Node", "name": node, "uid": owner["metadata"]["uid"]}]},
                "spec": {"holderIdentity": node, "leaseDurationSeconds": duration, "renewTime": now}});
            client.create(&resources::LEASES, Some(NAMESPACE), &lease).await
        }
        Err(error) => Err(error),
    }
}
