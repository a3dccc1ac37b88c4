//! Performs the plan of a deletion, of one object or of a collection.

use apimachinery::meta;
use apimachinery::status::{Details, Status};
use serde_json::Value;

use super::deletion::{DeleteOptions, Plan, plan};
use super::{Current, Listing, Object, ReadOptions, Registry, Target};
use crate::admission::Operation;
use crate::storage::cache::ResourceCache;
use crate::storage::etcd::Written;

const MAX_ATTEMPTS: usize = 32;

/// What a client is told of a deletion.
#[derive(Debug)]
pub enum Deleted {
    /// The object: it is still there, or its kind answers with it.
    Object {
        /// As it is or was.
        object: Object,
        /// It is removed.
        gone: bool,
    },
    /// It is removed; a success Status names it.
    Gone(Box<Status>),
}

/// What one attempt came to.
enum Step {
    Done(Deleted),
    /// Somebody wrote meanwhile; this is there now.
    Again(Option<Current>),
    /// The same, after the deletion was marked as this: who saw the mark may remove the object too.
    Marked(Current, Option<Current>),
}

impl Registry {
    /// Deletes an object, or begins to.
    ///
    /// # Errors
    /// 404, 409 for preconditions, 422 for options, what admission or storage says.
    pub async fn delete(&self, target: &Target<'_>, options: &DeleteOptions) -> Result<Deleted, Status> {
        options.validate()?;
        warn_of_orphans(target, options);
        let cache = self.cache(target.resource)?;
        let key = target.key();
        let mut now = self.cached(target).await?;
        let mut fresh = false;
        let mut admitted = false;
        let mut marked: Option<Current> = None;
        for _ in 0..MAX_ATTEMPTS {
            let Some(object) = &now else {
                if let Some(last) = &marked {
                    return gone(target, &last.value, last.revision);
                }
                if fresh {
                    return Err(target.not_found());
                }
                (now, fresh) = (self.live(target, &cache, &key).await?, true);
                continue;
            };
            if !admitted {
                let request = target.admission(Operation::Delete, Some(&object.value));
                self.chain()?.admit(&request, None).await?;
                self.chain()?.validate(&request, None).await?;
                admitted = true;
            }
            let planned = plan(&object.value, target.resource, options, target.ctx.now);
            if !fresh && matches!(planned, Err(_) | Ok(Plan::Pending)) {
                (now, fresh) = (self.live(target, &cache, &key).await?, true);
                continue;
            }
            match self.carry_out(target, &cache, &key, object, planned?).await? {
                Step::Done(deleted) => return Ok(deleted),
                Step::Again(newer) => (now, fresh) = (newer, true),
                Step::Marked(last, newer) => {
                    let same = |newer: &Current| meta::uid(&newer.value) == meta::uid(&last.value);
                    (now, fresh, marked) = (newer.filter(same), true, Some(last));
                }
            }
        }
        Err(Status::conflict(&target.resource.group_resource(), target.name, "the object changes all the time"))
    }

    async fn carry_out(
        &self,
        target: &Target<'_>,
        cache: &ResourceCache,
        key: &str,
        now: &Current,
        plan: Plan,
    ) -> Result<Step, Status> {
        let key = format!("{}{key}", cache.prefix());
        let kept = |value: &Value, revision| {
            let object = Object::at(value, revision)?;
            Ok(Step::Done(Deleted::Object { object, gone: false }))
        };
        match plan {
            Plan::Pending => kept(&now.value, now.revision),
            Plan::Mark(object) => match self.mark(target, &key, now, &object).await? {
                Ok(revision) => kept(&object, revision),
                Err(newer) => Ok(Step::Again(newer)),
            },
            Plan::MarkThenRemove(object) => match self.mark(target, &key, now, &object).await? {
                Ok(revision) => Ok(match self.remove(target, &key, &object, revision).await? {
                    Step::Again(newer) => Step::Marked(Current { value: object, revision, stale: false }, newer),
                    step => step,
                }),
                Err(newer) => Ok(Step::Again(newer)),
            },
            Plan::Remove => self.remove(target, &key, &now.value, now.revision).await,
        }
    }

    /// Stores the object with the marks of its deletion; the inner error is what is there instead of `now`.
    async fn mark(
        &self,
        target: &Target<'_>,
        key: &str,
        now: &Current,
        object: &Value,
    ) -> Result<Result<u64, Option<Current>>, Status> {
        if target.ctx.dry_run {
            return Ok(Ok(now.revision));
        }
        let lease = self.lease(target.resource).await?;
        match self.etcd.update(key, now.revision, self.outgoing(target, object).await?.json(), lease).await? {
            Written::Done(revision) => Ok(Ok(revision)),
            Written::Refused(there) => Ok(Err(self.found(target, there.as_ref()).await?)),
        }
    }

    async fn remove(&self, target: &Target<'_>, key: &str, last: &Value, seen: u64) -> Result<Step, Status> {
        let mut at = seen;
        if !target.ctx.dry_run {
            match self.etcd.delete(key, seen).await? {
                Written::Done(revision) => {
                    at = revision;
                    self.release(target, last, None).await;
                }
                Written::Refused(there) => return Ok(Step::Again(self.found(target, there.as_ref()).await?)),
            }
        }
        gone(target, last, at).map(Step::Done)
    }

    /// Deletes every object of a collection that is selected; gives them as they were.
    ///
    /// # Errors
    /// The first failure other than an object that is already gone.
    pub async fn delete_collection(
        &self,
        target: &Target<'_>,
        selected: &ReadOptions,
        options: &DeleteOptions,
    ) -> Result<Listing, Status> {
        options.validate()?;
        warn_of_orphans(target, options);
        // Once for the collection, and then for each object of it.
        let request = target.admission(Operation::Delete, None);
        self.chain()?.admit(&request, None).await?;
        self.chain()?.validate(&request, None).await?;
        let listing = self.list(target, selected).await?;
        let version = &target.version.version;
        // A limit ends it after one page.
        let (continue_token, remaining) = (listing.continue_token.clone(), listing.remaining);
        let (revision, entries) = self.listed_as(target.resource, version, listing).await?.into_entries();
        for entry in &entries {
            let one = Target { namespace: entry.namespace(), name: entry.name(), ..*target };
            match self.delete(&one, options).await {
                Err(status) if status.code != 404 => return Err(status),
                _ => {}
            }
        }
        let mut left = Listing::fixed(revision, entries);
        (left.continue_token, left.remaining) = (continue_token, remaining);
        Ok(left)
    }
}

/// What is told of an object that was removed at a revision.
fn gone(target: &Target<'_>, last: &Value, at: u64) -> Result<Deleted, Status> {
    if target.behaviour().return_deleted_object {
        return Ok(Deleted::Object { object: Object::at(last, at)?, gone: true });
    }
    let mut status = Status { status: "Success".to_owned(), ..Status::default() };
    status.details = Some(Box::new(Details {
        name: meta::name(last).to_owned(),
        group: target.resource.group.clone(),
        kind: target.resource.plural.clone(),
        uid: meta::uid(last).to_owned(),
        ..Details::default()
    }));
    Ok(Deleted::Gone(Box::new(status)))
}

/// Jobs keep their pods by default, which surprises; upstream warns of it.
fn warn_of_orphans(target: &Target<'_>, options: &DeleteOptions) {
    let job = target.resource.group == "batch" && target.resource.plural == "jobs";
    if job && options.propagation_policy.is_none() && options.orphan_dependents.is_none() {
        target.ctx.warnings.add(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
        );
    }
}
