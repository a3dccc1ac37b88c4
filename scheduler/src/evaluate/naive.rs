//! Evaluation from scratch, in upstream's shape: gather what a pod's constraints count, filter each node, score the
//! feasible ones. The oracle of the incremental evaluator, and the way to ask "what if" (preemption, nominated pods,
//! `explain`): counts can be changed by a pod that is not, or no longer, there.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::cluster::nodes::NodeId;
use crate::config::profile::Profile;
use crate::model::node::NodeInfo;
use crate::model::pod::PodInfo;
use crate::model::template::Template;
use crate::plugins::devices::{self, Grant};
use crate::plugins::fit::Usage;
use crate::plugins::spread::{self, Constraint, Constraints};
use crate::plugins::volumes::{Need, Unready, VolumePlan};
use crate::plugins::{Plugin, Rejection, affinity, features, fit, images, inter_pod, score, taints};

/// A node with its pods, which can be changed to ask "what if".
#[derive(Debug, Clone)]
pub struct NodeView<'a> {
    /// Slot of the node.
    pub id: NodeId,
    /// What its object says.
    pub info: &'a NodeInfo,
    /// Its pods.
    pub pods: Vec<Arc<PodInfo>>,
    usage: Usage,
}

impl<'a> NodeView<'a> {
    /// A node as it is; `None` when its object is gone.
    pub fn of(cluster: &'a Cluster, id: NodeId) -> Option<Self> {
        let mut view = Self { id, info: cluster.nodes.info(id)?, pods: Vec::new(), usage: Usage::default() };
        for pod in cluster.nodes.pods(id) {
            view.add(pod.clone());
        }
        Some(view)
    }

    /// Adds a pod.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.usage.add(&pod.template);
        self.pods.push(pod);
    }

    /// Removes a pod.
    pub fn remove(&mut self, pod: &PodInfo) {
        if let Some(i) = self.pods.iter().position(|p| p.key == pod.key) {
            self.usage.remove(&pod.template);
            self.pods.swap_remove(i);
        }
    }
}

type PerDomain = HashMap<(String, String), i64>;

/// What a pod's constraints count, over the whole cluster.
#[derive(Clone)]
pub struct CycleState<'a> {
    cluster: &'a Cluster,
    profile: &'a Profile,
    template: &'a Template,
    constraints: Constraints,
    /// Per hard constraint: count per value of its key.
    hard: Vec<BTreeMap<String, i64>>,
    affinity: PerDomain,
    anti_affinity: PerDomain,
    forbidden: PerDomain,
    need: Option<Need>,
    devices: Option<Rc<devices::Need<'a>>>,
}

/// Scores of one node: weighted, by plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeScore {
    /// The node.
    pub node: NodeId,
    /// Weighted score of each scoring plugin.
    pub by_plugin: BTreeMap<Plugin, i64>,
    /// Their sum.
    pub total: i64,
}

impl<'a> CycleState<'a> {
    /// Gathers the counts.
    ///
    /// # Errors
    /// When the pod's volumes keep it from every node.
    pub fn new(cluster: &'a Cluster, profile: &'a Profile, template: &'a Template) -> Result<Self, Unready> {
        let need = cluster.world.volumes.prepare(
            template,
            profile.filters,
            cluster.all_placed().map(|p| &*p.info.template),
        )?;
        let devices = devices_of(cluster, profile, template)?.map(Rc::new);
        let selector = cluster.world.selectors.of(template);
        let constraints = Constraints::of(template, profile, Some(&selector));
        let hard = vec![BTreeMap::new(); constraints.hard.len()];
        let mut state = Self {
            cluster,
            profile,
            template,
            constraints,
            hard,
            affinity: HashMap::new(),
            anti_affinity: HashMap::new(),
            forbidden: HashMap::new(),
            need,
            devices,
        };
        state.gather();
        Ok(state)
    }

    fn gather(&mut self) {
        let spread = self.profile.filters.contains(Plugin::PodTopologySpread) && !self.hard.is_empty();
        let own_terms = !(self.template.affinity.is_empty() && self.template.anti_affinity.is_empty());
        for id in self.cluster.nodes.ids() {
            let Some(info) = self.cluster.nodes.info(id) else { continue };
            if spread {
                self.open_domains(info);
            }
            if spread || own_terms || !self.cluster.nodes.affine(id).is_empty() {
                for pod in self.cluster.nodes.pods(id) {
                    self.count(info, pod, 1);
                }
            }
        }
    }

    fn open_domains(&mut self, node: &NodeInfo) {
        if spread::has_keys(&self.constraints.hard, node) {
            for (c, counts) in self.constraints.hard.iter().zip(&mut self.hard) {
                if c.includes(self.template, node) {
                    counts.entry(node.labels[&c.key].clone()).or_default();
                }
            }
        }
    }

    /// Counts a pod on a node in (1) or out (-1) of domains.
    fn count(&mut self, node: &NodeInfo, pod: &PodInfo, by: i64) {
        let (t, other, namespaces) = (self.template, &*pod.template, &self.cluster.world.namespaces);
        if spread::has_keys(&self.constraints.hard, node) && !pod.terminating {
            for (c, counts) in self.constraints.hard.iter().zip(&mut self.hard) {
                if counted(c, other, self.cluster) && c.includes(t, node) {
                    *counts.entry(node.labels[&c.key].clone()).or_default() += by;
                }
            }
        }
        let bump = |map: &mut PerDomain, key: &str| {
            if let Some(value) = node.labels.get(key) {
                *map.entry((key.to_string(), value.clone())).or_default() += by;
            }
        };
        if inter_pod::meets_all(t, other, namespaces) {
            t.affinity.iter().for_each(|term| bump(&mut self.affinity, &term.topology_key));
        }
        for term in &t.anti_affinity {
            if term.pods.matches(&other.namespace, &other.labels, namespaces) {
                bump(&mut self.anti_affinity, &term.topology_key);
            }
        }
        for say in inter_pod::says(other, t, self.profile, namespaces) {
            if say.forbids > 0 {
                bump(&mut self.forbidden, &say.key);
            }
        }
    }

    /// What if this pod were on the node.
    pub fn add(&mut self, view: &mut NodeView<'_>, pod: &Arc<PodInfo>) {
        self.count(view.info, pod, 1);
        if let Some(need) = &mut self.need {
            need.count(&pod.template, 1);
        }
        view.add(pod.clone());
    }

    /// What if this pod were not on the node.
    pub fn remove(&mut self, view: &mut NodeView<'_>, pod: &Arc<PodInfo>) {
        self.count(view.info, pod, -1);
        if let Some(need) = &mut self.need {
            need.count(&pod.template, -1);
        }
        view.remove(pod);
    }

    /// Judges a node by all filters in order; the first that rejects it ends it.
    ///
    /// # Errors
    /// That filter's rejection.
    pub fn filter(&self, view: &NodeView<'_>) -> Result<VolumePlan, Rejection> {
        let (t, profile, node) = (self.template, self.profile, view.info);
        let on = |p: Plugin| profile.filters.contains(p);
        let first = |p: Plugin, r: &dyn Fn() -> Option<Rejection>| match on(p).then(r).flatten() {
            Some(r) => Err(r),
            None => Ok(()),
        };
        first(Plugin::NodeUnschedulable, &|| taints::unschedulable(t, node))?;
        first(Plugin::TaintToleration, &|| taints::filter(t, node))?;
        first(Plugin::NodeAffinity, &|| affinity::filter(t, profile, node))?;
        fit::room(t, profile, node, &view.usage).map_or(Ok(()), Err)?;
        let plan = match &self.need {
            Some(need) => {
                let pods = view.pods.iter().map(|p| &*p.template);
                self.cluster.world.volumes.filter(need, t, profile.filters, node, pods)?
            }
            None => VolumePlan::default(),
        };
        first(Plugin::PodTopologySpread, &|| self.spread(node))?;
        first(Plugin::InterPodAffinity, &|| self.inter_pod(node))?;
        first(Plugin::NodeDeclaredFeatures, &|| features::filter(t, node))?;
        // Last, as it costs most.
        self.grants(node)?;
        Ok(plan)
    }

    /// What the pod's claims of devices would get on a node.
    ///
    /// # Errors
    /// When they cannot all be had there.
    pub fn grants(&self, node: &NodeInfo) -> Result<Vec<Grant>, Rejection> {
        self.devices.as_ref().map_or(Ok(Vec::new()), |need| self.cluster.world.devices.filter(need, node))
    }

    fn spread(&self, node: &NodeInfo) -> Option<Rejection> {
        self.constraints.hard.iter().zip(&self.hard).find_map(|(c, counts)| {
            let value = node.labels.get(&c.key);
            let count = value.map(|v| counts.get(v).copied().unwrap_or(0));
            spread::check(c, count, spread::minimum(c, counts.values().copied()))
        })
    }

    fn inter_pod(&self, node: &NodeInfo) -> Option<Rejection> {
        let (t, namespaces) = (self.template, &self.cluster.world.namespaces);
        let at = |map: &PerDomain, key: &str| {
            let value = node.labels.get(key)?;
            Some(map.get(&(key.to_string(), value.clone())).copied().unwrap_or(0))
        };
        let violates = |map: &PerDomain| {
            map.iter().any(|((key, value), n)| *n > 0 && node.labels.get(key).is_some_and(|v| v == value))
        };
        inter_pod::check(inter_pod::Domains {
            affinity: &mut t.affinity.iter().map(|term| at(&self.affinity, &term.topology_key)),
            may_be_first: self.affinity.values().all(|n| *n == 0) && inter_pod::meets_all(t, t, namespaces),
            violates_own: violates(&self.anti_affinity),
            forbidden: violates(&self.forbidden),
        })
    }

    /// Scores feasible nodes.
    pub fn score(&self, feasible: &[NodeView<'_>]) -> Vec<NodeScore> {
        let (t, profile) = (self.template, self.profile);
        let each = |f: &dyn Fn(&NodeView<'_>) -> i64| feasible.iter().map(f).collect::<Vec<i64>>();
        let nodes = self.cluster.nodes.len();
        let mut columns: Vec<(Plugin, Vec<i64>)> = Vec::new();
        for (plugin, _) in Plugin::ALL.into_iter().filter(|(p, _)| profile.weight(*p) != 0) {
            let mut column = match plugin {
                Plugin::TaintToleration => each(&|v| taints::score(t, v.info)),
                Plugin::NodeAffinity => each(&|v| affinity::score(t, profile, v.info)),
                Plugin::NodeResourcesFit => each(&|v| fit::score(t, profile, v.info, &v.usage)),
                Plugin::NodeResourcesBalancedAllocation if fit::is_balanced_scored(t, &profile.balanced) => {
                    each(&|v| fit::balanced(t, &profile.balanced, v.info, &v.usage))
                }
                Plugin::ImageLocality => each(&|v| {
                    let state = |name: &str| Some((*v.info.images.get(name)?, self.nodes_with_image(name)));
                    images::score(t, nodes, state)
                }),
                Plugin::PodTopologySpread => self.spread_scores(feasible),
                Plugin::InterPodAffinity => self.inter_pod_scores(feasible),
                Plugin::DynamicResources => match &self.devices {
                    Some(need) => each(&|v| self.cluster.world.devices.score(need, v.info)),
                    None => continue,
                },
                _ => continue,
            };
            match plugin {
                Plugin::TaintToleration => score::normalise_default(&mut column, true),
                Plugin::NodeAffinity | Plugin::DynamicResources => score::normalise_default(&mut column, false),
                Plugin::InterPodAffinity => inter_pod::normalise(&mut column),
                _ => {}
            }
            columns.push((plugin, column));
        }
        let scored = |(i, v): (usize, &NodeView<'_>)| {
            let by_plugin: BTreeMap<Plugin, i64> =
                columns.iter().map(|(p, c)| (*p, c[i] * profile.weight(*p))).collect();
            NodeScore { node: v.id, total: by_plugin.values().sum(), by_plugin }
        };
        feasible.iter().enumerate().map(scored).collect()
    }

    fn nodes_with_image(&self, name: &str) -> u32 {
        let has = |id: &NodeId| self.cluster.nodes.info(*id).is_some_and(|n| n.images.contains_key(name));
        u32::try_from(self.cluster.nodes.ids().filter(has).count()).unwrap_or(u32::MAX)
    }

    fn spread_scores(&self, feasible: &[NodeView<'_>]) -> Vec<i64> {
        let soft = &self.constraints.soft;
        if soft.is_empty() {
            return vec![0; feasible.len()];
        }
        let strict = self.constraints.soft_needs_all_keys;
        let scored: Vec<bool> = feasible.iter().map(|v| !strict || spread::has_keys(soft, v.info)).collect();
        let candidates = || feasible.iter().zip(&scored).filter(|(_, s)| **s).map(|(v, _)| v);
        let mut sums = vec![0.0; feasible.len()];
        for c in soft {
            let value = |n: &NodeInfo| n.labels.get(&c.key).cloned().unwrap_or_default();
            let mut domains: BTreeMap<String, i64> = candidates().map(|v| (value(v.info), 0)).collect();
            let host = c.key == spread::HOSTNAME;
            let weight = spread::domain_weight(if host { candidates().count() } else { domains.len() });
            if !host {
                self.count_domains(c, strict.then_some(soft), &mut domains);
            }
            for (i, v) in feasible.iter().enumerate().filter(|(i, _)| scored[*i]) {
                let Some(mine) = v.info.labels.get(&c.key) else { continue };
                let count = if host { self.matching(c, v.id) } else { domains[mine] };
                sums[i] += spread::part(c, count, weight);
            }
        }
        let raw: Vec<Option<i64>> = sums.iter().zip(&scored).map(|(s, ok)| ok.then_some((*s).round() as i64)).collect();
        let mut out = Vec::new();
        spread::normalise(&raw, &mut out);
        out
    }

    fn count_domains(&self, c: &Constraint, all_keys: Option<&Vec<Constraint>>, domains: &mut BTreeMap<String, i64>) {
        for id in self.cluster.nodes.ids() {
            let Some(info) = self.cluster.nodes.info(id) else { continue };
            if all_keys.is_some_and(|all| !spread::has_keys(all, info)) || !c.includes(self.template, info) {
                continue;
            }
            if let Some(n) = domains.get_mut(info.labels.get(&c.key).map_or("", String::as_str)) {
                *n += self.matching(c, id);
            }
        }
    }

    /// Live pods of a node that a constraint counts.
    fn matching(&self, c: &Constraint, node: NodeId) -> i64 {
        let pods = self.cluster.nodes.pods(node).iter().filter(|p| !p.terminating);
        i64::try_from(pods.filter(|p| counted(c, &p.template, self.cluster)).count()).unwrap_or(i64::MAX)
    }

    fn inter_pod_scores(&self, feasible: &[NodeView<'_>]) -> Vec<i64> {
        let (t, namespaces) = (self.template, &self.cluster.world.namespaces);
        let mut sums: PerDomain = HashMap::new();
        for id in self.cluster.nodes.ids() {
            let Some(info) = self.cluster.nodes.info(id) else { continue };
            let mut bump = |key: &str, weight: i64| {
                if let Some(value) = info.labels.get(key) {
                    *sums.entry((key.to_string(), value.clone())).or_default() += weight;
                }
            };
            for pod in self.cluster.nodes.pods(id) {
                let other = &*pod.template;
                for w in &t.preferred {
                    if w.term.pods.matches(&other.namespace, &other.labels, namespaces) {
                        bump(&w.term.topology_key, w.weight);
                    }
                }
                for say in inter_pod::says(other, t, self.profile, namespaces) {
                    bump(&say.key, say.weight);
                }
            }
        }
        let of = |v: &NodeView<'_>| {
            let here = sums.iter().filter(|((key, value), _)| v.info.labels.get(key) == Some(value));
            here.map(|(_, n)| n).sum()
        };
        feasible.iter().map(of).collect()
    }
}

/// What a pod needs of devices.
///
/// # Errors
/// When its claims keep it from every node.
pub fn devices_of<'a>(
    cluster: &'a Cluster,
    profile: &Profile,
    template: &'a Template,
) -> Result<Option<devices::Need<'a>>, Unready> {
    if !profile.filters.contains(Plugin::DynamicResources) {
        return Ok(None);
    }
    let unready = |reason| Unready { plugin: Plugin::DynamicResources, reason };
    cluster.world.devices.prepare(template).map_err(unready)
}

fn counted(c: &Constraint, other: &Template, cluster: &Cluster) -> bool {
    c.counted.as_ref().is_some_and(|m| m.matches(&other.namespace, &other.labels, &cluster.world.namespaces))
}
