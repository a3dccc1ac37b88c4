//! The evaluator that the scheduler runs: classes are kept, changes are caught up with, and a placement is one pass over
//! small columns.
//!
//! Guarantees the same feasible nodes and totals as `naive`. Memory is bounded by `MAX_CACHED_ROWS` and `MAX_CLASSES`; the class that was
//! not used for longest goes first.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::class::Class;
use super::naive::{CycleState, NodeView, devices_of};
use super::{Diagnosis, Ranking};
use crate::cluster::Cluster;
use crate::cluster::counters::TemplateId;
use crate::cluster::nodes::NodeId;
use crate::config::profile::Profile;
use crate::model::pod::PodInfo;
use crate::plugins::devices::{self, Grant};
use crate::plugins::volumes::{Need, Unready, VolumePlan};
use crate::plugins::{Plugin, Rejection, fit, inter_pod, score};

/// Rows (classes times nodes) that may be kept, of about 200 bytes each.
const MAX_CACHED_ROWS: usize = 400_000;
/// Classes that may be kept.
const MAX_CLASSES: usize = 1024;
/// Templates with affinity that a class remembers.
const MAX_HEARD_TEMPLATES: usize = 10_000;

/// The evaluator.
#[derive(Default)]
pub struct Evaluator {
    classes: HashMap<(TemplateId, usize), Class>,
    uses: u64,
}

impl Evaluator {
    /// Ranks the nodes for a pod under profile number `profile` of `profiles`.
    ///
    /// # Errors
    /// When nothing about nodes matters because the pod's volumes are not ready.
    pub fn rank(
        &mut self,
        cluster: &mut Cluster,
        profiles: &[Profile],
        profile: usize,
        pod: &PodInfo,
    ) -> Result<Ranking, Unready> {
        let (index, profile) = (profile, &profiles[profile]);
        if let Some(names) = only_names(pod, profile) {
            let ids: Vec<NodeId> = names.iter().filter_map(|n| cluster.nodes.id(n)).collect();
            return rank_few(cluster, profile, pod, &ids);
        }
        let need = need(cluster, profile, pod)?;
        self.uses += 1;
        let key = self.class(cluster, profile, index, pod);
        let Some(class) = self.classes.get_mut(&key) else { return Ok(Ranking::default()) };
        class.used = self.uses;
        class.trim(MAX_HEARD_TEMPLATES);
        class.catch_up(cluster, profile);
        let minima = class.minima();
        let cluster = &*cluster;
        let devices = devices_of(cluster, profile, &pod.template)?;
        let judge = Judge { class, cluster, profile, pod, need, devices, minima: &minima, state: OnceCell::new() };
        let nodes: Vec<NodeId> =
            cluster.nodes.ids().filter(|id| class.alone(*id).is_none() && judge.rejection(*id).is_none()).collect();
        let mut totals = if nodes.len() > 1 { totals(judge.class, cluster, profile, &nodes) } else { Vec::new() };
        let weight = profile.weight(Plugin::DynamicResources);
        if let Some(need) = judge.devices.as_ref().filter(|_| nodes.len() > 1 && weight != 0) {
            let of = |id: &NodeId| cluster.nodes.info(*id).map_or(0, |node| cluster.world.devices.score(need, node));
            let mut column: Vec<i64> = nodes.iter().map(of).collect();
            score::normalise_default(&mut column, false);
            totals.iter_mut().zip(column).for_each(|(t, s)| *t += weight * s);
        }
        Ok(Ranking { nodes, totals })
    }

    /// Why a pod that `rank` found no node for fits nowhere.
    pub fn diagnose(
        &mut self,
        cluster: &mut Cluster,
        profiles: &[Profile],
        profile: usize,
        pod: &PodInfo,
    ) -> Diagnosis {
        let (index, profile) = (profile, &profiles[profile]);
        let mut out = Diagnosis { nodes: cluster.nodes.len(), ..Diagnosis::default() };
        let need = match need(cluster, profile, pod) {
            Ok(need) => need,
            Err(unready) => {
                out.unready = Some(unready);
                return out;
            }
        };
        let names = only_names(pod, profile);
        let key = self.class(cluster, profile, index, pod);
        let Some(class) = self.classes.get_mut(&key) else { return out };
        class.catch_up(cluster, profile);
        let minima = class.minima();
        let cluster = &*cluster;
        let devices = match devices_of(cluster, profile, &pod.template) {
            Ok(devices) => devices,
            Err(unready) => {
                out.unready = Some(unready);
                return out;
            }
        };
        let judge = Judge { class, cluster, profile, pod, need, devices, minima: &minima, state: OnceCell::new() };
        out.rejections.reserve(out.nodes);
        for id in cluster.nodes.ids() {
            let elsewhere = names.as_ref().is_some_and(|n| !n.contains(&**cluster.nodes.name(id)));
            let rejection = if elsewhere {
                Some(Rejection::unresolvable(Plugin::NodeAffinity, "node(s) didn't satisfy plugin(s) [NodeAffinity]"))
            } else {
                judge.rejection(id)
            };
            out.rejections.extend(rejection.map(|r| (id, r)));
        }
        out
    }

    fn class(&mut self, cluster: &mut Cluster, profile: &Profile, index: usize, pod: &PodInfo) -> (TemplateId, usize) {
        let id = cluster.counters.intern(&pod.template, &cluster.world.namespaces);
        let key = (id, index);
        if self.classes.get_mut(&key).is_some_and(|c| c.is_outdated(cluster))
            && let Some(old) = self.classes.remove(&key)
        {
            old.release(cluster);
        }
        if !self.classes.contains_key(&key) {
            self.make_room(cluster);
            let template = cluster.counters.template(id).clone();
            self.classes.insert(key, Class::new(template, profile, cluster));
        }
        key
    }

    fn make_room(&mut self, cluster: &mut Cluster) {
        let rows = |classes: &HashMap<_, Class>| classes.values().map(Class::rows).sum::<usize>();
        while self.classes.len() >= MAX_CLASSES || rows(&self.classes) + cluster.nodes.slots() > MAX_CACHED_ROWS {
            let Some(key) = self.classes.iter().min_by_key(|(_, c)| c.used).map(|(k, _)| *k) else { return };
            if let Some(old) = self.classes.remove(&key) {
                old.release(cluster);
            }
        }
    }
}

/// What must be done for a pod's volumes and claims of devices on a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodePlan {
    /// For its volumes.
    pub volumes: VolumePlan,
    /// What its claims get.
    pub grants: Vec<Grant>,
}

/// What a pod's volumes and claims of devices would need on a node.
///
/// # Errors
/// When the node rejects the pod after all, or they are not ready.
pub fn node_plan(cluster: &Cluster, profile: &Profile, pod: &PodInfo, node: NodeId) -> Result<NodePlan, String> {
    if pod.template.volumes.is_empty() && pod.template.claims.is_empty() {
        return Ok(NodePlan::default());
    }
    let state = CycleState::new(cluster, profile, &pod.template).map_err(|u| u.reason)?;
    let view = NodeView::of(cluster, node).ok_or("the node is gone")?;
    let why = |r: Rejection| r.reason.into_owned();
    Ok(NodePlan { volumes: state.filter(&view).map_err(why)?, grants: state.grants(view.info).map_err(why)? })
}

fn need(cluster: &Cluster, profile: &Profile, pod: &PodInfo) -> Result<Option<Need>, Unready> {
    let others = cluster.all_placed().map(|p| &*p.info.template);
    cluster.world.volumes.prepare(&pod.template, profile.filters, others)
}

fn only_names(pod: &PodInfo, profile: &Profile) -> Option<std::collections::BTreeSet<String>> {
    profile.filters.contains(Plugin::NodeAffinity).then(|| pod.template.allowed_names()).flatten()
}

/// Ranks a few nodes without keeping anything: a class for each pod of a DaemonSet would cost more than it saves.
fn rank_few(cluster: &Cluster, profile: &Profile, pod: &PodInfo, ids: &[NodeId]) -> Result<Ranking, Unready> {
    let state = CycleState::new(cluster, profile, &pod.template)?;
    let views = ids.iter().filter_map(|id| NodeView::of(cluster, *id));
    let fits = |v: &NodeView<'_>| {
        let first = cluster.nominated_before(&v.info.name, pod);
        state.filter(v).is_ok() && by_nominated(&state, &first, v.clone()).is_none()
    };
    let feasible: Vec<NodeView<'_>> = views.filter(fits).collect();
    let totals =
        if feasible.len() > 1 { state.score(&feasible).into_iter().map(|s| s.total).collect() } else { vec![] };
    Ok(Ranking { nodes: feasible.iter().map(|v| v.id).collect(), totals })
}

/// Why a node does not take a pod once these are on it.
fn by_nominated(state: &CycleState<'_>, first: &[Arc<PodInfo>], mut view: NodeView<'_>) -> Option<Rejection> {
    let mut state = state.clone();
    first.iter().for_each(|p| state.add(&mut view, p));
    state.filter(&view).err()
}

struct Judge<'a> {
    class: &'a Class,
    cluster: &'a Cluster,
    profile: &'a Profile,
    pod: &'a PodInfo,
    need: Option<Need>,
    devices: Option<devices::Need<'a>>,
    minima: &'a [i64],
    /// Made for the first node that has nominated pods.
    state: OnceCell<Option<CycleState<'a>>>,
}

impl Judge<'_> {
    fn rejection(&self, id: NodeId) -> Option<Rejection> {
        if let Some(r) = self.class.alone(id) {
            return Some(r.clone());
        }
        let info = self.cluster.nodes.info(id)?;
        if let Some(need) = &self.need {
            let pods = self.cluster.nodes.pods(id).iter().map(|p| &*p.template);
            let judged = self.cluster.world.volumes.filter(need, &self.pod.template, self.profile.filters, info, pods);
            if let Err(r) = judged {
                return Some(r);
            }
        }
        let together = self.class.together(id, self.cluster, self.profile, self.minima);
        let devices = || self.cluster.world.devices.filter(self.devices.as_ref()?, info).err();
        together.or_else(devices).or_else(|| self.by_nominated(id))
    }

    /// Why a node does not take the pod once the pods nominated to it that come first are on it.
    fn by_nominated(&self, id: NodeId) -> Option<Rejection> {
        if self.cluster.nominated.is_empty() {
            return None;
        }
        let first = self.cluster.nominated_before(self.cluster.nodes.name(id), self.pod);
        if first.is_empty() {
            return None;
        }
        // Mostly it is the room that they take, which the node's sums tell without a look at its pods.
        let mut usage = self.cluster.nodes.usage(id).clone();
        first.iter().for_each(|p| usage.add(&p.template));
        let template = &self.pod.template;
        if let Some(r) = fit::room(template, self.profile, self.cluster.nodes.info(id)?, &usage) {
            return Some(r);
        }
        let state = self.state.get_or_init(|| CycleState::new(self.cluster, self.profile, template).ok());
        by_nominated(state.as_ref()?, &first, NodeView::of(self.cluster, id)?)
    }
}

fn totals(class: &Class, cluster: &Cluster, profile: &Profile, nodes: &[NodeId]) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    for (plugin, _) in Plugin::ALL.into_iter().filter(|(p, _)| profile.weight(*p) != 0) {
        let column = match plugin {
            Plugin::PodTopologySpread => class.spread_scores(nodes, cluster),
            _ => class.raw(plugin, nodes, cluster),
        };
        let Some(mut column) = column else { continue };
        match plugin {
            Plugin::TaintToleration => score::normalise_default(&mut column, true),
            Plugin::NodeAffinity => score::normalise_default(&mut column, false),
            Plugin::InterPodAffinity => inter_pod::normalise(&mut column),
            _ => {}
        }
        let weight = profile.weight(plugin);
        totals.iter_mut().zip(column).for_each(|(t, s)| *t += weight * s);
    }
    totals
}
