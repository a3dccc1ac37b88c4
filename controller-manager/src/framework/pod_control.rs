//! Makes and deletes pods so that a lagging cache leads to none twice: what is under way is noted before, and taken back
//! where it failed.

use std::sync::Arc;

use serde_json::Value;

use super::executor::Executor;
use super::expectations::Expectations;
use super::plan::Subject;
use super::runtime::SyncError;
use super::store::View;
use crate::views::pod::PodView;

/// What came of it.
#[derive(Debug)]
pub struct Done {
    /// How many pods were made.
    pub created: usize,
    /// The pods that were told to end.
    pub deleted: Vec<Arc<PodView>>,
    /// The first failure; that a namespace goes away is none.
    pub error: Option<SyncError>,
}

/// One controller's hands for pods.
#[derive(Clone)]
pub struct PodControl {
    executor: Executor,
    expectations: Arc<Expectations>,
}

impl PodControl {
    /// Acts by `executor`, and notes in `expectations`.
    pub fn new(executor: &Executor, expectations: &Arc<Expectations>) -> Self {
        Self { executor: executor.clone(), expectations: Arc::clone(expectations) }
    }

    /// Makes `create` pods (`make` is given the number of each) and deletes others, all of them `owner`'s.
    pub async fn perform(
        &self,
        owner: &Subject,
        create: usize,
        make: impl Fn(usize) -> Value,
        delete: &[Arc<PodView>],
    ) -> Done {
        let key = &owner.key;
        self.expectations.expect(key, create, delete.iter().map(|pod| pod.metadata.uid.clone()));
        let started = self.executor.slow_start(owner, &PodView::RESOURCE, create, make).await;
        for _ in 0..create - started.succeeded {
            self.expectations.creation_observed(key);
        }
        let error = started.error.filter(|error| !error.is_namespace_terminating());
        let mut done = Done { created: started.succeeded, deleted: Vec::new(), error };
        for (pod, result) in delete.iter().zip(self.executor.delete_pods(owner, delete).await) {
            match result {
                Ok(()) => done.deleted.push(Arc::clone(pod)),
                Err(error) => {
                    self.expectations.deletion_observed(key, &pod.metadata.uid);
                    done.error.get_or_insert(error);
                }
            }
        }
        done
    }
}
