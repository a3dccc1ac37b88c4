//! How controllers are put together and run: queues, workers, stores and identities.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use client::events::Recorder;
use client::work_queue::{self, Requeue, WorkQueue};
use client::{Client, ClientError, ResourceRef};
use futures::future::{BoxFuture, join_all};
use tokio_util::sync::CancellationToken;

use super::credentials::Credentials;
use super::executor::{Executor, is_namespace_terminating};
use super::{Key, Stores};
use crate::config::Config;

/// A controller's queue of keys. Clones are the same queue.
pub type Queue = WorkQueue<Key>;

/// Look again after this time, if at all; or why the step failed, which brings the key back with growing pauses.
pub type SyncResult = Result<Option<Duration>, SyncError>;

/// Why a step could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A request failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Something that will come is not there yet.
    #[error("{0}")]
    Waiting(String),
    /// An object cannot be worked with as it is.
    #[error("{0}")]
    Object(String),
}

impl SyncError {
    fn client(&self) -> Option<&ClientError> {
        match self {
            Self::Client(error) => Some(error),
            Self::Waiting(_) | Self::Object(_) => None,
        }
    }

    /// 409 because the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.client().is_some_and(ClientError::is_already_exists)
    }

    /// 409 because the object changed meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.client().is_some_and(ClientError::is_conflict)
    }

    /// 404.
    pub fn is_not_found(&self) -> bool {
        self.client().is_some_and(ClientError::is_not_found)
    }

    /// Nothing can be created any more where this was to go.
    pub fn is_namespace_terminating(&self) -> bool {
        self.client().is_some_and(is_namespace_terminating)
    }
}

/// A loop over keys.
pub trait Controller: Send + Sync + 'static {
    /// Brings the object behind `key` one step closer to what is wanted. Called for one key at a time.
    fn sync(&self, key: &Key) -> impl Future<Output = SyncResult> + Send;
}

type Job = Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, ()> + Send>;

/// Called with the resource and the namespace of an object that is gone.
pub type OnDeleted = Arc<OnceLock<Box<dyn Fn(&ResourceRef, &str) + Send + Sync>>>;

/// The process while its controllers are put together.
pub struct Setup<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// All stores.
    pub stores: Stores,
    /// Who wants to know of deletions of any kind; told by the garbage collector, which watches all.
    pub on_deleted: OnDeleted,
    credentials: &'a Credentials,
    shutdown: CancellationToken,
    jobs: Vec<Job>,
}

impl<'a> Setup<'a> {
    /// Nothing yet.
    pub fn new(config: &'a Config, credentials: &'a Credentials, shutdown: CancellationToken) -> Self {
        Self {
            config,
            stores: Stores::default(),
            on_deleted: OnDeleted::default(),
            credentials,
            shutdown,
            jobs: Vec::new(),
        }
    }

    /// A queue; its name is the metrics' label.
    pub fn queue(&self, name: &str) -> Queue {
        WorkQueue::new(name)
    }

    /// Hands that act as the service account `account` of `kube-system` (or as this process, by configuration).
    pub fn executor(&mut self, account: &str) -> Executor {
        let client = self.credentials.client_for(account);
        let events = Recorder::start(&client, account, "", self.shutdown.clone());
        Executor::new(account, client, events)
    }

    /// Hands that act as this process, for what no service account of a controller may do; `name` is their label.
    pub fn own_executor(&mut self, name: &str) -> Executor {
        let (qps, burst) = (self.config.client.qps, self.config.client.burst);
        let client = self.credentials.own().with_limits(qps, burst);
        let events = Recorder::start(&client, name, "", self.shutdown.clone());
        Executor::new(name, client, events)
    }

    /// The process's own client, which may list and watch everything.
    pub fn client(&self) -> Client {
        self.credentials.own()
    }

    /// Lets `workers` workers bring the queue's keys to the controller, once all stores are filled.
    pub fn workers(&mut self, queue: Queue, workers: usize, controller: impl Controller) {
        let controller = Arc::new(controller);
        self.job(move |shutdown| async move {
            work_queue::run(&queue, workers, &shutdown, |key| work(Arc::clone(&controller), key)).await;
        });
    }

    /// Runs something else until shutdown, once all stores are filled.
    pub fn job<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        job: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) {
        self.jobs.push(Box::new(|shutdown| Box::pin(job(shutdown))));
    }

    /// Fills the stores, then runs everything until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let client = self.credentials.own();
        self.stores.start(&client, &shutdown).await;
        // Each controller is a task of its own; a panic in one ends the process (see `component_base::daemon`).
        join_all(self.jobs.into_iter().map(|job| tokio::spawn(job(shutdown.clone())))).await;
    }
}

async fn work(controller: Arc<impl Controller>, key: Key) -> Result<Requeue, SyncError> {
    match controller.sync(&key).await {
        Ok(None) => Ok(Requeue::Done),
        Ok(Some(delay)) => Ok(Requeue::After(delay)),
        // Somebody else was faster, or the object is gone and the cache will say so: look at the newer state.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(Requeue::Now),
        Err(error) => Err(error),
    }
}
