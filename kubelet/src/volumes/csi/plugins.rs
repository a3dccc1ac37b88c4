//! Registration: sockets below `plugins_registry` are asked who they are; drivers become usable and are shown in the
//! node's CSINode, its annotation and its topology labels. A socket that is gone takes its driver away again.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use client::{ClientError, Patch, resources};
use rustix::fs::inotify::WatchFlags;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::driver::node_info;
use super::registration::registration_client::RegistrationClient;
use super::registration::{InfoRequest, RegistrationStatus};
use crate::context::Context;
use crate::cri::client::channel;
use crate::watch_dir::WatchDir;

const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";
/// Delay between two tries of a plugin that does not answer yet.
const RETRY: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Path → (inode, time of change): a plugin that started anew made a new socket.
type Sockets = BTreeMap<PathBuf, (u64, i64)>;

fn sockets(dir: &Path) -> Sockets {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let socket = |e: std::fs::DirEntry| {
        let meta = e.metadata().ok().filter(|m| m.file_type().is_socket())?;
        Some((e.path(), (meta.ino(), meta.ctime_nsec() ^ meta.ctime())))
    };
    entries.filter_map(socket).collect()
}

/// Keeps the registered drivers until shutdown.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let dir = context.dirs.root.join("plugins_registry");
    let made = std::fs::create_dir_all(&dir);
    let flags = WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
    let watch = match made.and_then(|()| WatchDir::new(&dir, flags)) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(dir = %dir.display(), %error, "Cannot watch for storage plugins; CSI volumes will not work");
            return;
        }
    };
    // Socket → its identity and the driver's name.
    let mut known: BTreeMap<PathBuf, ((u64, i64), String)> = BTreeMap::new();
    let mut waiting_for_node = true;
    loop {
        if waiting_for_node {
            waiting_for_node = ensure_csi_node(&context).await.is_err();
        }
        let mut failed = waiting_for_node;
        let here = sockets(&dir);
        let gone: Vec<PathBuf> = known.keys().filter(|p| !here.contains_key(*p)).cloned().collect();
        for (_, name) in gone.iter().filter_map(|path| known.remove(path)) {
            tracing::info!(driver = name, "A CSI driver left");
            context.csi.endpoints.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            failed |= tell(&context, &name, None).await.is_err();
        }
        for (path, identity) in here {
            if known.get(&path).is_some_and(|(i, _)| *i == identity) {
                continue;
            }
            match register(&context, &path).await {
                Ok(name) => {
                    known.insert(path, (identity, name));
                }
                Err(error) => {
                    failed = true;
                    tracing::warn!(socket = %path.display(), "Cannot register the plugin; trying again: {error}");
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = watch.changed() => {}
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

/// Registers the plugin behind a socket and answers it; its name.
async fn register(context: &Context, socket: &Path) -> Result<String, String> {
    let mut client = RegistrationClient::new(channel(&socket.to_string_lossy()));
    let mut ask = Request::new(InfoRequest {});
    ask.set_timeout(TIMEOUT);
    let info = client.get_info(ask).await.map_err(|e| e.to_string())?.into_inner();
    let result = if info.r#type == "CSIPlugin" {
        let endpoint = if info.endpoint.is_empty() { socket.to_string_lossy().into_owned() } else { info.endpoint };
        install(context, &info.name, endpoint, &info.supported_versions).await
    } else {
        Err(format!("plugins of type {} are not supported by this kubelet", info.r#type))
    };
    let error = result.as_ref().err().cloned().unwrap_or_default();
    let mut answer = Request::new(RegistrationStatus { plugin_registered: error.is_empty(), error });
    answer.set_timeout(TIMEOUT);
    client.notify_registration_status(answer).await.map_err(|e| e.to_string())?;
    if info.r#type != "CSIPlugin" {
        return Ok(info.name);
    }
    result.map(|()| info.name)
}

async fn install(context: &Context, name: &str, endpoint: String, versions: &[String]) -> Result<(), String> {
    let major = |v: &String| v.trim_start_matches('v').split('.').next() == Some("1");
    if !versions.iter().any(major) {
        return Err(format!("driver {name} speaks CSI {versions:?}, and the kubelet 1.x"));
    }
    let info = node_info(&endpoint).await?;
    let topology = info.accessible_topology.unwrap_or_default().segments;
    let mut driver = json!({"name": name, "nodeID": info.node_id,
        "topologyKeys": topology.keys().collect::<std::collections::BTreeSet<_>>()});
    if info.max_volumes_per_node > 0 {
        driver["allocatable"] = json!({"count": info.max_volumes_per_node});
    }
    let labels: BTreeMap<_, _> = topology.into_iter().collect();
    tell(context, name, Some((driver, labels))).await.map_err(|e| e.to_string())?;
    context.csi.endpoints.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), endpoint);
    tracing::info!(driver = name, node_id = info.node_id, "A CSI driver registered");
    Ok(())
}

/// Makes sure that the node has its CSINode, which the scheduler reads limits from.
async fn ensure_csi_node(context: &Context) -> Result<Value, ClientError> {
    let Some(api) = context.objects.client() else { return Ok(Value::Null) };
    let name = &context.node_name;
    match api.get::<Value>(&resources::CSI_NODES, None, name).await {
        Err(error) if error.is_not_found() => {
            let node: Value = api.get(&resources::NODES, None, name).await?;
            let object = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
                "metadata": {"name": name, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name,
                    "uid": node["metadata"]["uid"]}]},
                "spec": {"drivers": []}});
            api.create(&resources::CSI_NODES, None, &object).await
        }
        other => other,
    }
}

/// Shows a driver in the API, or takes it away.
async fn tell(
    context: &Context,
    name: &str,
    driver: Option<(Value, BTreeMap<String, String>)>,
) -> Result<(), ClientError> {
    let Some(api) = context.objects.client() else { return Ok(()) };
    let node: Value = api.get(&resources::NODES, None, &context.node_name).await?;
    let ids = node["metadata"]["annotations"][NODE_ID].as_str().and_then(|t| serde_json::from_str(t).ok());
    let mut ids: BTreeMap<String, Value> = ids.unwrap_or_default();
    let labels = match &driver {
        Some((driver, labels)) => {
            ids.insert(name.to_owned(), driver["nodeID"].clone());
            json!(labels)
        }
        None => {
            ids.remove(name);
            json!({})
        }
    };
    let ids = if ids.is_empty() { Value::Null } else { json!(serde_json::to_string(&ids).unwrap_or_default()) };
    let patch = json!({"metadata": {"annotations": {NODE_ID: ids}, "labels": labels}});
    let patch = Patch::Merge(patch);
    api.patch::<Value>(&resources::NODES, None, &context.node_name, Some("status"), &patch).await?;
    let csi_node = ensure_csi_node(context).await?;
    let drivers = replaced(&csi_node["spec"]["drivers"], name, driver.map(|(d, _)| d));
    if drivers == csi_node["spec"]["drivers"] {
        return Ok(());
    }
    let version = &csi_node["metadata"]["resourceVersion"];
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"drivers": drivers}});
    api.patch::<Value>(&resources::CSI_NODES, None, &context.node_name, None, &Patch::Merge(patch)).await.map(|_| ())
}

/// The list of drivers with one of them replaced or removed.
fn replaced(list: &Value, name: &str, driver: Option<Value>) -> Value {
    let others = list.as_array().into_iter().flatten().filter(|d| d["name"] != name).cloned();
    let mut drivers: Vec<Value> = others.chain(driver).collect();
    drivers.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Value::Array(drivers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_entry_per_driver() {
        let list = json!([{"name": "a", "nodeID": "1"}, {"name": "b", "nodeID": "1"}]);
        assert_eq!(replaced(&list, "b", Some(json!({"name": "b", "nodeID": "2"})))[1]["nodeID"], "2");
        assert_eq!(replaced(&list, "a", None).as_array().unwrap().len(), 1);
        assert_eq!(replaced(&Value::Null, "a", Some(json!({"name": "a"}))).as_array().unwrap().len(), 1);
    }
}
