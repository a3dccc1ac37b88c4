//! The two questions that `up` asks the API server.

use apimachinery::meta;
use client::{Client, ClientConfig, resources};
use serde_json::Value;

use crate::cluster::Cluster;

/// A connection as the cluster's administrator.
pub struct Api {
    client: Client,
    node: String,
}

impl Api {
    /// Reads the administrator's kubeconfig.
    ///
    /// # Errors
    /// In words, when it cannot be used.
    pub fn new(cluster: &Cluster) -> Result<Self, String> {
        let config =
            ClientConfig::from_kubeconfig(&cluster.admin_kubeconfig(), "hardway").map_err(|e| e.to_string())?;
        Ok(Self { client: Client::new(config).map_err(|e| e.to_string())?, node: cluster.node.clone() })
    }

    /// Whether the API server is ready.
    ///
    /// # Errors
    /// Why not yet.
    pub async fn ready(&self) -> Result<String, String> {
        let request = http::Request::get("/readyz").body(bytes::Bytes::new()).map_err(|e| e.to_string())?;
        self.client.raw(request).await.map_err(|e| e.to_string())?;
        Ok("answers /readyz".to_owned())
    }

    /// Whether the node is Ready.
    ///
    /// # Errors
    /// Why not yet, in the kubelet's words.
    pub async fn node_ready(&self) -> Result<String, String> {
        let node: Value = self.client.get(&resources::NODES, None, &self.node).await.map_err(|e| e.to_string())?;
        let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ready = conditions.iter().find(|c| c["type"] == "Ready");
        match ready {
            Some(condition) if condition["status"] == "True" => Ok(format!("node {} is Ready", meta::name(&node))),
            Some(condition) => Err(condition["message"].as_str().unwrap_or("the node is not Ready").to_owned()),
            None => Err("the kubelet has not said how it is yet".to_owned()),
        }
    }
}
