//! Kept answers of one equivalence class: per node the verdict and score of what the node alone decides, and per domain
//! the sums of what spreading and pod affinity count.
//!
//! `refresh` recomputes one node's part; who owns the class calls it for every node that changed since the class was last
//! used. A verdict is then a matter of looking up a few numbers.

use std::collections::HashMap;
use std::sync::Arc;

use super::sums::Sum;
use crate::cluster::Cluster;
use crate::cluster::counters::{CounterId, Rule, TemplateId};
use crate::cluster::nodes::NodeId;
use crate::cluster::topology::TopologyId;
use crate::config::profile::Profile;
use crate::model::node::NodeInfo;
use crate::model::template::{PodMatch, Template, Term, WeightedTerm};
use crate::objects::selector::LabelSelector;
use crate::plugins::spread::{self, Constraint, Constraints};
use crate::plugins::{Plugin, Rejection, affinity, features, fit, images, inter_pod, taints};

/// A constraint with what it counts.
struct Spread {
    constraint: Constraint,
    counter: Option<CounterId>,
    /// Whether the constraint's policies include each node; kept because they depend on the node's object alone.
    included: Vec<bool>,
    sum: Sum,
}

/// A term of the pod with what it counts.
struct Counted {
    counter: CounterId,
    weight: i64,
    topology: TopologyId,
}

/// What a node alone decides.
#[derive(Debug, Clone, Default)]
struct Row {
    generation: u64,
    fixed: Option<Rejection>,
    usage: Option<Rejection>,
    taints: i64,
    affinity: i64,
    image: i64,
    fit: i64,
    balanced: i64,
}

/// One class.
pub struct Class {
    /// The template.
    pub template: Arc<Template>,
    /// Position in the cluster's log of changes up to which the class is right; `None` before the first use.
    pub position: Option<u64>,
    epoch: u64,
    selector: LabelSelector,
    selectors_epoch: u64,
    /// When it was last used, in evaluations.
    pub used: u64,
    images_generation: u64,
    rows: Vec<Row>,
    soft_needs_all_keys: bool,
    hard: Vec<Spread>,
    soft: Vec<Spread>,
    meets_all: Option<CounterId>,
    meets_itself: bool,
    affinity: Vec<Sum>,
    anti_affinity: Vec<(CounterId, Sum)>,
    preferred: Vec<Counted>,
    heard: HashMap<TemplateId, Vec<(TopologyId, i64, i64)>>,
    forbidden: Vec<Sum>,
    weights: Vec<Sum>,
}

fn topology(cluster: &mut Cluster, key: &str) -> TopologyId {
    let nodes = &cluster.nodes;
    let known = nodes.ids().filter_map(|id| Some((id, nodes.info(id)?)));
    cluster.topologies.register(key, known)
}

fn counter(cluster: &mut Cluster, pods: &PodMatch, live_only: bool) -> CounterId {
    cluster.count_pods(Rule { all_of: vec![pods.clone()], live_only })
}

impl Class {
    /// A class with nothing computed yet. Registers what it counts; `release` ends that.
    pub fn new(template: Arc<Template>, profile: &Profile, cluster: &mut Cluster) -> Self {
        let selector = cluster.world.selectors.of(&template);
        let constraints = Constraints::of(&template, profile, Some(&selector));
        let mut spread = |list: Vec<Constraint>| -> Vec<Spread> {
            let one = |c: Constraint| Spread {
                counter: c.counted.as_ref().map(|m| counter(cluster, m, true)),
                included: Vec::new(),
                sum: Sum::new(topology(cluster, &c.key)),
                constraint: c,
            };
            list.into_iter().map(one).collect()
        };
        let (hard, soft) = (spread(constraints.hard), spread(constraints.soft));
        let all_of: Vec<PodMatch> = template.affinity.iter().map(|t| t.pods.clone()).collect();
        let meets_all = (!all_of.is_empty()).then(|| cluster.count_pods(Rule { all_of, live_only: false }));
        let affinity = template.affinity.iter().map(|t| Sum::new(topology(cluster, &t.topology_key))).collect();
        let anti = |t: &Term| (counter(cluster, &t.pods, false), Sum::new(topology(cluster, &t.topology_key)));
        let anti_affinity = template.anti_affinity.iter().map(anti).collect();
        let prefer = |w: &WeightedTerm| Counted {
            counter: counter(cluster, &w.term.pods, false),
            weight: w.weight,
            topology: topology(cluster, &w.term.topology_key),
        };
        let preferred: Vec<Counted> = template.preferred.iter().map(prefer).collect();
        let mut weights: Vec<Sum> = Vec::new();
        for p in &preferred {
            if !weights.iter().any(|s| s.topology == p.topology) {
                weights.push(Sum::new(p.topology));
            }
        }
        Self {
            meets_itself: inter_pod::meets_all(&template, &template, &cluster.world.namespaces),
            position: None,
            epoch: cluster.world.epoch,
            selectors_epoch: cluster.world.selectors.epoch(&template.namespace),
            selector,
            used: 0,
            images_generation: 0,
            rows: Vec::new(),
            soft_needs_all_keys: constraints.soft_needs_all_keys,
            hard,
            soft,
            meets_all,
            affinity,
            anti_affinity,
            preferred,
            heard: HashMap::new(),
            forbidden: Vec::new(),
            weights,
            template,
        }
    }

    /// Whether it was built for labels of namespaces or a default selector that are no longer so.
    pub fn is_outdated(&mut self, cluster: &Cluster) -> bool {
        let selectors = &cluster.world.selectors;
        let epoch = selectors.epoch(&self.template.namespace);
        if self.selectors_epoch != epoch {
            self.selectors_epoch = epoch;
            if self.selector != selectors.of(&self.template) {
                return true;
            }
        }
        self.epoch != cluster.world.epoch
    }

    /// Ends the use of counters.
    pub fn release(&self, cluster: &mut Cluster) {
        let spread = self.hard.iter().chain(&self.soft).filter_map(|s| s.counter);
        let anti = self.anti_affinity.iter().map(|(c, _)| *c);
        for id in spread.chain(self.meets_all).chain(anti).chain(self.preferred.iter().map(|p| p.counter)) {
            cluster.counters.release(id);
        }
    }

    /// Memory held, in rows.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Brings the class up to date with the cluster.
    pub fn catch_up(&mut self, cluster: &mut Cluster, profile: &Profile) {
        let position = cluster.position();
        if self.position == Some(position) && self.images_generation == cluster.nodes.images_generation() {
            return;
        }
        let slots = cluster.nodes.slots();
        self.rows.resize_with(slots, Row::default);
        for s in self.hard.iter_mut().chain(&mut self.soft) {
            s.included.resize(slots, false);
        }
        match self.position.and_then(|p| cluster.changes_since(p)).map(<[NodeId]>::to_vec) {
            Some(mut touched) => {
                touched.sort_unstable();
                touched.dedup();
                touched.into_iter().for_each(|n| self.refresh(n, cluster, profile));
            }
            None => (0..slots).for_each(|n| self.refresh(n, cluster, profile)),
        }
        if self.images_generation != cluster.nodes.images_generation() {
            self.images_generation = cluster.nodes.images_generation();
            for id in 0..slots {
                self.rows[id].image = image_score(&self.template, cluster, id);
            }
        }
        self.position = Some(position);
    }

    fn refresh(&mut self, id: NodeId, cluster: &mut Cluster, profile: &Profile) {
        self.listen(id, cluster, profile);
        let Some(info) = cluster.nodes.info(id) else {
            self.forget(id);
            return;
        };
        if self.rows[id].generation != cluster.nodes.generation(id) {
            self.rows[id].generation = cluster.nodes.generation(id);
            self.refresh_fixed(id, info, profile);
            self.rows[id].image = image_score(&self.template, cluster, id);
        }
        let (t, usage, row) = (&self.template, cluster.nodes.usage(id), &mut self.rows[id]);
        row.usage = fit::room(t, profile, info, usage);
        if profile.weight(Plugin::NodeResourcesFit) != 0 {
            row.fit = fit::score(t, profile, info, usage);
        }
        let balanced = profile.weight(Plugin::NodeResourcesBalancedAllocation) != 0;
        if balanced && fit::is_balanced_scored(t, &profile.balanced) {
            row.balanced = fit::balanced(t, &profile.balanced, info, usage);
        }
        self.refresh_sums(id, info, cluster);
    }

    fn refresh_fixed(&mut self, id: NodeId, info: &NodeInfo, profile: &Profile) {
        let (t, row) = (&self.template, &mut self.rows[id]);
        let on = |p: Plugin| profile.filters.contains(p);
        row.fixed = on(Plugin::NodeUnschedulable)
            .then(|| taints::unschedulable(t, info))
            .flatten()
            .or_else(|| on(Plugin::TaintToleration).then(|| taints::filter(t, info)).flatten())
            .or_else(|| on(Plugin::NodeAffinity).then(|| affinity::filter(t, profile, info)).flatten());
        row.taints = taints::score(t, info);
        row.affinity = affinity::score(t, profile, info);
        for (list, all) in [(&mut self.hard, true), (&mut self.soft, self.soft_needs_all_keys)] {
            let keys = !all || list.iter().all(|s| info.labels.contains_key(&s.constraint.key));
            for s in list {
                s.included[id] = keys && s.constraint.includes(t, info);
            }
        }
    }

    fn refresh_sums(&mut self, id: NodeId, info: &NodeInfo, cluster: &Cluster) {
        let domain = |t: TopologyId| cluster.topologies.domain(t, id);
        let count = |c: CounterId| cluster.counters.on_node(c, id);
        for s in self.hard.iter_mut().chain(&mut self.soft) {
            let part = if s.included[id] { domain(s.sum.topology) } else { None };
            s.sum.set(id, part.map(|d| (d, s.counter.map_or(0, count))));
        }
        if let Some(c) = self.meets_all {
            for s in &mut self.affinity {
                s.set(id, domain(s.topology).map(|d| (d, count(c))));
            }
        }
        for (c, s) in &mut self.anti_affinity {
            s.set(id, domain(s.topology).map(|d| (d, count(*c))));
        }
        let affine = cluster.nodes.affine(id);
        let said = |topology: TopologyId, what: fn(&(TopologyId, i64, i64)) -> i64| -> i64 {
            let of = |(template, n): &(TemplateId, u32)| {
                let says = self.heard.get(template).into_iter().flatten().filter(|s| s.0 == topology);
                says.map(what).sum::<i64>() * i64::from(*n)
            };
            affine.iter().map(of).sum()
        };
        for s in &mut self.forbidden {
            s.set(id, domain(s.topology).map(|d| (d, said(s.topology, |say| say.1))));
        }
        for s in &mut self.weights {
            let own = self.preferred.iter().filter(|p| p.topology == s.topology);
            let own: i64 = own.map(|p| p.weight * count(p.counter)).sum();
            s.set(id, domain(s.topology).map(|d| (d, own + said(s.topology, |say| say.2))));
        }
        debug_assert!(!info.name.is_empty(), "a node has a name");
    }

    /// Learns what templates that are new on a node say of this class, and opens the sums that they need.
    fn listen(&mut self, id: NodeId, cluster: &mut Cluster, profile: &Profile) {
        let new: Vec<TemplateId> =
            cluster.nodes.affine(id).iter().map(|(t, _)| *t).filter(|t| !self.heard.contains_key(t)).collect();
        let mut topologies: Vec<(TopologyId, bool)> = Vec::new();
        for t in new {
            let other = cluster.counters.template(t).clone();
            let says = inter_pod::says(&other, &self.template, profile, &cluster.world.namespaces);
            let mut numbered = Vec::with_capacity(says.len());
            for s in says {
                let topology = topology(cluster, &s.key);
                topologies.push((topology, s.forbids > 0));
                numbered.push((topology, s.forbids, s.weight));
            }
            self.heard.insert(t, numbered);
        }
        for (topology, forbids) in topologies {
            let sums = if forbids { &mut self.forbidden } else { &mut self.weights };
            if !sums.iter().any(|s| s.topology == topology) {
                sums.push(Sum::new(topology));
            }
        }
    }

    fn forget(&mut self, id: NodeId) {
        self.rows[id] = Row::default();
        let spread = self.hard.iter_mut().chain(&mut self.soft).map(|s| &mut s.sum);
        let anti = self.anti_affinity.iter_mut().map(|(_, s)| s);
        for s in spread.chain(&mut self.affinity).chain(anti).chain(&mut self.forbidden).chain(&mut self.weights) {
            s.set(id, None);
        }
    }

    /// Drops what is known of templates, when many have come and gone. The next refresh learns again.
    pub fn trim(&mut self, max_heard: usize) {
        if self.heard.len() > max_heard {
            self.heard.clear();
            self.position = None;
        }
    }

    /// The part of a verdict that the node alone decides, up to the volume plugins.
    pub fn alone(&self, id: NodeId) -> Option<&Rejection> {
        let row = &self.rows[id];
        row.fixed.as_ref().or(row.usage.as_ref())
    }

    /// What domains' sums mean for all nodes at once.
    pub fn minima(&self) -> Vec<i64> {
        self.hard.iter().map(|s| spread::minimum(&s.constraint, s.sum.domains())).collect()
    }

    /// The part of a verdict that other nodes decide too: spreading, pod affinity; and what costs nothing.
    pub fn together(&self, id: NodeId, cluster: &Cluster, profile: &Profile, minima: &[i64]) -> Option<Rejection> {
        let on = |p: Plugin| profile.filters.contains(p);
        let domain = |t: TopologyId| cluster.topologies.domain(t, id);
        if on(Plugin::PodTopologySpread) {
            for (s, min) in self.hard.iter().zip(minima) {
                let count = domain(s.sum.topology).map(|d| s.sum.of(d));
                if let Some(r) = spread::check(&s.constraint, count, *min) {
                    return Some(r);
                }
            }
        }
        if on(Plugin::InterPodAffinity) {
            let here = |s: &Sum| domain(s.topology).is_some_and(|d| s.of(d) > 0);
            let rejection = inter_pod::check(inter_pod::Domains {
                affinity: &mut self.affinity.iter().map(|s| domain(s.topology).map(|d| s.of(d))),
                may_be_first: self.meets_itself && self.affinity.iter().all(Sum::is_zero),
                violates_own: self.anti_affinity.iter().any(|(_, s)| here(s)),
                forbidden: self.forbidden.iter().any(here),
            });
            if rejection.is_some() {
                return rejection;
            }
        }
        let info = cluster.nodes.info(id).filter(|_| on(Plugin::NodeDeclaredFeatures))?;
        features::filter(&self.template, info)
    }

    /// A plugin's scores of feasible nodes, not normalised, or `None` when it gives every node zero.
    pub fn raw(&self, plugin: Plugin, nodes: &[NodeId], cluster: &Cluster) -> Option<Vec<i64>> {
        let column = |of: fn(&Row) -> i64| Some(nodes.iter().map(|n| of(&self.rows[*n])).collect());
        match plugin {
            Plugin::TaintToleration => column(|r| r.taints),
            Plugin::NodeAffinity => column(|r| r.affinity),
            Plugin::NodeResourcesFit => column(|r| r.fit),
            Plugin::NodeResourcesBalancedAllocation => column(|r| r.balanced),
            Plugin::ImageLocality => column(|r| r.image),
            Plugin::InterPodAffinity if self.weights.iter().any(|s| !s.is_zero()) => {
                let part = |n: NodeId, s: &Sum| cluster.topologies.domain(s.topology, n).map_or(0, |d| s.of(d));
                Some(nodes.iter().map(|n| self.weights.iter().map(|s| part(*n, s)).sum()).collect())
            }
            _ => None,
        }
    }

    /// Normalised scores of PodTopologySpread, or `None` without soft constraints.
    pub fn spread_scores(&self, nodes: &[NodeId], cluster: &Cluster) -> Option<Vec<i64>> {
        if self.soft.is_empty() {
            return None;
        }
        let domain = |s: &Spread, n: NodeId| cluster.topologies.domain(s.sum.topology, n);
        let has_all = |n: NodeId| self.soft.iter().all(|s| domain(s, n).is_some());
        let scored: Vec<bool> = nodes.iter().map(|n| !self.soft_needs_all_keys || has_all(*n)).collect();
        let mut parts = vec![0.0; nodes.len()];
        for s in &self.soft {
            let host = s.constraint.key == spread::HOSTNAME;
            let candidates = nodes.iter().zip(&scored).filter(|(_, ok)| **ok).map(|(n, _)| *n);
            let domains = if host {
                candidates.count()
            } else {
                // One more for the nodes without the key, which are a domain of their own here.
                let mut seen = vec![false; cluster.topologies.domains(s.sum.topology) + 1];
                candidates.for_each(|n| seen[domain(s, n).map_or(0, |d| d as usize + 1)] = true);
                seen.into_iter().filter(|s| *s).count()
            };
            let weight = spread::domain_weight(domains);
            for (i, n) in nodes.iter().enumerate().filter(|(i, _)| scored[*i]) {
                let Some(d) = domain(s, *n) else { continue };
                let count = match s.counter {
                    Some(c) if host => cluster.counters.on_node(c, *n),
                    _ => s.sum.of(d),
                };
                parts[i] += spread::part(&s.constraint, count, weight);
            }
        }
        let raw: Vec<Option<i64>> =
            parts.iter().zip(&scored).map(|(p, ok)| ok.then_some((*p).round() as i64)).collect();
        let mut out = Vec::new();
        spread::normalise(&raw, &mut out);
        Some(out)
    }
}

fn image_score(t: &Template, cluster: &Cluster, id: NodeId) -> i64 {
    let Some(info) = cluster.nodes.info(id) else { return 0 };
    let state = |name: &str| Some((*info.images.get(name)?, cluster.nodes.image_nodes(name)));
    images::score(t, cluster.nodes.len(), state)
}
