//! The pod manager: owns the state of every pod on this node and starts a worker pass when there is work.
//!
//! Inputs are messages (something changed; look again), never instructions. For each pod there is at most one pass at a
//! time; a change that matters to a running pass (the pod must end, or end faster) cancels it. At rest there is no task
//! per pod and one timer for the next pod that asked to be looked at. Pods that only the runtime knows are ended and
//! removed once every source of pods has spoken.

mod accept;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use component_base::metrics::{self, Family, Gauge};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::time::{DelayQueue, delay_queue};

use super::admission::NodeView;
use super::mirror;
use super::plan::{ProbeKind, ProbeResults};
use super::types::{Desired, Mirror, Pod, Source, Termination};
use super::worker::{Goal, Memory, Outcome, Pass};
use crate::context::Context;
use crate::cri::events::RuntimeReport;
use crate::cri::labels;
use crate::logs;
use crate::node::manager::Pressure;
use crate::probes::prober::Targets;
use crate::status;
use crate::volumes::Volumes;

static RUNNING_PODS: LazyLock<Family<Gauge>> =
    LazyLock::new(|| metrics::gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox", &[]));

/// Something that the manager should know.
#[derive(Debug)]
pub enum Message {
    /// The API's pod of this namespace and name changed; none when it is gone.
    Api { namespace: String, name: String, pod: Option<Arc<Pod>> },
    /// All pods of one non-API source.
    Static { source: Source, pods: Vec<Arc<Pod>> },
    /// The API's pods are complete.
    ApiSynced,
    /// The runtime reported.
    Runtime(RuntimeReport),
    /// A probe's verdict changed.
    Probe { uid: String, container_id: String, kind: ProbeKind, success: bool },
    /// A pass generated a status.
    Published { status: Arc<PodStatus>, targets: Targets },
    /// A pass ended.
    Finished { uid: String, memory: Box<Memory>, outcome: Outcome },
    /// End a pod because the node must.
    Evict { uid: String, termination: Termination },
    /// Give every pod and its status.
    List(oneshot::Sender<Vec<PodView>>),
}

/// A pod as others see it.
#[derive(Debug, Clone)]
pub struct PodView {
    pub pod: Arc<Pod>,
    pub status: Arc<PodStatus>,
    /// Where its volumes are.
    pub volumes: Arc<Volumes>,
    /// Nothing of it runs.
    pub finished: bool,
}

/// Everything about one pod.
struct Slot {
    desired: Desired,
    /// The pod as its source has it, with the resources that it asks for.
    asked: Arc<Pod>,
    goal: Goal,
    /// The running pass: its cancellation and the grace it knows.
    running: Option<(CancellationToken, Goal)>,
    dirty: bool,
    memory: Memory,
    /// The volumes after the last pass.
    volumes: Arc<Volumes>,
    probes: ProbeResults,
    status: Arc<PodStatus>,
    timer: Option<delay_queue::Key>,
    /// The goal is reached and nothing changed since.
    reached: bool,
    /// How the status manager knows it.
    api_uid: Option<String>,
    targets: usize,
}

/// What the manager needs to live.
pub struct Parts {
    pub context: Arc<Context>,
    pub inbox: mpsc::Receiver<Message>,
    pub outbox: mpsc::Sender<Message>,
    pub prober: mpsc::Sender<Targets>,
    pub statuses: Option<mpsc::Sender<status::manager::Update>>,
    pub node: watch::Receiver<NodeView>,
    pub pressure: watch::Receiver<Pressure>,
    /// Sources that must have spoken before unknown pods are removed.
    pub awaited: Vec<Source>,
    /// Whether the runtime answers; read by the node's status.
    pub runtime_health: watch::Sender<Option<String>>,
}

struct Manager {
    parts: Parts,
    slots: HashMap<String, Slot>,
    /// Uids of the API's and static pods by (namespace, name).
    names: HashMap<(String, String), String>,
    /// Mirrors whose static pod is not there (yet), by name.
    mirrors: HashMap<(String, String), (Arc<Pod>, Mirror)>,
    queue: DelayQueue<String>,
    awaited: HashSet<&'static str>,
    in_runtime: HashSet<String>,
    /// What the burstable pods ask for together, in thousandths of a core; their cgroup has it.
    burstable_milli: i64,
}

/// Runs until shutdown; running containers are left as they are.
pub async fn run(mut parts: Parts, shutdown: CancellationToken) {
    let (_, closed) = mpsc::channel(1);
    let mut inbox = std::mem::replace(&mut parts.inbox, closed);
    let awaited = parts.awaited.iter().map(|s| s.as_str()).collect();
    let mut manager = Manager {
        parts,
        slots: HashMap::new(),
        names: HashMap::new(),
        mirrors: HashMap::new(),
        queue: DelayQueue::new(),
        awaited,
        in_runtime: HashSet::new(),
        burstable_milli: 0,
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(due) = manager.queue.next(), if !manager.queue.is_empty() => {
                let uid = due.into_inner();
                if let Some(slot) = manager.slots.get_mut(&uid) {
                    slot.timer = None;
                }
                manager.wake(&uid);
            }
            message = inbox.recv() => match message {
                Some(message) => manager.handle(message).await,
                None => return,
            },
        }
    }
}

impl Manager {
    async fn handle(&mut self, message: Message) {
        match message {
            Message::Api { namespace, name, pod: Some(pod) } => self.api_pod((namespace, name), pod).await,
            Message::Api { namespace, name, pod: None } => self.api_gone(&(namespace, name)),
            Message::Static { source, pods } => self.static_pods(source, pods),
            Message::ApiSynced => self.source_spoke(Source::Api),
            Message::Runtime(report) => self.runtime(report),
            Message::Probe { uid, container_id, kind, success } => {
                if let Some(slot) = self.slots.get_mut(&uid) {
                    slot.probes.insert((container_id, kind), success);
                    self.wake(&uid);
                }
            }
            Message::Published { status, targets } => self.published(status, targets).await,
            Message::Finished { uid, memory, outcome } => self.finished(&uid, *memory, outcome).await,
            Message::Evict { uid, termination } => self.terminate(&uid, termination),
            Message::List(reply) => {
                let views =
                    self.slots.values().filter(|s| s.desired.pod.source != Source::Runtime).map(|slot| PodView {
                        pod: Arc::clone(&slot.desired.pod),
                        status: Arc::clone(&slot.status),
                        volumes: Arc::clone(&slot.volumes),
                        finished: slot.goal != Goal::Run && slot.reached,
                    });
                // The asker may be gone.
                let _ = reply.send(views.collect());
            }
        }
    }

    async fn api_pod(&mut self, key: (String, String), pod: Arc<Pod>) {
        if pod.is_mirror() {
            self.mirror(key, pod).await;
            return;
        }
        let uid = pod.uid().to_owned();
        if let Some(old) = self.names.insert(key, uid.clone()).filter(|old| *old != uid) {
            self.remove(&old);
        }
        self.upsert(pod).await;
    }

    fn api_gone(&mut self, key: &(String, String)) {
        if let Some((_, mirror)) = self.mirrors.remove(key) {
            for slot in self.slots.values_mut().filter(|s| s.desired.mirror.as_ref() == Some(&mirror)) {
                slot.desired.mirror = None;
                slot.api_uid = None;
            }
            if let Some(uid) = self.names.get(key).cloned() {
                self.wake(&uid);
            }
            return;
        }
        let is_api = |slot: &Slot| slot.desired.pod.source == Source::Api;
        if let Some(uid) = self.names.get(key).filter(|uid| self.slots.get(*uid).is_some_and(is_api)).cloned() {
            self.names.remove(key);
            self.remove(&uid);
        }
    }

    async fn mirror(&mut self, key: (String, String), pod: Arc<Pod>) {
        let mirror = Mirror {
            uid: pod.uid().to_owned(),
            hash: pod.annotation(labels::CONFIG_MIRROR).unwrap_or_default().to_owned(),
            deleting: pod.deletion_requested(),
        };
        let known = self.mirrors.insert(key.clone(), (Arc::clone(&pod), mirror.clone())).map(|(_, m)| m);
        if known.as_ref().is_none_or(|known| known.uid != mirror.uid) {
            self.delete_orphan(&key, &pod);
        }
        if let Some(uid) = self.names.get(&key).cloned() {
            self.attach_mirror(&uid, &pod, mirror.clone()).await;
            if known != Some(mirror) {
                self.wake(&uid);
            }
        }
    }

    /// Deletes a mirror that no static pod has, once all sources have spoken.
    fn delete_orphan(&self, key: &(String, String), mirror: &Arc<Pod>) {
        if self.awaited.is_empty() && !self.names.contains_key(key) {
            tokio::spawn(mirror::delete_orphan(Arc::clone(&self.parts.context), Arc::clone(mirror)));
        }
    }

    async fn attach_mirror(&mut self, uid: &str, pod: &Pod, mirror: Mirror) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        slot.attach(pod, mirror);
        self.report(uid).await;
    }

    fn static_pods(&mut self, source: Source, pods: Vec<Arc<Pod>>) {
        let wanted: HashSet<String> = pods.iter().map(|p| p.uid().to_owned()).collect();
        let gone: Vec<String> = self
            .slots
            .iter()
            .filter(|(uid, s)| s.desired.pod.source == source && !wanted.contains(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in gone {
            self.names.retain(|_, u| *u != uid);
            self.remove(&uid);
        }
        for pod in pods {
            let key = (pod.namespace().to_owned(), pod.name().to_owned());
            let uid = pod.uid().to_owned();
            self.names.insert(key.clone(), uid.clone());
            self.insert(pod);
            if let (Some((pod, mirror)), Some(slot)) = (self.mirrors.get(&key), self.slots.get_mut(&uid)) {
                slot.attach(pod, mirror.clone());
            }
            self.wake(&uid);
        }
        self.source_spoke(source);
    }

    fn source_spoke(&mut self, source: Source) {
        if self.awaited.remove(source.as_str()) && self.awaited.is_empty() {
            self.in_runtime.extend(left_behind(&self.parts.context));
            self.mirrors.iter().for_each(|(key, (mirror, _))| self.delete_orphan(key, mirror));
        }
        self.end_unknown();
    }

    fn runtime(&mut self, report: RuntimeReport) {
        match report {
            RuntimeReport::Down(error) => {
                let text = Some(error.to_string());
                self.parts.runtime_health.send_if_modified(|known| {
                    let changed = known.is_some() != text.is_some();
                    *known = text;
                    changed
                });
            }
            RuntimeReport::Changed(uids) => {
                self.parts.runtime_health.send_if_modified(|known| known.take().is_some());
                for (uid, here) in uids {
                    self.wake(&uid);
                    if here {
                        self.in_runtime.insert(uid);
                    }
                }
                self.end_unknown();
            }
        }
    }

    /// Ends what runs without anybody wanting it, once all sources have spoken.
    fn end_unknown(&mut self) {
        if !self.awaited.is_empty() {
            return;
        }
        let unknown: Vec<String> =
            std::mem::take(&mut self.in_runtime).into_iter().filter(|uid| !self.slots.contains_key(uid)).collect();
        for uid in unknown {
            let mut pod = Pod::new(k8s_openapi::api::core::v1::Pod::default(), Source::Runtime);
            pod.metadata.uid = Some(uid.clone());
            tracing::info!(uid, "Ending a pod that nobody wants any more");
            let mut slot = Slot::new(Arc::new(pod));
            // Upstream gives pods it knows nothing about one second.
            slot.desired.termination = Some(Termination { grace_seconds: 1, ..Termination::default() });
            slot.goal = Goal::Remove;
            self.slots.insert(uid.clone(), slot);
            self.wake(&uid);
        }
    }

    async fn upsert(&mut self, pod: Arc<Pod>) {
        let uid = pod.uid().to_owned();
        let deleting = pod.deletion_requested();
        let grace = pod.grace_seconds();
        let before = self.slots.get(&uid).map(|s| Arc::clone(&s.asked));
        self.insert(Arc::clone(&pod));
        if deleting {
            self.terminate(&uid, Termination { grace_seconds: grace, ..Termination::default() });
        }
        // Our own status writes come back as updates; they are no work.
        if before.is_none_or(|old| relevant_change(&old, &pod)) {
            self.wake(&uid);
        }
        self.reconsider();
        self.report(&uid).await;
    }

    /// The pod must end; a shorter grace replaces a longer one.
    fn terminate(&mut self, uid: &str, termination: Termination) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        slot.goal = slot.goal.max(Goal::Stop);
        match &mut slot.desired.termination {
            None => slot.desired.termination = Some(termination),
            Some(known) if termination.grace_seconds < known.grace_seconds => {
                known.grace_seconds = termination.grace_seconds;
                if let Some((cancel, _)) = &slot.running {
                    cancel.cancel();
                }
            }
            Some(_) => return,
        }
        slot.reached = false;
        self.wake(uid);
    }

    /// The pod is gone from its source.
    fn remove(&mut self, uid: &str) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        slot.goal = Goal::Remove;
        slot.reached = false;
        let grace_seconds = slot.desired.pod.grace_seconds();
        slot.desired.termination.get_or_insert(Termination { grace_seconds, ..Termination::default() });
        self.wake(uid);
    }

    /// Starts a pass, or notes that one more is needed.
    fn wake(&mut self, uid: &str) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        if let Some((cancel, goal)) = &slot.running {
            slot.dirty = true;
            if *goal == Goal::Run && slot.goal != Goal::Run {
                cancel.cancel();
            }
            return;
        }
        if let Some(timer) = slot.timer.take() {
            self.queue.try_remove(&timer);
        }
        slot.dirty = false;
        let cancel = CancellationToken::new();
        slot.running = Some((cancel.clone(), slot.goal));
        let job = Job {
            context: Arc::clone(&self.parts.context),
            desired: slot.desired.clone(),
            goal: slot.goal,
            probes: slot.probes.clone(),
            memory: Box::new(std::mem::take(&mut slot.memory)),
            out: self.parts.outbox.clone(),
        };
        tokio::spawn(job.run(cancel));
    }

    async fn published(&mut self, status: Arc<PodStatus>, targets: Targets) {
        let uid = targets.pod.uid().to_owned();
        let Some(slot) = self.slots.get_mut(&uid) else { return };
        let ids: HashSet<&String> = targets.targets.iter().map(|t| &t.container_id).collect();
        slot.probes.retain(|(id, _), _| ids.contains(id));
        let changed = *slot.status != *status;
        slot.status = status;
        if changed {
            let running = self.slots.values().filter(|s| s.status.phase.as_deref() == Some("Running")).count();
            RUNNING_PODS.one().set(f64::from(u32::try_from(running).unwrap_or(u32::MAX)));
        }
        let Some(slot) = self.slots.get_mut(&uid) else { return };
        if slot.targets + targets.targets.len() > 0 {
            slot.targets = targets.targets.len();
            let _ = self.parts.prober.send(targets).await;
        }
        if changed {
            self.report(&uid).await;
        }
    }

    /// Hands the pod's status to the status manager.
    async fn report(&self, uid: &str) {
        let (Some(slot), Some(statuses)) = (self.slots.get(uid), &self.parts.statuses) else { return };
        let Some(api_uid) = slot.api_uid.clone() else { return };
        if *slot.status == PodStatus::default() || slot.desired.pod.source == Source::Runtime {
            return;
        }
        let update = status::manager::Update {
            pod: Arc::clone(&slot.desired.pod),
            api_uid,
            status: Arc::clone(&slot.status),
            finished: slot.goal != Goal::Run && slot.reached,
        };
        let _ = statuses.send(update).await;
    }

    async fn finished(&mut self, uid: &str, memory: Memory, outcome: Outcome) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let goal = slot.running.take().map_or(slot.goal, |(_, goal)| goal);
        if memory.volumes != *slot.volumes {
            slot.volumes = Arc::new(memory.volumes.clone());
        }
        slot.memory = memory;
        slot.reached = outcome.reached && goal == slot.goal;
        if let Some(termination) = outcome.terminate {
            self.terminate(uid, termination);
            // It may have been told to end already, while this pass was ending: then nobody began the next.
            if self.slots.get(uid).is_some_and(|s| s.running.is_none()) {
                self.wake(uid);
            }
            return;
        }
        if slot.reached && goal == Goal::Remove {
            self.slots.remove(uid);
            self.share_cpu();
            self.reconsider();
            return;
        }
        if slot.dirty || goal != slot.goal {
            self.wake(uid);
        } else if let Some(at) = outcome.again_at {
            let delay = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
            slot.timer = Some(self.queue.insert(uid.to_owned(), delay));
        }
        if goal == Goal::Stop {
            self.report(uid).await;
        }
    }
}

impl Slot {
    fn new(pod: Arc<Pod>) -> Self {
        Self {
            asked: Arc::clone(&pod),
            desired: Desired { pod, refused: None, mirror: None, termination: None },
            goal: Goal::Run,
            running: None,
            dirty: false,
            memory: Memory::default(),
            volumes: Arc::default(),
            probes: ProbeResults::new(),
            status: Arc::default(),
            timer: None,
            reached: false,
            api_uid: None,
            targets: 0,
        }
    }
}

impl Slot {
    /// Takes a static pod's mirror: its status is what the API was told of the pod.
    fn attach(&mut self, pod: &Pod, mirror: Mirror) {
        self.api_uid = (!mirror.deleting).then(|| mirror.uid.clone());
        self.desired.mirror = Some(mirror);
        if self.desired.pod.status != pod.status {
            Arc::make_mut(&mut self.desired.pod).status = pod.status.clone();
        }
    }
}

/// A pass as a task of its own.
struct Job {
    context: Arc<Context>,
    desired: Desired,
    goal: Goal,
    probes: ProbeResults,
    memory: Box<Memory>,
    out: mpsc::Sender<Message>,
}

impl Job {
    async fn run(mut self, cancel: CancellationToken) {
        let pass = Pass {
            context: &self.context,
            desired: &self.desired,
            goal: self.goal,
            probes: &self.probes,
            memory: &mut self.memory,
            out: &self.out,
        };
        let outcome = tokio::select! {
            outcome = pass.run() => outcome,
            () = cancel.cancelled() => Outcome { again_at: Some(Timestamp::now()), ..Outcome::default() },
        };
        let uid = self.desired.pod.uid().to_owned();
        // A closed channel means that the kubelet ends.
        let _ = self.out.send(Message::Finished { uid, memory: self.memory, outcome }).await;
    }
}

/// Uids of pods that have a directory or logs here, from an earlier life of the kubelet.
fn left_behind(context: &Context) -> Vec<String> {
    let entries = std::fs::read_dir(context.dirs.root.join("pods")).into_iter().flatten().flatten();
    let logged = logs::directories(&context.dirs.pod_logs).into_iter().map(|l| l.uid);
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).chain(logged).collect()
}

/// Whether an update of a pod object can change what should be done: anything but the status we write ourselves.
fn relevant_change(old: &Pod, new: &Pod) -> bool {
    let gates = |pod: &Pod| -> BTreeMap<String, String> {
        let gates = pod.spec.readiness_gates.iter().flatten();
        let status = |type_: &str| {
            let found = pod.status.conditions.iter().flatten().find(|c| c.type_ == type_);
            found.map(|c| c.status.clone()).unwrap_or_default()
        };
        gates.map(|g| (g.condition_type.clone(), status(&g.condition_type))).collect()
    };
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || old.metadata.annotations != new.metadata.annotations
        || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        || old.metadata.generation != new.metadata.generation
        || old.is_terminal() != new.is_terminal()
        || gates(old) != gates(new)
}
