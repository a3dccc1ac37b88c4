//! The calls to etcd: reads, conditional writes, the watch. Mutual TLS; errors that say what to do.
//!
//! Guarantees: a write is conditional on what the caller saw, and tells what is there instead when it did not happen. Every
//! call has a time limit. Writes that are asked for at the same time travel together. Knows keys and bytes only; revisions are
//! resource versions ([`super::position`]).

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use component_base::reload::Reloading;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, GetOptions, GetResponse, KeyValue, KvClient, LeaseClient, PutOptions,
    Txn, TxnOp, TxnOpResponse, TxnResponse, WatchClient, WatchOptions, WatchStream,
};

use futures::FutureExt as _;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::transform::Transform;
use super::{StorageError, commit, diagnose, measure, position};
use crate::config::EtcdConfig;

/// How long a call may take.
const CALL_SECONDS: u64 = 10;
/// At a call that finds no server.
const MAX_ATTEMPTS: u32 = 20;
/// Until another server is tried.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);
/// Keys per page of a list; two pages are held at a time.
const PAGE_KEYS: i64 = 500;

/// A key as it lies in etcd.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The object's JSON without `resourceVersion`.
    pub json: Vec<u8>,
    /// Of the last change.
    pub revision: u64,
    /// It would be stored otherwise now.
    pub stale: bool,
    /// Of the first write; equal to `revision` when there was no other.
    pub create_revision: u64,
}

/// How a conditional write ended.
#[derive(Debug)]
pub enum Written {
    /// It is committed, at this revision.
    Done(u64),
    /// Something else is there (`None`: nothing).
    Refused(Option<Stored>),
}

/// A write on its way, and who waits for its outcome.
struct Write {
    condition: Compare,
    write: TxnOp,
    otherwise: TxnOp,
    tell: oneshot::Sender<Result<Committed, StorageError>>,
}

impl Write {
    fn txn(&self) -> Txn {
        Txn::new().when([self.condition.clone()]).and_then([self.write.clone()]).or_else([self.otherwise.clone()])
    }
}

/// At which revision of etcd something was written, or what is there instead.
type Committed = Result<i64, Option<KeyValue>>;

/// The calls of one connection.
struct Calls {
    kv: KvClient,
    watch: WatchClient,
    lease: LeaseClient,
}

/// A connection to etcd; clones share it. A new one is made when the files of its credentials change.
#[derive(Clone)]
pub struct Etcd {
    calls: Arc<Reloading<Calls>>,
    writes: Arc<Mutex<commit::Queue<Write>>>,
    prefix: String,
    transform: Arc<Transform>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

fn read(flag: &'static str, path: &str) -> Result<Option<Vec<u8>>, StorageError> {
    if path.is_empty() {
        return Ok(None);
    }
    let failed = |error: std::io::Error| StorageError::Config { flag, why: format!("{path}: {error}") };
    std::fs::read(path).map(Some).map_err(failed)
}

fn material(config: &EtcdConfig) -> Result<diagnose::Material, StorageError> {
    let ca = read("--etcd-cafile", &config.ca_file)?;
    let cert = read("--etcd-certfile", &config.cert_file)?;
    let key = read("--etcd-keyfile", &config.key_file)?;
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(diagnose::Material { ca, identity: Some((cert, key)) }),
        (None, None) => Ok(diagnose::Material { ca, identity: None }),
        _ => {
            let why = "both are needed, or neither".to_owned();
            Err(StorageError::Config { flag: "--etcd-certfile and --etcd-keyfile", why })
        }
    }
}

/// A connection with the credentials as they are now; it is opened by the first call.
fn calls(config: &EtcdConfig) -> Result<Calls, StorageError> {
    let diagnose::Material { ca, identity } = material(config)?;
    let mut options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_keep_alive(Duration::from_secs(30), Duration::from_secs(10))
        .with_keep_alive_while_idle(true);
    if config.servers.iter().any(|server| server.starts_with("https://")) {
        let mut settings = etcd_client::TlsOptions::new();
        if let Some(ca) = &ca {
            settings = settings.ca_certificate(etcd_client::Certificate::from_pem(ca));
        }
        if let Some((cert, key)) = &identity {
            settings = settings.identity(etcd_client::Identity::from_pem(cert, key));
        }
        options = options.with_tls(settings);
    }
    let unusable = |why: String| StorageError::Unreachable { servers: config.servers.join(","), why };
    // Nothing in it waits, as long as there is no password to be checked and no more servers than its queue takes.
    let client = Client::connect(&config.servers, Some(options)).now_or_never();
    let client = client.ok_or_else(|| unusable("too many servers".to_owned()))?;
    let client = client.map_err(|error| unusable(error.to_string()))?;
    Ok(Calls {
        kv: client.kv_client().max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX),
        watch: client.watch_client().max_decoding_message_size(usize::MAX),
        lease: client.lease_client(),
    })
}

/// Makes a call, again as long as it cannot leave: which of several servers is asked is up to the connection, and one of them
/// may be down. What has left is not repeated, since it may have been done.
pub(super) async fn limited<T, F>(call: &'static str, mut make: impl FnMut() -> F) -> Result<T, StorageError>
where
    F: Future<Output = Result<T, etcd_client::Error>>,
{
    let attempts = async {
        for _ in 1..MAX_ATTEMPTS {
            match make().await {
                Err(error) if is_unsent(&error) => tokio::time::sleep(BETWEEN_ATTEMPTS).await,
                outcome => return outcome,
            }
        }
        make().await
    };
    match tokio::time::timeout(Duration::from_secs(CALL_SECONDS), attempts).await {
        Err(_) => Err(StorageError::Timeout { call, seconds: CALL_SECONDS }),
        Ok(Err(error)) => {
            let why = error.to_string();
            let too_large = why.contains("request is too large") || why.contains("larger than max");
            Err(if too_large { StorageError::TooLarge } else { StorageError::Call { call, why } })
        }
        Ok(Ok(value)) => Ok(value),
    }
}

/// There was no connection to send it on.
fn is_unsent(error: &etcd_client::Error) -> bool {
    let first: &dyn std::error::Error = match error {
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::TransportError(error) => error,
        _ => return false,
    };
    let causes = std::iter::successors(Some(first), |error| error.source());
    let mut io = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.any(|io| {
        matches!(io.kind(), ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
    })
}

/// It was refused for what the others in the transaction ask for, too, and nothing of it was done.
fn is_too_much_at_once(error: &StorageError) -> bool {
    match error {
        StorageError::TooLarge => true,
        StorageError::Call { why, .. } => why.contains("too many operations"),
        _ => false,
    }
}

/// What a conditional transaction came to; `revision` is of the answer that it came in.
fn committed(answer: &TxnResponse, revision: i64) -> Committed {
    if answer.succeeded() {
        return Ok(revision);
    }
    Err(answer.op_responses().into_iter().find_map(|response| match response {
        TxnOpResponse::Get(mut got) => got.take_kvs().into_iter().next(),
        _ => None,
    }))
}

fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> i64 {
    header.map_or(0, etcd_client::ResponseHeader::revision)
}

impl Etcd {
    /// Connects and waits until etcd answers.
    ///
    /// # Errors
    /// A file that cannot be read, or why no server can be used, with the step that fails.
    pub async fn connect(config: &EtcdConfig, transform: Arc<Transform>) -> Result<Self, StorageError> {
        let files = [&config.ca_file, &config.cert_file, &config.key_file];
        let files = files.into_iter().filter(|file| !file.is_empty()).map(PathBuf::from).collect();
        let settings = config.clone();
        let calls = Reloading::new("credentials for etcd", files, move || calls(&settings))?;
        let etcd = Self { calls: Arc::new(calls), writes: Arc::default(), prefix: config.prefix.clone(), transform };
        etcd.await_answer(config, &material(config)?).await?;
        Ok(etcd)
    }

    fn kv(&self) -> KvClient {
        self.calls.get().kv.clone()
    }

    pub(super) fn lease(&self) -> LeaseClient {
        self.calls.get().lease.clone()
    }

    async fn await_answer(&self, config: &EtcdConfig, material: &diagnose::Material) -> Result<(), StorageError> {
        let deadline = tokio::time::Instant::now() + config.start_timeout;
        loop {
            let probe = tokio::time::timeout(Duration::from_secs(3), self.revision()).await;
            let why = match probe {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer within 3 s".to_owned(),
            };
            let found = diagnose::servers(&config.servers, material).await;
            if found.is_final || tokio::time::Instant::now() >= deadline {
                let why = found.why.unwrap_or(why);
                return Err(StorageError::Unreachable { servers: config.servers.join(","), why });
            }
            tracing::info!(err = found.why.unwrap_or(why), "Waiting for etcd");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn stored(&self, kv: &KeyValue) -> Result<Stored, StorageError> {
        let (json, stale) = self.transform.from_storage(&String::from_utf8_lossy(kv.key()), kv.value())?;
        Ok(Stored {
            json: json.into_owned(),
            revision: position::of(kv.key(), kv.mod_revision()),
            create_revision: position::of(kv.key(), kv.create_revision()),
            stale,
        })
    }

    /// Between JSON and stored bytes.
    pub fn transform(&self) -> &Arc<Transform> {
        &self.transform
    }

    /// What a key is about, for metrics.
    fn about<'a>(&'a self, key: &'a str) -> (&'a str, &'a str) {
        self.transform.resources_of(key).first().copied().unwrap_or_default()
    }

    /// The key prefix of a resource under this server's `--etcd-prefix`.
    pub fn key_prefix(&self, upstream: &str) -> String {
        format!("{}{}", self.prefix, upstream.strip_prefix("/registry").unwrap_or(upstream))
    }

    /// Everything of ours lies below.
    pub fn root(&self) -> String {
        format!("{}/", self.prefix)
    }

    /// The revision now, linearizable: every write that was acknowledged before the call is at or before it.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn revision(&self) -> Result<u64, StorageError> {
        let answer = limited("range", || self.range("\0", GetOptions::new().with_count_only())).await?;
        Ok(position::end(revision_of(answer.header())))
    }

    /// What lies at a key now, linearizable.
    ///
    /// # Errors
    /// etcd does not answer, or the value cannot be read.
    pub async fn get(&self, key: &str) -> Result<Option<Stored>, StorageError> {
        let found = limited("range", || self.range(key, GetOptions::new()));
        let answer = measure::call("get", self.about(key), found).await?;
        answer.kvs().first().map(|kv| self.stored(kv)).transpose()
    }

    /// Calls `visit` for every key below a prefix, all at one revision, which is returned.
    ///
    /// # Errors
    /// etcd does not answer, or it compacted the revision meanwhile.
    pub async fn list(&self, prefix: &str, mut visit: impl FnMut(&str, &[u8], u64)) -> Result<u64, StorageError> {
        let first = self.page(prefix, prefix.as_bytes().to_vec(), 0).await?;
        let at = revision_of(first.header());
        let mut page = Some(first);
        while let Some(answer) = page {
            let rest = answer.kvs().last().filter(|_| answer.more()).map(|last| [last.key(), b"\0"].concat());
            // On its way while this page is looked at.
            let next = rest.map(|from| {
                let (etcd, prefix) = (self.clone(), prefix.to_owned());
                AbortOnDropHandle::new(tokio::spawn(async move { etcd.page(&prefix, from, at).await }))
            });
            for kv in answer.kvs() {
                match std::str::from_utf8(kv.key()) {
                    Ok(key) => visit(key, kv.value(), position::of(kv.key(), kv.mod_revision())),
                    Err(_) => {
                        tracing::warn!(key = %String::from_utf8_lossy(kv.key()), "Skipping an etcd key that is not text");
                    }
                }
            }
            drop(answer);
            page = match next {
                Some(next) => {
                    let ended =
                        |error: tokio::task::JoinError| StorageError::Call { call: "range", why: error.to_string() };
                    Some(next.await.map_err(ended)??)
                }
                None => None,
            };
        }
        Ok(position::end(at))
    }

    /// Keys from one on below a prefix, at a revision of etcd (0: now).
    async fn page(&self, prefix: &str, from: Vec<u8>, at: i64) -> Result<GetResponse, StorageError> {
        let options = GetOptions::new().with_range(prefix_end(prefix)).with_limit(PAGE_KEYS).with_revision(at);
        let page = limited("range", || self.range(from.clone(), options.clone()));
        measure::call("list", self.about(prefix), page).await
    }

    /// Writes a new key.
    ///
    /// # Errors
    /// etcd does not answer (the write may have happened) or refuses the size.
    pub async fn create(&self, key: &str, json: &[u8], lease: Option<i64>) -> Result<Written, StorageError> {
        self.put_if("create", key, Compare::create_revision(key, CompareOp::Equal, 0), json, lease).await
    }

    /// Replaces a key that is still at `seen`.
    ///
    /// # Errors
    /// etcd does not answer (the write may have happened) or refuses the size.
    pub async fn update(&self, key: &str, seen: u64, json: &[u8], lease: Option<i64>) -> Result<Written, StorageError> {
        self.put_if("update", key, unchanged(key, seen), json, lease).await
    }

    async fn range(&self, key: impl Into<Vec<u8>>, options: GetOptions) -> Result<GetResponse, etcd_client::Error> {
        self.kv().get(key, Some(options)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, etcd_client::Error> {
        self.kv().txn(txn).await
    }

    async fn put_if(
        &self,
        operation: &'static str,
        key: &str,
        condition: Compare,
        json: &[u8],
        lease: Option<i64>,
    ) -> Result<Written, StorageError> {
        let options = lease.map(|lease| PutOptions::new().with_lease(lease));
        let value = self.transform.to_storage(key, json)?;
        let bytes = value.len();
        self.conditionally(operation, key, condition, TxnOp::put(key, value, options), bytes).await
    }

    /// Removes a key that is still at `seen`.
    ///
    /// # Errors
    /// etcd does not answer (the removal may have happened).
    pub async fn delete(&self, key: &str, seen: u64) -> Result<Written, StorageError> {
        self.conditionally("delete", key, unchanged(key, seen), TxnOp::delete(key, None), 0).await
    }

    async fn conditionally(
        &self,
        operation: &'static str,
        key: &str,
        condition: Compare,
        write: TxnOp,
        bytes: usize,
    ) -> Result<Written, StorageError> {
        let (tell, told) = oneshot::channel();
        let write = Write { condition, write, otherwise: TxnOp::get(key, None), tell };
        if self.writes().push(position::slot(key.as_bytes()), key.len() + bytes, write) {
            tokio::spawn(self.clone().work_off());
        }
        let ended = StorageError::Call { call: "txn", why: "the server is ending".to_owned() };
        let outcome = measure::call(operation, self.about(key), told.map(|told| told.unwrap_or(Err(ended)))).await?;
        match outcome {
            Ok(revision) => Ok(Written::Done(position::of(key.as_bytes(), revision))),
            Err(there) => Ok(Written::Refused(there.as_ref().map(|kv| self.stored(kv)).transpose()?)),
        }
    }

    fn writes(&self) -> std::sync::MutexGuard<'_, commit::Queue<Write>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what waits until nothing does.
    async fn work_off(self) {
        loop {
            let writes = self.writes().next();
            if writes.is_empty() {
                return;
            }
            self.send(writes).await;
        }
    }

    /// Makes writes in one transaction, each under its own condition, and tells each how it ended.
    async fn send(&self, writes: Vec<Write>) {
        let txn = match writes.as_slice() {
            [one] => one.txn(),
            many => Txn::new().and_then(many.iter().map(|one| TxnOp::txn(one.txn())).collect::<Vec<_>>()),
        };
        match limited("txn", || self.txn(txn.clone())).await {
            Err(error) if writes.len() > 1 && is_too_much_at_once(&error) => {
                for one in writes {
                    Box::pin(self.send(vec![one])).await;
                }
            }
            Err(error) => tell(writes, std::iter::repeat(Err(error))),
            Ok(answer) => {
                let revision = revision_of(answer.header());
                if writes.len() == 1 {
                    tell(writes, std::iter::once(Ok(committed(&answer, revision))));
                    return;
                }
                let nested = answer.op_responses().into_iter().filter_map(|response| match response {
                    TxnOpResponse::Txn(answer) => Some(Ok(committed(&answer, revision))),
                    _ => None,
                });
                tell(writes, nested);
            }
        }
    }

    /// Every change of every key after a revision, whoever makes it.
    ///
    /// # Errors
    /// etcd does not take the watch.
    pub(super) async fn watch_everything(&self, after: u64) -> Result<WatchStream, StorageError> {
        let options = WatchOptions::new().with_all_keys().with_start_revision(position::revision(after) + 1);
        let watch = || {
            let (mut watch, options) = (self.calls.get().watch.clone(), options.clone());
            async move { watch.watch("", Some(options)).await }
        };
        limited("watch", watch).await
    }

    /// Forgets what was before a revision of etcd.
    ///
    /// # Errors
    /// etcd does not answer.
    pub(super) async fn compact(&self, revision: i64) -> Result<(), StorageError> {
        let compact = || {
            let mut kv = self.kv();
            async move { kv.compact(revision, None).await }
        };
        limited("compact", compact).await.map(|_| ())
    }

    /// Compares and swaps a plain key by its version (number of writes); used between API servers. Gives the revision of etcd,
    /// or version and value that are there and the revision.
    ///
    /// # Errors
    /// etcd does not answer.
    pub(super) async fn swap_by_version(
        &self,
        key: &str,
        version: i64,
        value: &str,
    ) -> Result<Result<i64, (i64, String, i64)>, StorageError> {
        let txn = Txn::new()
            .when([Compare::version(key, CompareOp::Equal, version)])
            .and_then([TxnOp::put(key, value, None)])
            .or_else([TxnOp::get(key, None)]);
        let answer = limited("txn", || self.txn(txn.clone())).await?;
        let now = revision_of(answer.header());
        Ok(committed(&answer, now).map_err(|there| {
            let (version, value) =
                there.map_or((0, String::new()), |kv| (kv.version(), String::from_utf8_lossy(kv.value()).into_owned()));
            (version, value, now)
        }))
    }
}

fn unchanged(key: &str, seen: u64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, position::revision(seen))
}

/// Who no longer waits is not told. Fewer outcomes than writes are taken for an end of the server by those without.
fn tell(writes: Vec<Write>, outcomes: impl Iterator<Item = Result<Committed, StorageError>>) {
    for (write, outcome) in writes.into_iter().zip(outcomes) {
        let _ = write.tell.send(outcome);
    }
}

/// The first key after all keys with this prefix.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}
