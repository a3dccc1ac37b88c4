//! The loop that acts: takes what informers saw, tries the next pod, and hands bindings, evictions and conditions to tasks.
//!
//! Guarantees: one owner of cluster and queue; a placement is in the columns before its binding is sent (assumed), and out
//! again when the binding fails; the number of bindings in flight is bounded. Sleeps when there is nothing to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Client;
use client::events::Recorder;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::config::profile::Profile;
use crate::evaluate::incremental::Evaluator;
use crate::model::pod::PodInfo;
use crate::queue::{Millis, Queue, Times};

mod attempt;
mod claims;
pub mod explain;
pub mod extender;
pub mod inbox;
mod observe;
mod outcome;
pub mod sources;
pub mod stats;
mod tasks;
#[cfg(test)]
mod tests;

use explain::Question;
use extender::Extender;
use inbox::Inbox;
use outcome::Outcome;
use sources::Sources;
use stats::Stats;

/// Bindings and evictions that may be under way at once.
const MAX_IN_FLIGHT: usize = 128;
/// Conditions that may be written at once; further ones wait their turn.
const MAX_WRITES: usize = 32;
/// Attempts between two looks at the inbox.
const ATTEMPTS_PER_LOOK: usize = 16;

/// The scheduler.
pub struct Scheduler {
    client: Client,
    recorder: Recorder,
    sources: Sources,
    inbox: Arc<Inbox>,
    profiles: Arc<[Profile]>,
    cluster: Cluster,
    evaluator: Evaluator,
    queue: Queue,
    started: Instant,
    in_flight: usize,
    outcomes: mpsc::Receiver<Outcome>,
    report: mpsc::Sender<Outcome>,
    writes: Arc<Semaphore>,
    stats: Stats,
    extenders: Vec<Extender>,
    questions: mpsc::Receiver<Question>,
}

impl Scheduler {
    /// A scheduler that has seen nothing yet.
    pub fn new(
        client: Client,
        recorder: Recorder,
        sources: Sources,
        inbox: Arc<Inbox>,
        profiles: Arc<[Profile]>,
        times: Times,
    ) -> Self {
        let (report, outcomes) = mpsc::channel(MAX_IN_FLIGHT);
        Self {
            client,
            recorder,
            sources,
            inbox,
            profiles,
            cluster: Cluster::default(),
            evaluator: Evaluator::default(),
            queue: Queue::new(times),
            started: Instant::now(),
            in_flight: 0,
            outcomes,
            report,
            writes: Arc::new(Semaphore::new(MAX_WRITES)),
            stats: Stats::new(),
            extenders: Vec::new(),
            // Nobody asks until somebody is given the other end.
            questions: mpsc::channel(1).1,
        }
    }

    /// Asks these programs too.
    #[must_use]
    pub fn with_extenders(mut self, extenders: Vec<Extender>) -> Self {
        self.extenders = extenders;
        self
    }

    /// Answers these questions.
    #[must_use]
    pub fn with_questions(mut self, questions: mpsc::Receiver<Question>) -> Self {
        self.questions = questions;
        self
    }

    /// Schedules until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            for changed in self.inbox.take() {
                self.observe(&changed);
            }
            while let Ok(outcome) = self.outcomes.try_recv() {
                self.conclude(outcome);
            }
            while let Ok(question) = self.questions.try_recv() {
                self.explain(question);
            }
            let mut tried = 0;
            while tried < ATTEMPTS_PER_LOOK && self.in_flight < MAX_IN_FLIGHT && self.attempt().await {
                tried += 1;
            }
            self.stats.pending(&self.queue);
            self.stats.known([self.cluster.nodes.len(), self.cluster.placed_len(), self.in_flight]);
            if shutdown.is_cancelled() {
                return;
            }
            if tried > 0 {
                tokio::task::yield_now().await;
            } else if self.rest(&shutdown).await {
                return;
            }
        }
    }

    /// Waits for something to do; true on shutdown.
    async fn rest(&mut self, shutdown: &CancellationToken) -> bool {
        let now = self.now_ms();
        let wait = match self.queue.next_ready_ms() {
            Some(at) if self.in_flight < MAX_IN_FLIGHT => Duration::from_millis(at.saturating_sub(now).max(1)),
            _ => Duration::from_secs(24 * 3600),
        };
        let inbox = self.inbox.clone();
        tokio::select! {
            () = inbox.filled() => {}
            outcome = self.outcomes.recv() => outcome.into_iter().for_each(|o| self.conclude(o)),
            Some(question) = self.questions.recv() => self.explain(question),
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return true,
        }
        false
    }

    fn now_ms(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The profile that places a pod; `None` when another scheduler does.
    fn profile_of(&self, pod: &PodInfo) -> Option<usize> {
        let name = match pod.template.scheduler_name.as_str() {
            "" => crate::config::DEFAULT_SCHEDULER_NAME,
            name => name,
        };
        self.profiles.iter().position(|p| p.scheduler_name == name)
    }
}
