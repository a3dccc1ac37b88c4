//! What a pod lets its node read, taken out of the pod's JSON in one pass without a tree.
//!
//! Follows upstream's visitors of pod secrets, config maps and claims. Expects an object as the caches hold it: members in
//! alphabetical order, so that a volume's name comes after what it is.

use std::sync::LazyLock;

use memchr::memmem;

use super::node::{MIRROR_ANNOTATION, Vertex};
use crate::storage::entry::Entry;
use crate::storage::probe::Paths;

/// What a path's value is the name of.
#[derive(Clone, Copy)]
enum Names {
    Object(Vertex),
    /// The volume is made from a claim template.
    Ephemeral,
    /// A volume; with a template its claim is named after the pod and it.
    Volume,
}

const PATHS: &[(&[&str], Names)] = &[
    (&["spec", "serviceAccountName"], Names::Object(Vertex::ServiceAccount)),
    (&["spec", "imagePullSecrets", "name"], Names::Object(Vertex::Secret)),
    (&["spec", "volumes", "ephemeral"], Names::Ephemeral),
    (&["spec", "volumes", "name"], Names::Volume),
    (&["spec", "volumes", "secret", "secretName"], Names::Object(Vertex::Secret)),
    (&["spec", "volumes", "configMap", "name"], Names::Object(Vertex::ConfigMap)),
    (&["spec", "volumes", "persistentVolumeClaim", "claimName"], Names::Object(Vertex::Claim)),
    (&["spec", "volumes", "projected", "sources", "secret", "name"], Names::Object(Vertex::Secret)),
    (&["spec", "volumes", "projected", "sources", "configMap", "name"], Names::Object(Vertex::ConfigMap)),
    (&["spec", "volumes", "azureFile", "secretName"], Names::Object(Vertex::Secret)),
    (&["spec", "volumes", "csi", "nodePublishSecretRef", "name"], Names::Object(Vertex::Secret)),
    (&["spec", "resourceClaims", "resourceClaimName"], Names::Object(Vertex::ResourceClaim)),
    (&["status", "resourceClaimStatuses", "resourceClaimName"], Names::Object(Vertex::ResourceClaim)),
    (&["status", "extendedResourceClaimStatus", "resourceClaimName"], Names::Object(Vertex::ResourceClaim)),
];
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const OF_CONTAINERS: &[(&[&str], Vertex)] = &[
    (&["envFrom", "configMapRef", "name"], Vertex::ConfigMap),
    (&["envFrom", "secretRef", "name"], Vertex::Secret),
    (&["env", "valueFrom", "configMapKeyRef", "name"], Vertex::ConfigMap),
    (&["env", "valueFrom", "secretKeyRef", "name"], Vertex::Secret),
];
const WITH_SECRET_REF: [&str; 6] = ["cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"];

static WANTED: LazyLock<(Paths, Vec<Names>)> = LazyLock::new(|| {
    let mut all: Vec<(Vec<&str>, Names)> = PATHS.iter().map(|(path, names)| (path.to_vec(), *names)).collect();
    for list in CONTAINERS {
        let below = |path: &[&'static str]| [&["spec", list], path].concat();
        all.extend(OF_CONTAINERS.iter().map(|(path, vertex)| (below(path), Names::Object(*vertex))));
    }
    let secret = |kind| (vec!["spec", "volumes", kind, "secretRef", "name"], Names::Object(Vertex::Secret));
    all.extend(WITH_SECRET_REF.map(secret));
    let paths: Vec<&[&str]> = all.iter().map(|(path, _)| path.as_slice()).collect();
    (Paths::new(&paths), all.iter().map(|(_, names)| *names).collect())
});

/// What a pod uses of its namespace, by kind and name: sorted, each once.
#[derive(Debug)]
pub struct PodUses(Box<[(Vertex, Box<str>)]>);

impl PodUses {
    /// Reads a pod. What is no JSON uses nothing.
    pub fn read(pod: &Entry) -> Self {
        let (paths, names) = &*WANTED;
        let (mut uses, mut is_ephemeral) = (Vec::new(), false);
        // Most of the metadata tells who owns which field.
        let visited = paths.visit(&pod.without_metadata(), &mut |slot, value| {
            let name = value.to_string();
            match names[slot] {
                Names::Ephemeral => is_ephemeral = true,
                Names::Volume if std::mem::take(&mut is_ephemeral) => {
                    uses.push((Vertex::Claim, [pod.name(), "-", &name].concat().into()));
                }
                Names::Object(vertex) if !name.is_empty() => uses.push((vertex, name.into())),
                Names::Volume | Names::Object(_) => {}
            }
        });
        if visited.is_err() || is_mirror(pod.metadata()) {
            uses.clear();
        }
        uses.sort_unstable();
        uses.dedup();
        Self(uses.into())
    }

    /// Whether an object is among them.
    pub fn contains(&self, vertex: Vertex, name: &str) -> bool {
        self.0.binary_search_by(|(kind, used)| (*kind, &**used).cmp(&(vertex, name))).is_ok()
    }
}

fn is_mirror(metadata: &[u8]) -> bool {
    static MIRROR: LazyLock<Paths> = LazyLock::new(|| Paths::new(&[&["annotations", MIRROR_ANNOTATION]]));
    let mut found = false;
    memmem::find(metadata, MIRROR_ANNOTATION.as_bytes()).is_some()
        && MIRROR.visit(metadata, &mut |_, _| found = true).is_ok()
        && found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::storage::probe::Probe;

    fn entry(pod: &serde_json::Value) -> Entry {
        Entry::new("ns/web".into(), &serde_json::to_vec(pod).unwrap(), 1, &Probe::default()).unwrap()
    }

    #[test]
    fn everything_a_pod_names() {
        let mut pod = json!({"metadata": {"name": "web"}, "spec": {"nodeName": "n", "serviceAccountName": "sa",
            "containers": [{"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s1"}}}], "envFrom": [{"configMapRef": {"name": "c1"}}]}],
            "volumes": [{"name": "plain", "secret": {"secretName": "s1"}}, {"ephemeral": {"volumeClaimTemplate": {}}, "name": "scratch"},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "c2"}}]}}, {"name": "i", "iscsi": {"secretRef": {"name": "s2"}}}]},
            "status": {"resourceClaimStatuses": [{"name": "g", "resourceClaimName": "gpu"}]}});
        let uses = PodUses::read(&entry(&pod));
        let found: Vec<(Vertex, &str)> = uses.0.iter().map(|(vertex, name)| (*vertex, &**name)).collect();
        let wanted = [
            (Vertex::Secret, "s1"),
            (Vertex::Secret, "s2"),
            (Vertex::ConfigMap, "c1"),
            (Vertex::ConfigMap, "c2"),
            (Vertex::Claim, "web-scratch"),
            (Vertex::ServiceAccount, "sa"),
            (Vertex::ResourceClaim, "gpu"),
        ];
        assert_eq!(found, wanted);
        assert!(uses.contains(Vertex::ConfigMap, "c2") && !uses.contains(Vertex::Secret, "c2"));
        pod["metadata"] = json!({"annotations": {MIRROR_ANNOTATION: "x"}});
        assert!(PodUses::read(&entry(&pod)).0.is_empty());
    }
}
