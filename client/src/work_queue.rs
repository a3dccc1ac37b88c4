//! Keys that need work: each at most once in the queue and never at two workers at once; failures come back later and later.
//!
//! As client-go's: a key added while being worked on is worked on again afterwards; a delayed key keeps its earliest time;
//! back-off per key from 5 ms doubling to 1000 s. No task and no timer per key. The queue is bounded by the number of
//! distinct keys.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use component_base::metrics::{self, Counter, Family, Gauge, Histogram};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a key needs to be.
pub trait Key: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static {}
impl<K: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static> Key for K {}

const FIRST_BACKOFF: Duration = Duration::from_millis(5);
const LAST_BACKOFF: Duration = Duration::from_secs(1000);

/// A queue of keys; cheap to clone, all clones are one queue.
pub struct WorkQueue<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K> Debug for WorkQueue<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("WorkQueue").field("waiting", &state.ready.len()).field("delayed", &state.due.len()).finish()
    }
}

struct Inner<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    figures: Figures,
}

impl<K> Inner<K> {
    /// Figures of the work under way; always true.
    fn measure(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ages = || state.processing.values().map(|since| since.elapsed().as_secs_f64());
        self.figures.unfinished.set(ages().sum());
        self.figures.longest.set(ages().fold(0.0, f64::max));
        true
    }
}

struct State<K> {
    /// Waiting for a worker, in order.
    ready: VecDeque<K>,
    /// Waiting or to be added again when done, and since when.
    dirty: HashMap<K, Instant>,
    /// At a worker, and since when.
    processing: HashMap<K, Instant>,
    /// Delayed keys by time; entries that `due` no longer agrees with are stale.
    timers: BinaryHeap<std::cmp::Reverse<(Instant, K)>>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
    closed: bool,
}

struct Figures {
    depth: Arc<Gauge>,
    adds: Arc<Counter>,
    retries: Arc<Counter>,
    waited: Arc<Histogram>,
    worked: Arc<Histogram>,
    unfinished: Arc<Gauge>,
    longest: Arc<Gauge>,
}

const BUCKETS: &[f64] = &[1e-8, 1e-7, 1e-6, 9.999999999999999e-6, 9.999999999999999e-5, 0.001, 0.01, 0.1, 1.0, 10.0];

impl Figures {
    fn new(name: &str) -> Self {
        static DEPTH: LazyLock<Family<Gauge>> =
            LazyLock::new(|| metrics::gauge("workqueue_depth", "Current depth of workqueue", &["name"]));
        static ADDS: LazyLock<Family<Counter>> =
            LazyLock::new(|| metrics::counter("workqueue_adds_total", "Keys added to the queue", &["name"]));
        static RETRIES: LazyLock<Family<Counter>> = LazyLock::new(|| {
            metrics::counter("workqueue_retries_total", "Keys that came back after a failure", &["name"])
        });
        static WAITED: LazyLock<Family<Histogram>> = LazyLock::new(|| {
            metrics::histogram(
                "workqueue_queue_duration_seconds",
                "Seconds a key waits for a worker",
                &["name"],
                BUCKETS,
            )
        });
        static WORKED: LazyLock<Family<Histogram>> = LazyLock::new(|| {
            metrics::histogram(
                "workqueue_work_duration_seconds",
                "Seconds a worker takes for a key",
                &["name"],
                BUCKETS,
            )
        });
        static UNFINISHED: LazyLock<Family<Gauge>> = LazyLock::new(|| {
            metrics::gauge("workqueue_unfinished_work_seconds", "Seconds of work under way, of all keys", &["name"])
        });
        static LONGEST: LazyLock<Family<Gauge>> = LazyLock::new(|| {
            metrics::gauge(
                "workqueue_longest_running_processor_seconds",
                "Seconds for which the slowest worker has been at its key",
                &["name"],
            )
        });
        let of = &[name];
        Self {
            depth: DEPTH.with(of),
            adds: ADDS.with(of),
            retries: RETRIES.with(of),
            waited: WAITED.with(of),
            worked: WORKED.with(of),
            unfinished: UNFINISHED.with(of),
            longest: LONGEST.with(of),
        }
    }
}

impl<K: Key> WorkQueue<K> {
    /// An empty queue; the name is the metrics' label.
    pub fn new(name: &str) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            timers: BinaryHeap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            closed: false,
        };
        let inner = Arc::new(Inner { state: Mutex::new(state), wake: Notify::new(), figures: Figures::new(name) });
        let weak = Arc::downgrade(&inner);
        metrics::on_render(move || weak.upgrade().is_some_and(|inner| inner.measure()));
        Self { inner }
    }

    fn with<R>(&self, change: impl FnOnce(&mut State<K>) -> R) -> R {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.ready.len();
        let result = change(&mut state);
        // Queues of one name add up.
        self.inner.figures.depth.add(state.ready.len() as f64 - before as f64);
        result
    }

    /// Queues a key; without effect when it waits already.
    pub fn add(&self, key: K) {
        let woken = self.with(|state| enqueue(state, key, &self.inner.figures));
        if woken {
            self.inner.wake.notify_one();
        }
    }

    /// Queues a key after a while; an earlier time that is already set stays.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let sooner = self.with(|state| {
            if state.closed || state.due.get(&key).is_some_and(|due| *due <= at) {
                return false;
            }
            let first = state.timers.peek().is_none_or(|std::cmp::Reverse((time, _))| at < *time);
            state.due.insert(key.clone(), at);
            state.timers.push(std::cmp::Reverse((at, key)));
            first
        });
        if sooner {
            // A worker that waits for a later time must look again.
            self.inner.wake.notify_one();
        }
    }

    /// Queues a key after its back-off, which grows with each call until [`forget`](Self::forget).
    pub fn add_rate_limited(&self, key: K) {
        let delay = self.with(|state| {
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = FIRST_BACKOFF.saturating_mul(2u32.saturating_pow(*failures)).min(LAST_BACKOFF);
            *failures = failures.saturating_add(1);
            delay
        });
        self.inner.figures.retries.inc();
        self.add_after(key, delay);
    }

    /// Failures of a key since it was forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.with(|state| state.failures.get(key).copied().unwrap_or(0))
    }

    /// The key's work went well: its next failure starts the back-off anew.
    pub fn forget(&self, key: &K) {
        self.with(|state| state.failures.remove(key));
    }

    /// The next key to work on; `None` once closed. Every key must be given back with [`done`](Self::done).
    pub async fn next(&self) -> Option<K> {
        loop {
            let notified = self.inner.wake.notified();
            match self.with(|state| take(state, &self.inner.figures)) {
                Taken::Closed => {
                    self.inner.wake.notify_one();
                    return None;
                }
                Taken::Key(key, more) => {
                    if more {
                        self.inner.wake.notify_one();
                    }
                    return Some(key);
                }
                Taken::Nothing(None) => notified.await,
                Taken::Nothing(Some(at)) => {
                    tokio::select! {
                        () = notified => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }

    /// The work on a key is over; if it was added meanwhile it is queued again.
    pub fn done(&self, key: &K) {
        let again = self.with(|state| {
            if let Some(since) = state.processing.remove(key) {
                self.inner.figures.worked.observe_duration(since.elapsed());
            }
            let again = state.dirty.contains_key(key);
            if again {
                state.ready.push_back(key.clone());
            }
            again
        });
        if again {
            self.inner.wake.notify_one();
        }
    }

    /// Keys waiting for a worker.
    pub fn len(&self) -> usize {
        self.with(|state| state.ready.len())
    }

    /// True when no key waits for a worker.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends all workers; nothing is added any more.
    pub fn close(&self) {
        self.with(|state| state.closed = true);
        self.inner.wake.notify_one();
    }
}

fn enqueue<K: Key>(state: &mut State<K>, key: K, figures: &Figures) -> bool {
    if state.closed || state.dirty.contains_key(&key) {
        return false;
    }
    figures.adds.inc();
    state.dirty.insert(key.clone(), Instant::now());
    if state.processing.contains_key(&key) {
        return false;
    }
    state.ready.push_back(key);
    true
}

enum Taken<K> {
    Closed,
    /// A key, and whether other workers may find something too.
    Key(K, bool),
    /// Nothing now; look again at that time.
    Nothing(Option<Instant>),
}

fn take<K: Key>(state: &mut State<K>, figures: &Figures) -> Taken<K> {
    if state.closed {
        return Taken::Closed;
    }
    let now = Instant::now();
    let mut next_time = None;
    while let Some(std::cmp::Reverse((at, key))) = state.timers.peek() {
        let current = state.due.get(key) == Some(at);
        if current && *at > now {
            next_time = Some(*at);
            break;
        }
        let Some(std::cmp::Reverse((_, key))) = state.timers.pop() else { break };
        if current {
            state.due.remove(&key);
            enqueue(state, key, figures);
        }
    }
    match state.ready.pop_front() {
        None => Taken::Nothing(next_time),
        Some(key) => {
            if let Some(since) = state.dirty.remove(&key) {
                figures.waited.observe_duration(since.elapsed());
            }
            state.processing.insert(key.clone(), now);
            Taken::Key(key, !state.ready.is_empty() || next_time.is_some())
        }
    }
}

/// What a key's work asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// Nothing more.
    Done,
    /// Look again after a while.
    After(Duration),
    /// Look again with back-off, without an error in the log.
    Now,
}

/// Works on up to `workers` keys at once until shutdown. A key whose work fails is logged and comes back with back-off. What work
/// needs is only held while there is some.
pub async fn run<K, F, Fut, E>(queue: &WorkQueue<K>, workers: usize, shutdown: &CancellationToken, work: F)
where
    K: Key,
    F: Fn(K) -> Fut + Sync,
    Fut: Future<Output = Result<Requeue, E>>,
    E: Display,
{
    let work = &work;
    let one = |key: K| async move {
        match work(key.clone()).await {
            Ok(Requeue::Done) => queue.forget(&key),
            Ok(Requeue::After(delay)) => {
                queue.forget(&key);
                queue.add_after(key.clone(), delay);
            }
            Ok(Requeue::Now) => queue.add_rate_limited(key.clone()),
            Err(error) => {
                let failures = queue.failures(&key) + 1;
                tracing::warn!(?key, failures, %error, "work failed, trying again");
                queue.add_rate_limited(key.clone());
            }
        }
        queue.done(&key);
    };
    let mut busy = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(()) = busy.next() => {}
            key = queue.next(), if busy.len() < workers.max(1) => match key {
                Some(key) => busy.push(one(key)),
                None => break,
            }
        }
    }
    queue.close();
    // What is being worked on may finish; the daemon's own bound on shutdown cuts it otherwise.
    busy.collect::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_queued_once_and_worked_on_alone() {
        let queue = WorkQueue::new("test-once");
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.next().await, Some("b"));
        assert!(queue.is_empty());
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
        queue.close();
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn delays_keep_the_earliest_time() {
        let queue = WorkQueue::new("test-delay");
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("b", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(1));
        queue.add_after("a", Duration::from_secs(20));
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 1);
        assert_eq!(queue.next().await, Some("b"));
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&"a");
        tokio::select! {
            _ = queue.next() => panic!("a was due once"),
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_doubles_until_forgotten() {
        let queue = WorkQueue::new("test-backoff");
        for expected_ms in [5, 10, 20, 40] {
            let start = Instant::now();
            queue.add_rate_limited(1);
            assert_eq!(queue.next().await, Some(1));
            assert_eq!(start.elapsed().as_millis(), expected_ms);
            queue.done(&1);
        }
        queue.forget(&1);
        assert_eq!(queue.failures(&1), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn workers_retry_and_stop() {
        let queue = WorkQueue::new("test-run");
        let shutdown = CancellationToken::new();
        let tries = std::sync::atomic::AtomicU32::new(0);
        (0..20).for_each(|key| queue.add(key));
        let stop = shutdown.clone();
        run(&queue, 3, &shutdown, |key: u32| {
            let (tries, stop) = (&tries, stop.clone());
            async move {
                let count = tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                if count == 25 {
                    stop.cancel();
                }
                if key < 6 && count < 20 { Err("not yet") } else { Ok(Requeue::Done) }
            }
        })
        .await;
        assert_eq!(tries.load(std::sync::atomic::Ordering::SeqCst), 26);
    }
}
