//! `persistentvolume-attach-detach-controller`: asks CSI drivers' attachers to attach the volumes of the pods of a node,
//! tells the kubelet which are attached, and has them detached when no pod needs them and the kubelet has let go.
//!
//! Contract: one key per node; [`reconcile`] is pure. An attachment is recognised by its name, which is upstream's hash of
//! volume, driver and node. A volume that is mounted is taken from a node only when the node is gone, carries the
//! `out-of-service` taint, or has been unready for six minutes since the volume was to go (`--disable-force-detach-on-timeout`
//! ends the last). Nothing else is attached: in-tree kinds that were have moved to CSI drivers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::events::EventType::{Normal, Warning};
use client::informer::Delta;
use jiff::Timestamp;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::framework::backoff::remaining;
use crate::framework::{Action, Controller, Executor, Key, Plan, Setup, Store, Subject, SyncResult, View};
use crate::views::meta::{condition, is_deleting, to_value};
use crate::views::node::{AttachedVolume, NodeView};
use crate::views::pod::{self, PodView};
use crate::views::volume::{AttachmentView, BY_NODE, ClaimView, CsiDriverView, VolumeView};

/// Kubelets that leave attaching to this controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// Kubelets that keep the volumes of ended pods mounted.
const KEEP_TERMINATED: &str = "volumes.kubernetes.io/keep-terminated-pod-volumes";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// An unready node has so long to let go of a volume.
const FORCE_AFTER_SECONDS: i64 = 360;

/// Registers `persistentvolume-attach-detach-controller`.
pub fn register(setup: &mut Setup<'_>) {
    let queue = setup.queue("pvcs");
    let pods = setup.stores.of::<PodView>();
    let nodes = setup.stores.of::<NodeView>();
    let claims = setup.stores.of::<ClaimView>();
    let volumes = setup.stores.of::<VolumeView>();
    let drivers = setup.stores.of::<CsiDriverView>();
    let attachments = setup.stores.of::<AttachmentView>();
    let wake = queue.clone();
    pods.on(move |delta| {
        let pod = delta.object();
        let same = |old: &PodView| old.spec.node_name == pod.spec.node_name && old.is_terminal() == pod.is_terminal();
        let idle = matches!(delta, Delta::Updated { old, .. } if same(old));
        if !idle && !pod.spec.node_name.is_empty() && pod.claims().next().is_some() {
            wake.add(Key::new("", &pod.spec.node_name));
        }
    });
    let wake = queue.clone();
    nodes.on(move |delta| {
        let facts = |n: &NodeView| {
            let ready = condition(&n.status.conditions, "Ready").is_some_and(|c| c.status == "True");
            (n.status.volumes_in_use.clone(), n.metadata.annotations.get(MANAGED).cloned(), is_out(n), ready)
        };
        if !matches!(delta, Delta::Updated { old, new } if facts(old) == facts(new)) {
            wake.add(Key::of(&delta.object().metadata));
        }
    });
    let wake = queue.clone();
    attachments.on(move |delta| wake.add(Key::new("", &delta.object().spec.node_name)));
    let (wake, users) = (queue.clone(), pods.clone());
    claims.on(move |delta| {
        let meta = &delta.object().metadata;
        if matches!(delta, Delta::Updated { old, new } if old.status.phase != new.status.phase) {
            let on_nodes = users.by_index(pod::BY_NAMESPACE, &meta.namespace);
            let uses = |p: &&Arc<PodView>| !p.spec.node_name.is_empty() && p.claims().any(|name| name == meta.name);
            on_nodes.iter().filter(uses).for_each(|p| wake.add(Key::new("", &p.spec.node_name)));
        }
    });
    let executor = setup.executor("attachdetach-controller");
    let force = setup.config.force_detach;
    let unwanted = Mutex::default();
    setup.workers(
        queue,
        10,
        AttachDetach { pods, nodes, claims, volumes, drivers, attachments, executor, force, unwanted },
    );
}

fn is_out(node: &NodeView) -> bool {
    node.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// A volume that pods of a node need.
#[derive(Clone, Debug)]
struct Wanted {
    volume: Arc<VolumeView>,
    /// Already attached to another node, and cannot be to two.
    taken: bool,
    pods: Vec<Subject>,
}

/// The name under which kubelets know a CSI volume.
fn unique_name(volume: &VolumeView) -> Option<String> {
    let csi = volume.spec.csi.as_ref()?;
    Some(format!("kubernetes.io/csi/{}^{}", csi.driver, csi.volume_handle))
}

/// The name of a volume's attachment to a node.
fn attachment_name(volume: &VolumeView, node: &str) -> Option<String> {
    let csi = volume.spec.csi.as_ref()?;
    let hash = Sha256::digest(format!("{}{}{node}", csi.volume_handle, csi.driver));
    Some(format!("csi-{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

/// Whether a name is of the form of [`attachment_name`]; attachments of other names were made by others.
fn is_hash(name: &str) -> bool {
    let digest = name.strip_prefix("csi-").unwrap_or_default();
    digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A node's attachments with their volumes, what it needs, and whether it may be robbed.
struct Situation<'a> {
    name: &'a str,
    node: Option<&'a NodeView>,
    wanted: &'a BTreeMap<String, Wanted>,
    attachments: &'a [(Arc<AttachmentView>, Option<Arc<VolumeView>>)],
    /// Attachments that have been unwanted for so long that an unready node is asked no more.
    overdue: &'a BTreeSet<String>,
}

/// Brings a node's attachments one step closer to what its pods need.
fn reconcile(s: &Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut attached = BTreeSet::new();
    let mut detach = Vec::new();
    for (attachment, volume) in s.attachments {
        let name = &attachment.metadata.name;
        let unique = volume.as_deref().and_then(unique_name);
        let busy = s.node.zip(unique.as_ref()).is_some_and(|(n, unique)| n.status.volumes_in_use.contains(unique));
        let may_rob = s.node.is_none_or(is_out) || s.overdue.contains(name);
        let goes = is_deleting(&attachment.metadata) || (!s.wanted.contains_key(name) && (!busy || may_rob));
        if !goes {
            attached.extend(unique.filter(|_| attachment.status.attached));
        } else if !is_deleting(&attachment.metadata) {
            detach.push(attachment.target());
        }
    }
    if let Some(node) = s.node {
        let told: BTreeSet<&String> = node.status.volumes_attached.iter().map(|v| &v.name).collect();
        if told != attached.iter().collect() {
            let list = attached.iter().map(|name| AttachedVolume { name: name.clone(), device_path: String::new() });
            let list: Vec<_> = list.map(|v| to_value(&v)).collect();
            let target = node.target();
            plan.change(target, Some("status"), json!({"status": {"volumesAttached": list}}));
            announce(&mut plan, s, &told);
        }
    }
    // Only after the kubelet cannot take them for attached any more.
    for target in detach {
        plan.push(target.delete(""));
    }
    let exists = |name: &String| s.attachments.iter().any(|(a, _)| a.metadata.name == *name);
    for (name, wanted) in s.wanted.iter().filter(|(name, _)| !exists(name)) {
        attach(&mut plan, s.name, name, wanted);
    }
    plan
}

/// Tells of volumes that have come to be attached.
fn announce(plan: &mut Plan, s: &Situation<'_>, told: &BTreeSet<&String>) {
    let done = s.attachments.iter().filter(|(a, _)| a.status.attached);
    for (attachment, volume) in done {
        let Some(unique) = volume.as_deref().and_then(unique_name).filter(|u| !told.contains(u)) else { continue };
        tracing::debug!(volume = unique, node = s.name, "attached");
        for pod in s.wanted.get(&attachment.metadata.name).iter().flat_map(|w| &w.pods) {
            let volume = &attachment.spec.source.persistent_volume_name;
            let note = format!("AttachVolume.Attach succeeded for volume \"{volume}\" ");
            plan.event(pod, Normal, "SuccessfulAttachVolume", note);
        }
    }
}

fn attach(plan: &mut Plan, node: &str, name: &str, wanted: &Wanted) {
    let volume = &wanted.volume.metadata.name;
    if wanted.taken {
        for pod in &wanted.pods {
            let note = format!(
                "Multi-Attach error for volume \"{volume}\" Volume is already exclusively attached to one node and can't \
                 be attached to another"
            );
            plan.event(pod, Warning, "FailedAttachVolume", note);
        }
        return;
    }
    let driver = wanted.volume.spec.csi.as_ref().map(|csi| csi.driver.as_str());
    plan.push(Action::Create {
        resource: AttachmentView::RESOURCE,
        namespace: String::new(),
        body: json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "VolumeAttachment",
            "metadata": {"name": name},
            "spec": {"attacher": driver, "nodeName": node, "source": {"persistentVolumeName": volume}},
        }),
    });
}

struct AttachDetach {
    pods: Store<PodView>,
    nodes: Store<NodeView>,
    claims: Store<ClaimView>,
    volumes: Store<VolumeView>,
    drivers: Store<CsiDriverView>,
    attachments: Store<AttachmentView>,
    executor: Executor,
    force: bool,
    /// Since when mounted attachments are unwanted, by name.
    unwanted: Mutex<HashMap<String, Timestamp>>,
}

impl AttachDetach {
    fn wanted(&self, node: &NodeView) -> BTreeMap<String, Wanted> {
        let mut wanted = BTreeMap::<String, Wanted>::new();
        let says = |key: &str| node.metadata.annotations.get(key).is_some_and(|value| value == "true");
        if !says(MANAGED) {
            return wanted;
        }
        let name = &node.metadata.name;
        for pod in self.pods.by_index(pod::BY_NODE, name) {
            if pod.is_terminal() && !says(KEEP_TERMINATED) {
                continue;
            }
            for claim in pod.claims() {
                let Some(volume) = self.volume_of(&pod.metadata.namespace, &claim) else { continue };
                let Some(attachment) = attachment_name(&volume, name) else { continue };
                let entry = wanted.entry(attachment).or_insert_with(|| Wanted {
                    taken: self.is_taken(&volume, name),
                    volume,
                    pods: Vec::new(),
                });
                entry.pods.push(pod.subject());
            }
        }
        wanted
    }

    /// The volume of a bound claim, if it is of a driver that attaches.
    fn volume_of(&self, namespace: &str, claim: &str) -> Option<Arc<VolumeView>> {
        let claim = self.claims.get(namespace, claim).filter(|c| c.status.phase == "Bound")?;
        let volume = self.volumes.get("", &claim.spec.volume_name).filter(|v| v.is_for(&claim))?;
        let driver = self.drivers.get("", &volume.spec.csi.as_ref()?.driver);
        driver.is_none_or(|d| d.spec.attach_required != Some(false)).then_some(volume)
    }

    fn is_taken(&self, volume: &VolumeView, node: &str) -> bool {
        let shared = |mode: &String| matches!(mode.as_str(), "ReadWriteMany" | "ReadOnlyMany");
        let elsewhere = |a: &Arc<AttachmentView>| {
            a.spec.node_name != node && a.spec.source.persistent_volume_name == volume.metadata.name
        };
        !volume.spec.access_modes.iter().any(shared) && self.attachments.list().iter().any(elsewhere)
    }

    /// Which attachments an unready node has had long enough to let go, and when to look at the next one.
    fn overdue(
        &self,
        node: &NodeView,
        unwanted: &BTreeSet<String>,
        on_node: &BTreeSet<String>,
        now: Timestamp,
    ) -> (BTreeSet<String>, Option<Duration>) {
        let mut since = self.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|name, _| unwanted.contains(name) || !on_node.contains(name));
        let ready = condition(&node.status.conditions, "Ready").is_some_and(|c| c.status == "True");
        let (mut overdue, mut again) = (BTreeSet::new(), None::<Duration>);
        for name in unwanted {
            let left = remaining(*since.entry(name.clone()).or_insert(now), FORCE_AFTER_SECONDS, now);
            if ready || !self.force {
                continue;
            }
            if left.is_zero() {
                overdue.insert(name.clone());
            } else {
                again = Some(again.map_or(left, |before| before.min(left)));
            }
        }
        (overdue, again)
    }
}

impl Controller for AttachDetach {
    async fn sync(&self, key: &Key) -> SyncResult {
        let node = self.nodes.get("", &key.name);
        let wanted = node.as_deref().map(|n| self.wanted(n)).unwrap_or_default();
        let ours = |a: Arc<AttachmentView>| {
            let volume = self.volumes.get("", &a.spec.source.persistent_volume_name);
            let named = volume.as_deref().map(|v| attachment_name(v, &key.name));
            // Without its volume only the form of the name tells; such an attachment is of no use to anybody.
            let own = named.map_or_else(|| is_hash(&a.metadata.name), |name| name.as_ref() == Some(&a.metadata.name));
            own.then_some((a, volume))
        };
        let attachments: Vec<_> = self.attachments.by_index(BY_NODE, &key.name).into_iter().filter_map(ours).collect();
        let on_node: BTreeSet<String> = attachments.iter().map(|(a, _)| a.metadata.name.clone()).collect();
        let unwanted = on_node.iter().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        let (overdue, again) = match &node {
            Some(node) => self.overdue(node, &unwanted, &on_node, Timestamp::now()),
            None => Default::default(),
        };
        let plan = reconcile(&Situation {
            name: &key.name,
            node: node.as_deref(),
            wanted: &wanted,
            attachments: &attachments,
            overdue: &overdue,
        });
        self.executor.run(plan).await?;
        // A volume that is taken comes free without anything happening on this node.
        let blocked = wanted.values().any(|w| w.taken).then_some(Duration::from_secs(5));
        Ok(again.into_iter().chain(blocked).min())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::volume::CsiSource;

    fn volume() -> Arc<VolumeView> {
        let mut volume = VolumeView::default();
        volume.metadata.name = "v".to_owned();
        volume.spec.csi = Some(CsiSource { driver: "d".to_owned(), volume_handle: "h".to_owned() });
        Arc::new(volume)
    }

    fn attachment(attached: bool) -> Arc<AttachmentView> {
        let mut attachment = AttachmentView::default();
        attachment.metadata.name = attachment_name(&volume(), "n").unwrap();
        attachment.status.attached = attached;
        Arc::new(attachment)
    }

    fn plan(node: Option<&NodeView>, wants: bool, attachments: &[Arc<AttachmentView>], overdue: bool) -> Vec<Action> {
        let name = attachment_name(&volume(), "n").unwrap();
        let wanted = Wanted { volume: volume(), taken: false, pods: Vec::new() };
        let wanted = wants.then(|| (name.clone(), wanted)).into_iter().collect();
        let attachments: Vec<_> = attachments.iter().map(|a| (a.clone(), Some(volume()))).collect();
        let overdue = overdue.then_some(name).into_iter().collect();
        reconcile(&Situation { name: "n", node, wanted: &wanted, attachments: &attachments, overdue: &overdue }).actions
    }

    #[test]
    fn only_attachments_of_this_controller_are_its_own() {
        assert!(is_hash(&attachment_name(&volume(), "n").unwrap()));
        assert!(!is_hash("va-e2e") && !is_hash("csi-abc") && !is_hash(&format!("csi-{}", "x".repeat(64))));
    }

    #[test]
    fn a_volume_is_attached_told_and_detached_when_let_go() {
        let mut node = NodeView::default();
        assert!(matches!(&plan(Some(&node), true, &[], false)[..], [Action::Create { .. }]));
        assert!(plan(Some(&node), true, &[attachment(false)], false).is_empty());
        assert!(matches!(&plan(Some(&node), true, &[attachment(true)], false)[..], [Action::Change { .. }]));
        let unique = unique_name(&volume()).unwrap();
        node.status.volumes_attached.push(AttachedVolume { name: unique.clone(), device_path: String::new() });
        assert!(plan(Some(&node), true, &[attachment(true)], false).is_empty());
        let detach = |actions: &[Action]| matches!(actions.last(), Some(Action::Delete { .. }));
        node.status.volumes_in_use.push(unique);
        assert!(plan(Some(&node), false, &[attachment(true)], false).is_empty());
        assert!(detach(&plan(Some(&node), false, &[attachment(true)], true)));
        assert!(detach(&plan(None, false, &[attachment(true)], false)));
        node.status.volumes_in_use.clear();
        let goes = plan(Some(&node), false, &[attachment(true)], false);
        assert!(matches!(&goes[..], [Action::Change { .. }, Action::Delete { .. }]), "{goes:?}");
    }
}
