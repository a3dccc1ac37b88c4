//! One etcd watch over the whole keyspace is the clock: every revision passes by, whoever wrote it.
//!
//! One task applies the events to the caches in revision order and then publishes the revision, so that who waited for a
//! revision finds everything up to it in every cache. A broken watch resumes where it was; a compacted one lists again and
//! goes on with the difference. It needs no progress notifications.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use etcd_client::EventType;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::StorageError;
use super::cache::ResourceCache;
use super::entry::Entry;
use super::etcd::Etcd;
use super::position;
use super::transform::Transform;

/// How long a request waits for the clock to reach the revision it asks for.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// Pause before a broken watch is tried again.
const RETRY: Duration = Duration::from_millis(500);

type Caches = BTreeMap<String, Arc<ResourceCache>>;

/// The revision, and the caches that follow it.
pub struct Clock {
    etcd: Etcd,
    caches: RwLock<Arc<Caches>>,
    /// Those that wait for their first list; nobody reads them.
    joining: RwLock<Arc<Caches>>,
    revision: watch::Sender<u64>,
    fresh: tokio::sync::Mutex<Round>,
    started: std::sync::atomic::AtomicU64,
    /// Whether the watch is up; for the health check.
    healthy: std::sync::atomic::AtomicBool,
}

/// The last finished round of revision reads.
#[derive(Default)]
struct Round {
    number: u64,
    revision: u64,
}

/// Why the watch ended.
enum Broken {
    /// Try again from where it was.
    Connection(String),
    /// Events in between are gone.
    Compacted,
}

impl Clock {
    /// Lists everything into the caches.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn start(etcd: Etcd, caches: Vec<Arc<ResourceCache>>) -> Result<Arc<Self>, StorageError> {
        let caches: Caches = caches.into_iter().map(|cache| (cache.prefix().to_owned(), cache)).collect();
        let (entries, revision) = list(&etcd, &etcd.root(), &caches).await?;
        let mut entries = entries;
        for (prefix, cache) in &caches {
            cache.fill(entries.remove(prefix).unwrap_or_default().into_iter().map(Arc::new), revision);
        }
        Ok(Arc::new(Self {
            etcd,
            caches: RwLock::new(Arc::new(caches)),
            joining: RwLock::default(),
            revision: watch::Sender::new(revision),
            fresh: tokio::sync::Mutex::default(),
            started: std::sync::atomic::AtomicU64::new(0),
            healthy: std::sync::atomic::AtomicBool::new(false),
        }))
    }

    /// Follows etcd until `shutdown`, then ends all watches.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.follow() => {}
        }
        for cache in self.caches().values() {
            cache.end_watches();
        }
    }

    async fn follow(&self) {
        loop {
            match self.follow_watch().await {
                Broken::Connection(why) => {
                    tracing::warn!(err = why, "The watch on etcd broke; resuming");
                }
                Broken::Compacted => {
                    tracing::warn!("etcd compacted what the watch had not seen; listing again");
                    if let Err(error) = self.list_again().await {
                        tracing::warn!(err = %error, "Cannot list etcd");
                    }
                }
            }
            self.healthy.store(false, std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow_watch(&self) -> Broken {
        let mut stream = match self.etcd.watch_everything(self.revision()).await {
            Ok(stream) => stream,
            Err(error) => return Broken::Connection(error.to_string()),
        };
        loop {
            let answer = match stream.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Broken::Connection("the stream ended".to_owned()),
                Err(error) => return Broken::Connection(error.to_string()),
            };
            if answer.compact_revision() > 0 {
                return Broken::Compacted;
            }
            if answer.canceled() {
                return Broken::Connection(answer.cancel_reason().to_owned());
            }
            self.healthy.store(true, std::sync::atomic::Ordering::Relaxed);
            // In this order: what is in neither was served after all.
            let joining = load(&self.joining);
            let caches = self.caches();
            let changes = answer.events().iter().filter_map(|event| Some((event.event_type(), event.kv()?)));
            let mut changes: Vec<_> =
                changes.map(|(ty, kv)| (position::of(kv.key(), kv.mod_revision()), ty, kv)).collect();
            // What one transaction of others wrote need not stand in this order.
            changes.sort_by_key(|(revision, ..)| *revision);
            let last = changes.last().map_or(0, |(.., kv)| position::end(kv.mod_revision()));
            for (revision, ty, kv) in changes {
                let Ok(key) = std::str::from_utf8(kv.key()) else { continue };
                let value = (ty == EventType::Put).then(|| kv.value());
                apply(self.etcd.transform(), &caches, key, value, revision);
                if !joining.is_empty() {
                    let unserved = joining
                        .iter()
                        .filter(|(prefix, cache)| caches.get(*prefix).is_none_or(|served| !Arc::ptr_eq(served, cache)));
                    apply(
                        self.etcd.transform(),
                        &unserved.map(|(prefix, cache)| (prefix.clone(), Arc::clone(cache))).collect(),
                        key,
                        value,
                        revision,
                    );
                }
            }
            self.publish(last);
        }
    }

    async fn list_again(&self) -> Result<(), StorageError> {
        let caches = self.caches();
        let (mut entries, revision) = list(&self.etcd, &self.etcd.root(), &caches).await?;
        for (prefix, cache) in caches.iter() {
            cache.replace(entries.remove(prefix).unwrap_or_default(), revision);
        }
        // What joins has missed events too; its own list may be older.
        let joining = load(&self.joining);
        let (mut entries, revision) = list(&self.etcd, &self.etcd.root(), &joining).await?;
        for (prefix, cache) in joining.iter() {
            cache.complete(entries.remove(prefix).unwrap_or_default(), revision);
        }
        self.publish(revision);
        Ok(())
    }

    fn publish(&self, revision: u64) {
        self.revision.send_if_modified(|current| {
            let newer = revision > *current;
            *current = revision.max(*current);
            newer
        });
    }

    fn caches(&self) -> Arc<Caches> {
        load(&self.caches)
    }

    /// Follows a further prefix from now on; nothing that happened to it is lost. It replaces a cache of the same prefix,
    /// whose watches end.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn join(&self, cache: Arc<ResourceCache>) -> Result<(), StorageError> {
        let prefix = cache.prefix().to_owned();
        edit(&self.joining, |caches| caches.insert(prefix.clone(), Arc::clone(&cache)));
        // Whatever the clock was applying before is in this list: its revision is the newest.
        let one = Caches::from([(prefix.clone(), Arc::clone(&cache))]);
        let listed = list(&self.etcd, &prefix, &one).await;
        let outcome = listed.map(|(mut entries, revision)| {
            cache.complete(entries.remove(&prefix).unwrap_or_default(), revision);
            if let Some(old) = edit(&self.caches, |caches| caches.insert(prefix.clone(), cache)) {
                old.end_watches();
            }
        });
        edit(&self.joining, |caches| caches.remove(&prefix));
        outcome
    }

    /// Forgets a prefix and ends its watches.
    pub fn leave(&self, prefix: &str) {
        if let Some(old) = edit(&self.caches, |caches| caches.remove(prefix)) {
            old.end_watches();
        }
    }

    /// The cache for a key prefix.
    pub fn cache(&self, prefix: &str) -> Option<Arc<ResourceCache>> {
        self.caches.read().unwrap_or_else(PoisonError::into_inner).get(prefix).cloned()
    }

    /// Visits every cache.
    pub fn for_each_cache(&self, visit: impl Fn(&ResourceCache)) {
        self.caches().values().for_each(|cache| visit(cache));
    }

    /// The last published revision: everything up to it is in the caches.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Whether events arrive.
    pub fn is_following(&self) -> bool {
        self.healthy.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Waits until everything up to `revision` is in the caches.
    ///
    /// # Errors
    /// It does not come within 3 s.
    pub async fn wait(&self, revision: u64) -> Result<(), StorageError> {
        if self.revision() >= revision {
            return Ok(());
        }
        let mut receiver = self.revision.subscribe();
        let reached = receiver.wait_for(|current| *current >= revision);
        match tokio::time::timeout(MAX_WAIT, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(StorageError::Future { asked: revision, current: self.revision() }),
        }
    }

    /// Makes the caches at least as new as every write acknowledged before the call, and gives that revision. Callers that
    /// wait at the same time share one read.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn catch_up(&self) -> Result<u64, StorageError> {
        use std::sync::atomic::Ordering::SeqCst;
        let seen = self.started.load(SeqCst);
        let mut round = self.fresh.lock().await;
        if round.number <= seen {
            round.number = self.started.fetch_add(1, SeqCst) + 1;
            // A failed read must not be taken for a finished round.
            match self.etcd.revision().await {
                Ok(revision) => round.revision = revision,
                Err(error) => {
                    round.number = seen;
                    return Err(error);
                }
            }
        }
        let revision = round.revision;
        drop(round);
        self.wait(revision).await?;
        Ok(revision)
    }
}

fn load(caches: &RwLock<Arc<Caches>>) -> Arc<Caches> {
    Arc::clone(&caches.read().unwrap_or_else(PoisonError::into_inner))
}

fn edit<R>(caches: &RwLock<Arc<Caches>>, with: impl FnOnce(&mut Caches) -> R) -> R {
    let mut caches = caches.write().unwrap_or_else(PoisonError::into_inner);
    with(Arc::make_mut(&mut caches))
}

/// Finds the cache that a key belongs to, and the key within it.
fn locate<'c, 'k>(caches: &'c Caches, key: &'k str) -> Option<(&'c Arc<ResourceCache>, &'k str)> {
    let (prefix, cache) =
        caches.range::<str, _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key))).next_back()?;
    Some((cache, key.strip_prefix(prefix.as_str()).filter(|rest| !rest.is_empty())?))
}

fn entry(
    transform: &Transform,
    cache: &ResourceCache,
    key: &str,
    whole_key: &str,
    value: &[u8],
    revision: u64,
) -> Option<Entry> {
    let json = transform.from_storage(whole_key, value);
    match json.and_then(|(json, _)| Entry::new(key.into(), &json, revision, cache.probe())) {
        Ok(entry) => Some(entry),
        Err(error) => {
            tracing::error!(key = whole_key, err = %error, "An object in etcd is not served");
            None
        }
    }
}

fn apply(transform: &Transform, caches: &Caches, whole_key: &str, value: Option<&[u8]>, revision: u64) {
    let Some((cache, key)) = locate(caches, whole_key) else { return };
    let entry = match value {
        None => None,
        Some(value) => match entry(transform, cache, key, whole_key, value, revision) {
            Some(entry) => Some(entry),
            None => return,
        },
    };
    cache.apply(key, entry, revision);
}

async fn list(etcd: &Etcd, prefix: &str, caches: &Caches) -> Result<(HashMap<String, Vec<Entry>>, u64), StorageError> {
    let mut entries: HashMap<String, Vec<Entry>> = HashMap::new();
    let revision = etcd
        .list(prefix, |whole_key, value, revision| {
            let Some((cache, key)) = locate(caches, whole_key) else { return };
            if let Some(entry) = entry(etcd.transform(), cache, key, whole_key, value, revision) {
                entries.entry(cache.prefix().to_owned()).or_default().push(entry);
            }
        })
        .await?;
    Ok((entries, revision))
}
