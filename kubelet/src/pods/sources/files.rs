//! Static pods from a directory (or one file).
//!
//! The directory is watched; where that is impossible it is read again every `--file-check-frequency`. A file that is
//! not a pod is one log line with the reason and no pod; the others are not affected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::meta;
use component_base::config_file;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use rustix::fs::inotify::WatchFlags;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cri::labels;
use crate::pods::env;
use crate::pods::manager::Message;
use crate::pods::types::{Pod, Source};
use crate::watch_dir::WatchDir;

/// Hex digits of a static pod's uid.
const UID_DIGITS: usize = 32;

/// Sends the static pods and their changes until shutdown.
pub async fn run(
    path: PathBuf,
    node: String,
    period: Duration,
    out: mpsc::Sender<Message>,
    shutdown: CancellationToken,
) {
    let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::MOVE_SELF;
    let watch = WatchDir::new(&path, flags).inspect_err(|error| {
        tracing::warn!(path = %path.display(), %error, "Cannot watch the static pods; reading them every {period:?}");
    });
    let watch = watch.ok();
    let mut known: Option<BTreeMap<PathBuf, String>> = None;
    loop {
        let files = read(&path);
        if known.as_ref() != Some(&files) {
            let pods = files.iter().filter_map(|(path, text)| load(path, text, &node)).collect();
            known = Some(files);
            if out.send(Message::Static { source: Source::File, pods }).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = async { match &watch { Some(w) => w.changed().await, None => std::future::pending().await } } => {}
            () = tokio::time::sleep(period), if watch.is_none() => {}
        }
    }
}

/// Path → text of every manifest.
fn read(path: &Path) -> BTreeMap<PathBuf, String> {
    let mut paths = Vec::new();
    if path.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        paths.extend(entries.map(|e| e.path()).filter(|p| p.is_file()));
        paths.retain(|p| p.file_name().is_some_and(|n| !n.to_string_lossy().starts_with('.')));
    } else if path.is_file() {
        paths.push(path.to_owned());
    }
    paths.into_iter().filter_map(|p| std::fs::read_to_string(&p).ok().map(|text| (p, text))).collect()
}

fn load(path: &Path, text: &str, node: &str) -> Option<Arc<Pod>> {
    match parse(path, text, node) {
        Ok(pod) => Some(Arc::new(pod)),
        Err(error) => {
            tracing::error!(file = %path.display(), "Ignoring a static pod file: {error}");
            None
        }
    }
}

fn parse(path: &Path, text: &str, node: &str) -> Result<Pod, String> {
    let (mut object, _) = config_file::parse::<Value>(text, path, "v1", "Pod").map_err(|e| e.to_string())?;
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err("metadata.name is missing".to_owned());
    }
    if object["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
        return Err("spec.containers is missing".to_owned());
    }
    let mut hash = Sha256::new();
    for part in [node, &path.to_string_lossy(), text] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut uid = hex::encode(hash.finalize());
    uid.truncate(UID_DIGITS);
    let name = format!("{}-{node}", meta::name(&object));
    meta::set_name(&mut object, &name);
    if meta::namespace(&object).is_empty() {
        meta::set_namespace(&mut object, "default");
    }
    meta::set_uid(&mut object, &uid);
    meta::set_annotation(&mut object, labels::CONFIG_HASH, &uid);
    meta::set_annotation(&mut object, labels::CONFIG_SOURCE, Source::File.as_str());
    meta::set_annotation(&mut object, labels::CONFIG_SEEN, &Timestamp::now().to_string());
    object["spec"]["nodeName"] = json!(node);
    let everything = json!({"operator": "Exists", "effect": "NoExecute"});
    match object["spec"]["tolerations"].as_array_mut() {
        Some(list) => list.push(everything),
        None => object["spec"]["tolerations"] = json!([everything]),
    }
    object["status"] = json!({"phase": "Pending"});
    let pod = Pod::new(serde_json::from_value(object).map_err(|e| e.to_string())?, Source::File);
    match api_reference(&pod) {
        Some(what) => Err(format!("static pods may not reference {what}")),
        None => Ok(pod),
    }
}

/// What of the API a pod needs. A static pod is nobody's in the API: with a reference it would get what the node may read
/// without anyone having allowed it.
fn api_reference(pod: &Pod) -> Option<&'static str> {
    let spec = &pod.spec;
    if spec.service_account_name.as_ref().is_some_and(|n| !n.is_empty()) {
        return Some("serviceaccounts");
    }
    let references: Vec<_> = pod.containers().map(|(_, c)| env::references(c)).collect();
    if spec.image_pull_secrets.as_ref().is_some_and(|s| !s.is_empty()) || references.iter().any(|(_, s)| !s.is_empty())
    {
        return Some("secrets");
    }
    if references.iter().any(|(maps, _)| !maps.is_empty()) {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(volume_reference)
}

fn volume_reference(volume: &core::Volume) -> Option<&'static str> {
    let kinds = [
        (volume.config_map.is_some(), "configmaps (via configmap volumes)"),
        (volume.secret.is_some(), "secrets (via secret volumes)"),
        (volume.csi.is_some(), "csidrivers (via CSI volumes)"),
        (volume.glusterfs.is_some(), "endpoints (via glusterFS volumes)"),
        (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
        (volume.ephemeral.is_some(), "persistentvolumeclaims (via ephemeral volumes)"),
        (volume.azure_file.is_some(), "secrets (via azureFile volumes)"),
    ];
    let projected = |source: &core::VolumeProjection| {
        let kinds = [
            (source.config_map.is_some(), "configmaps (via projected volumes)"),
            (source.secret.is_some(), "secrets (via projected volumes)"),
            (source.service_account_token.is_some(), "serviceaccounts (via projected volumes)"),
            (source.cluster_trust_bundle.is_some(), "clustertrustbundles"),
            (source.pod_certificate.is_some(), "podcertificates"),
        ];
        kinds.into_iter().find(|(is, _)| *is).map(|(_, name)| name)
    };
    let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
    kinds.into_iter().find(|(is, _)| *is).map(|(_, name)| name).or_else(|| sources.into_iter().find_map(projected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: x}]}\n";
        let pod = parse(Path::new("/m/web.yaml"), text, "n1").unwrap();
        assert_eq!((pod.name(), pod.namespace(), pod.uid().len()), ("web-n1", "default", UID_DIGITS));
        assert_eq!(pod.annotation(labels::CONFIG_HASH), Some(pod.uid()));
        assert!(pod.is_static());
        let again = parse(Path::new("/m/web.yaml"), text, "n1").unwrap();
        assert_eq!(again.uid(), pod.uid());
        assert!(parse(Path::new("/m/x"), "kind: Pod\napiVersion: v1\n", "n1").is_err());
        assert!(parse(Path::new("/m/x"), "nonsense", "n1").is_err());
    }

    #[test]
    fn what_only_the_api_can_give_is_refused() {
        let base = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: x, ";
        for (more, what) in [
            ("}]\n  serviceAccountName: a\n", "serviceaccounts"),
            ("env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]}]\n", "secrets"),
            ("envFrom: [{configMapRef: {name: m}}]}]\n", "configmaps"),
            ("}]\n  volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]\n", "persistentvolumeclaims"),
            (
                "}]\n  volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]\n",
                "serviceaccounts (via projected volumes)",
            ),
        ] {
            let error = parse(Path::new("/m/web.yaml"), &format!("{base}{more}"), "n1").unwrap_err();
            assert_eq!(error, format!("static pods may not reference {what}"));
        }
        let own = "}]\n  volumes: [{name: v, emptyDir: {}}, {name: h, hostPath: {path: /}}]\n";
        assert!(parse(Path::new("/m/web.yaml"), &format!("{base}{own}"), "n1").is_ok());
    }
}
