//! One attempt to place a pod: rank, choose, assume; or diagnose, perhaps preempt, and put it back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use client::resources;
use rand::seq::IndexedRandom;
use serde_json::Value;

use super::Scheduler;
use super::extender::{self, Extender, MetaVictims};
use super::stats::Attempt;
use super::tasks::{Binding, Eviction};
use crate::cluster::nodes::NodeId;
use crate::config::profile::Profile;
use crate::evaluate::incremental::node_plan;
use crate::evaluate::{Diagnosis, Ranking};
use crate::model::pod::PodInfo;
use crate::plugins::{Plugin, Rejection};
use crate::preemption::{self, Candidate, Plan};
use crate::queue::Entry;

impl Scheduler {
    /// Tries the next pod. Returns false when there is none.
    pub(super) async fn attempt(&mut self) -> bool {
        let Some(entry) = self.queue.pop(self.now_ms()) else { return false };
        let Some(profile) = self.profile_of(&entry.info) else {
            self.queue.remove(&entry.info.key);
            return true;
        };
        let began = Instant::now();
        let ranking = self.evaluator.rank(&mut self.cluster, &self.profiles, profile, &entry.info);
        let mut ranking = ranking.unwrap_or_default();
        let mut refused = Vec::new();
        if !self.extenders.is_empty() && !ranking.nodes.is_empty() {
            refused = match self.extend(&entry.info, &mut ranking).await {
                Ok(refused) => refused,
                Err(why) => {
                    self.error(&entry.info, &why);
                    return true;
                }
            };
        }
        self.stats.algorithm(began.elapsed());
        let chosen = ranking.best().choose(&mut rand::rng()).copied();
        match chosen {
            Some(node) => self.assume(&entry, profile, node, began),
            None => self.reject(&entry, profile, refused, began).await,
        }
        true
    }

    /// Asks extenders: what they refuse leaves the ranking, what they score is added. Returns what they refused.
    async fn extend(&self, pod: &PodInfo, ranking: &mut Ranking) -> Result<Vec<(NodeId, Rejection)>, String> {
        let interested: Vec<&Extender> = self.extenders.iter().filter(|e| e.is_interested(pod)).collect();
        if interested.is_empty() {
            return Ok(Vec::new());
        }
        let object = extender::pod(&self.client, pod).await?;
        let mut nodes = extender::all(&self.client, &resources::NODES).await?;
        let id_of = |n: &Value| self.cluster.nodes.id(n["metadata"]["name"].as_str().unwrap_or_default());
        let mut totals: BTreeMap<NodeId, i64> = ranking.nodes.iter().map(|id| (*id, 0)).collect();
        totals.extend(ranking.nodes.iter().copied().zip(ranking.totals.iter().copied()));
        let mut refused = Vec::new();
        for e in &interested {
            nodes.retain(|n| id_of(n).is_some_and(|id| totals.contains_key(&id)));
            let Some(left) = e.unless_ignored(pod, e.filter(&object, &nodes).await)? else { continue };
            let keep: BTreeSet<NodeId> = left.nodes.iter().filter_map(|n| self.cluster.nodes.id(n)).collect();
            for id in totals.keys().filter(|id| !keep.contains(id)) {
                let why = left.failed.get(&**self.cluster.nodes.name(*id));
                let (reason, unresolvable) = why.cloned().unwrap_or(("an extender refused it".into(), false));
                // No plugin stands for extenders; see `Diagnosis::extended`.
                let plugin = Plugin::DefaultBinder;
                refused.push((*id, Rejection { plugin, unresolvable, reason: reason.into(), more: Vec::new() }));
            }
            totals.retain(|id, _| keep.contains(id));
        }
        nodes.retain(|n| id_of(n).is_some_and(|id| totals.contains_key(&id)));
        let choice = totals.len() > 1;
        for e in interested.iter().filter(|_| choice) {
            match e.prioritize(&object, &nodes).await {
                Ok(scores) => scores.iter().for_each(|(node, score)| {
                    if let Some(total) = self.cluster.nodes.id(node).and_then(|id| totals.get_mut(&id)) {
                        *total = total.saturating_add(*score);
                    }
                }),
                Err(why) => tracing::warn!(pod = %pod.key, why, "an extender's opinion is missing"),
            }
        }
        *ranking = Ranking { nodes: totals.keys().copied().collect(), totals: totals.values().copied().collect() };
        Ok(refused)
    }

    /// Asks extenders about nodes where preemption would help: they may strike out some, or name other victims there.
    async fn extend_preemption(&self, pod: &PodInfo, mut left: Vec<Candidate>) -> Result<Vec<Candidate>, String> {
        let asked: Vec<&Extender> = self.extenders.iter().filter(|e| e.preempts() && e.is_interested(pod)).collect();
        if asked.is_empty() {
            return Ok(left);
        }
        let object = extender::pod(&self.client, pod).await?;
        let mut pods = BTreeMap::new();
        if asked.iter().any(|e| e.wants_objects()) {
            let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            let all = extender::all(&self.client, &resources::PODS).await?;
            pods = all.into_iter().map(|pod| (uid(&pod), pod)).collect();
        }
        for e in asked {
            if left.is_empty() {
                break;
            }
            let shown = |c: &Candidate| (self.cluster.nodes.name(c.node).to_string(), e.victims(c, &pods));
            let answer = e.preempt(&object, left.iter().map(shown).collect()).await;
            let answer = answer.and_then(|nodes| nodes.into_iter().map(|(n, v)| self.candidate(&n, &v)).collect());
            let Some(nodes) = e.unless_ignored(pod, answer)? else { continue };
            left = nodes;
            if let Some(none) = left.iter().find(|c| c.victims.is_empty() && !e.is_ignorable()) {
                let name = self.cluster.nodes.name(none.node);
                return Err(format!("expected at least one victim pod on node {name:?}"));
            }
            left.retain(|c| !c.victims.is_empty());
        }
        Ok(left)
    }

    /// What an extender means by pods' uids on a node.
    fn candidate(&self, node: &str, victims: &MetaVictims) -> Result<Candidate, String> {
        let id = self
            .cluster
            .nodes
            .id(node)
            .ok_or_else(|| format!("an extender names node {node:?}, which is not there"))?;
        let pods = self.cluster.nodes.pods(id);
        let find = |uid: &str| {
            let found = pods.iter().find(|p| *p.uid == *uid).cloned();
            found.ok_or_else(|| {
                format!("an extender claims to preempt pod (UID: {uid}) on node {node}, where it is not found")
            })
        };
        let mut found: Vec<Arc<PodInfo>> = victims.uids().map(find).collect::<Result<_, String>>()?;
        found.sort_by(|a, b| preemption::importance(b).cmp(&preemption::importance(a)));
        Ok(Candidate { node: id, victims: found, violations: victims.violations() })
    }

    fn assume(&mut self, entry: &Entry, profile: usize, node: NodeId, began: Instant) {
        let pod = &entry.info;
        let name = self.cluster.nodes.name(node).clone();
        let plan = match node_plan(&self.cluster, &self.profiles[profile], pod, node) {
            Ok(plan) => plan,
            Err(why) => return self.error(pod, &why),
        };
        let world = &mut self.cluster.world;
        for (claim, volume) in &plan.volumes.bind {
            let owner = (pod.key.namespace.to_string(), claim.clone());
            world.volumes.promised.insert(volume.clone(), owner);
        }
        world.devices.promise(&pod.key.namespace, &plan.grants);
        let mut placed = (**pod).clone();
        placed.node_name = (*name).into();
        self.cluster.place(&Arc::new(placed), true);
        self.cluster.nominate(pod, "");
        self.in_flight += 1;
        self.spawn_binding(Binding {
            pod: pod.clone(),
            node: name,
            plan,
            profile,
            bind_timeout_seconds: self.profiles[profile].bind_timeout_seconds,
            attempts: entry.attempts,
            first_seen_ms: entry.first_seen_ms,
            began,
        });
    }

    async fn reject(&mut self, entry: &Entry, profile: usize, refused: Vec<(NodeId, Rejection)>, began: Instant) {
        let pod = &entry.info;
        let mut diagnosis = self.evaluator.diagnose(&mut self.cluster, &self.profiles, profile, pod);
        diagnosis.extended = !refused.is_empty();
        diagnosis.rejections.extend(refused);
        let settings = &self.profiles[profile];
        let mut message = diagnosis.message();
        let mut plan = None;
        // Upstream's DynamicResources has no state to look at when a plugin before it was not ready: that is the end of it.
        let unready = diagnosis.unready.as_ref().is_some_and(|u| u.plugin != Plugin::DynamicResources);
        let stateless = settings.returns_claims && unready && diagnosis.nodes > 0;
        let returned = if stateless { Some("not found") } else { self.return_claim(pod, settings, &diagnosis) };
        if settings.preemption && diagnosis.nodes > 0 && !stateless {
            self.stats.preemption_attempts.inc();
            let start = rand::random::<u32>() as usize;
            let candidates = match preemption::candidates(&self.cluster, settings, pod, &diagnosis, start) {
                Ok(candidates) => self.extend_preemption(pod, candidates).await,
                Err(why) => Err(why),
            };
            plan = Some(match candidates {
                Ok(candidates) => preemption::decide(&self.cluster, pod, candidates),
                Err(why) => Plan::Nothing(why),
            });
        }
        let name = settings.scheduler_name.clone();
        self.stats.attempt(&name, Attempt::Unschedulable, began.elapsed());
        match plan {
            Some(Plan::Preempt { node, victims, displaced }) => {
                self.stats.preemption_victims.observe(victims.len() as f64);
                self.report_unschedulable(pod, &message, Some(&node));
                self.preempt(pod, profile, &node, victims, &displaced, &diagnosis);
            }
            plan => {
                let why = plan.map(|plan| match plan {
                    Plan::Nothing(why) => format!("preemption: {why}"),
                    Plan::Preempt { .. } => String::new(),
                });
                let notes: Vec<String> = returned.map(str::to_owned).into_iter().chain(why).collect();
                if !notes.is_empty() {
                    message = format!("{message} {}", notes.join(", "));
                }
                self.give_up(pod, &message, &diagnosis);
            }
        }
    }

    /// Gives a claim back that keeps the pod from nodes, and says what came of it.
    fn return_claim(&self, pod: &Arc<PodInfo>, settings: &Profile, diagnosis: &Diagnosis) -> Option<&'static str> {
        if !settings.returns_claims || diagnosis.nodes == 0 {
            return None;
        }
        if pod.template.claims.is_empty() || diagnosis.unready.is_some() {
            return Some("no new claims to deallocate");
        }
        let refused = diagnosis.rejections.iter().filter(|(_, r)| r.plugin == Plugin::DynamicResources);
        let nodes = refused.filter_map(|(id, _)| self.cluster.nodes.info(*id));
        let Some(claim) = self.cluster.world.devices.returnable(&pod.template, &pod.uid, nodes) else {
            return Some("still not schedulable");
        };
        self.spawn_return(&pod.key.namespace, claim);
        Some("deallocation of ResourceClaim completed")
    }

    /// Puts a pod back that nothing can be done for.
    fn give_up(&mut self, pod: &Arc<PodInfo>, message: &str, diagnosis: &Diagnosis) {
        // A nomination stays while its victims are leaving, and ends when the node can no longer be had.
        if !preemption::is_waiting(&self.cluster, pod) {
            self.cluster.nominate(pod, "");
        }
        self.report_unschedulable(pod, message, self.cluster.nomination(&pod.key));
        self.stats.incoming("ScheduleAttemptFailure", "unschedulable", 1);
        let now = self.now_ms();
        if diagnosis.nodes == 0 {
            self.queue.unschedulable(&pod.key, crate::plugins::Plugin::ALL.iter().map(|(p, _)| *p).collect(), now);
        } else {
            self.queue.unschedulable(&pod.key, diagnosis.plugins(), now);
        }
    }

    fn preempt(
        &mut self,
        pod: &Arc<PodInfo>,
        profile: usize,
        node: &Arc<str>,
        victims: Vec<Arc<PodInfo>>,
        displaced: &[Arc<PodInfo>],
        diagnosis: &Diagnosis,
    ) {
        self.cluster.nominate(pod, node);
        for other in displaced {
            self.cluster.nominate(other, "");
        }
        self.in_flight += 1;
        self.spawn_eviction(Eviction {
            pod: pod.clone(),
            node: node.clone(),
            victims,
            displaced: displaced.iter().map(|p| p.key.clone()).collect(),
            rejected_by: diagnosis.plugins(),
            scheduler_name: self.profiles[profile].scheduler_name.clone(),
        });
    }

    /// Puts a pod back after something that is not its fault.
    pub(super) fn error(&mut self, pod: &Arc<PodInfo>, why: &str) {
        self.report_error(pod, why);
        self.stats.incoming("ScheduleAttemptFailure", "backoff", 1);
        let now = self.now_ms();
        self.queue.failed(&pod.key, now);
    }
}
