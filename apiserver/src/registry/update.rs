//! Changing an object: PUT and PATCH, of the object or of a view of it.
//!
//! The change is computed from the cached object and written if etcd still has that revision; otherwise it is computed again
//! from what etcd has. Refusals and no-ops that were decided on a cached copy are confirmed against etcd first.

use apimachinery::field::{self, ErrorList, FieldError, Path};
use apimachinery::gvk::GroupKind;
use apimachinery::meta;
use apimachinery::status::Status;
use apimachinery::validation;
use serde_json::Value;

use super::create::settle_namespace;
use super::scale::ScaleView;
use super::{Change, Current, Object, Registry, Target, canonicalize, metadata, ownership};
use crate::admission::Operation;
use crate::resources::Rollback;
use crate::storage::cache::ResourceCache;
use crate::storage::etcd::Written;

/// How often an update is computed again because somebody else wrote meanwhile.
const MAX_ATTEMPTS: usize = 32;
/// Upstream's sentence for a lost race.
const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// How an update may go beyond its facts.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpdateOptions<'v> {
    /// The change is a server-side apply: it creates an absent object, and has itself recorded who owns what.
    pub applied: bool,
    /// The change is a patch: a uid in it is a change, not a precondition.
    pub patched: bool,
    /// What admission gets to see.
    pub admission: Admission<'v>,
}

/// What admission gets to see of an update.
#[derive(Clone, Copy, Debug, Default)]
pub enum Admission<'v> {
    /// The object.
    #[default]
    Object,
    /// The object's Scale.
    Scale(&'v ScaleView),
    /// Nothing: it has already seen what was asked for.
    Done,
}

/// What an update comes to.
enum Plan {
    /// Nothing changes.
    Keep,
    /// Write this.
    Put(Value, Rollback),
    /// The last finalizer of a terminating object is gone: remove it; clients see this.
    Remove(Value),
}

impl Registry {
    /// Changes an object. The flag tells whether it was created.
    ///
    /// # Errors
    /// What the change, admission, validation or storage says; 404, 409.
    pub async fn update(
        &self,
        target: &Target<'_>,
        change: Change<'_>,
        options: UpdateOptions<'_>,
    ) -> Result<(Object, bool), Status> {
        if let Some(scale) = self.as_scale(target) {
            return self.update_scale(target, &scale, change).await.map(|object| (object, false));
        }
        let cache = self.cache(target.resource)?;
        let key = target.key();
        // A dry run writes nothing that would tell how old the cached copy is.
        let mut fresh = target.ctx.dry_run;
        let mut current = if fresh { self.live(target, &cache, &key).await? } else { self.cached(target).await? };
        for _ in 0..MAX_ATTEMPTS {
            let Some(now) = current.take() else {
                if !fresh {
                    (current, fresh) = (self.live(target, &cache, &key).await?, true);
                    if current.is_some() {
                        continue;
                    }
                }
                return self.create_by_update(target, change, options).await.map(|object| (object, true));
            };
            let mut plan = self.plan_update(target, change, &now, options).await;
            let mut stale = now.stale;
            if !fresh && !matches!(plan, Ok(Plan::Put(..))) {
                let live = self.live(target, &cache, &key).await?;
                fresh = true;
                if live.as_ref().map(|live| live.revision) != Some(now.revision) {
                    current = live;
                    continue;
                }
                stale = live.is_some_and(|live| live.stale);
            }
            if stale && matches!(plan, Ok(Plan::Keep)) {
                plan = Ok(Plan::Put(now.value.clone(), Rollback::none()));
            }
            match self.perform(target, &cache, &key, now, plan?).await? {
                Ok(object) => return Ok((object, false)),
                Err(newer) => (current, fresh) = (newer, true),
            }
        }
        Err(Status::conflict(&target.resource.group_resource(), target.name, MODIFIED))
    }

    /// The inner error is what is there instead of `now`.
    async fn perform(
        &self,
        target: &Target<'_>,
        cache: &ResourceCache,
        key: &str,
        now: Current,
        plan: Plan,
    ) -> Result<Result<Object, Option<Current>>, Status> {
        let key = format!("{}{key}", cache.prefix());
        match plan {
            Plan::Keep => Ok(Ok(Object::of(&now.value))),
            Plan::Put(object, rollback) if target.ctx.dry_run => {
                rollback.undo().await;
                Ok(Ok(Object::of(&object)))
            }
            Plan::Put(object, rollback) => {
                let lease = self.lease(target.resource).await?;
                let outgoing = self.outgoing(target, &object).await?;
                let Current { value: old, revision, .. } = now;
                // Only who has something to give back needs the trees after the write; they are dropped otherwise.
                let kept = target.resource.strategy.release.map(move |_| (old, object));
                match self.etcd.update(&key, revision, outgoing.json(), lease).await? {
                    Written::Done(revision) => {
                        if let Some((old, new)) = &kept {
                            self.release(target, old, Some(new)).await;
                        }
                        Ok(Ok(outgoing.written(revision)))
                    }
                    Written::Refused(there) => {
                        rollback.undo().await;
                        Ok(Err(self.found(target, there.as_ref()).await?))
                    }
                }
            }
            Plan::Remove(object) if target.ctx.dry_run => Ok(Ok(Object::of(&object))),
            Plan::Remove(object) => match self.etcd.delete(&key, now.revision).await? {
                Written::Done(_) | Written::Refused(None) => {
                    self.release(target, &now.value, None).await;
                    Ok(Ok(Object::of(&object)))
                }
                Written::Refused(there) => Ok(Err(self.found(target, there.as_ref()).await?)),
            },
        }
    }

    pub(super) async fn release(&self, target: &Target<'_>, old: &Value, new: Option<&Value>) {
        if let Some(release) = target.resource.strategy.release {
            release(old, new, &self.hooks(target)).await;
        }
    }

    async fn create_by_update(
        &self,
        target: &Target<'_>,
        change: Change<'_>,
        options: UpdateOptions<'_>,
    ) -> Result<Object, Status> {
        let allowed = target.subresource.is_none() && target.behaviour().allow_create_on_update;
        if !allowed && !options.applied {
            return Err(target.not_found());
        }
        let object = change(None)?;
        named_as_url(target, &object)?;
        if !meta::uid(&object).is_empty() {
            let why = format!("Precondition failed: UID in precondition: {}, UID in object meta: ", meta::uid(&object));
            return Err(Status::conflict(&target.resource.group_resource(), target.name, &why));
        }
        let mut object = object;
        let given = meta::resource_version(&object);
        if !given.is_empty() && given != "0" {
            return Err(Status::conflict(&target.resource.group_resource(), target.name, MODIFIED));
        }
        meta::set_resource_version(&mut object, "");
        meta::set_name(&mut object, target.name);
        let create = Target { subresource: None, ..*target };
        self.create_owned(&create, object, options.applied).await
    }

    /// What the update comes to on top of `now`.
    async fn plan_update(
        &self,
        target: &Target<'_>,
        change: Change<'_>,
        now: &Current,
        options: UpdateOptions<'_>,
    ) -> Result<Plan, Status> {
        let old = &now.value;
        let served = target.served_form(old);
        let mut object = change(Some(&*served))?;
        named_as_url(target, &object)?;
        settle_namespace(target, &mut object)?;
        let hooks = self.hooks(target);
        (target.strategy().default)(&mut object, &hooks);
        if !options.applied {
            ownership::record(target, Some(&served), &mut object, matches!(options.admission, Admission::Scale(_)));
        }
        target.to_stored_form(&mut object);
        self.admit_changed(target, &mut object, old, options.admission).await?;
        self.check_identity(target, &object, now, options)?;
        meta::set_resource_version(&mut object, &now.revision.to_string());
        metadata::prepare_changed(&mut object, old, target.behaviour(), target.ctx.now);
        (target.strategy().prepare_update)(&mut object, old, &hooks);
        canonicalize(target, &mut object);
        metadata::bump_generation(&mut object, old, target.behaviour());
        ownership::keep_times(&mut object, old);
        let rollback = match target.strategy().allocate {
            Some(allocate) => allocate(&mut object, Some(old), &hooks).await?,
            None => Rollback::none(),
        };
        match self.check_changed(target, &object, old, options.admission).await {
            Ok(()) if object == *old && !now.stale => {
                rollback.undo().await;
                Ok(Plan::Keep)
            }
            Ok(()) if may_go(target, &object, old) => Ok(Plan::Remove(object)),
            Ok(()) => Ok(Plan::Put(object, rollback)),
            Err(refused) => {
                rollback.undo().await;
                Err(refused)
            }
        }
    }

    async fn admit_changed(
        &self,
        target: &Target<'_>,
        object: &mut Value,
        old: &Value,
        admission: Admission<'_>,
    ) -> Result<(), Status> {
        // The lives of the target and of the object differ; the request is made anew for each call.
        match admission {
            Admission::Done => Ok(()),
            Admission::Object => self.chain()?.admit(&shorten(target, old), Some(object)).await,
            Admission::Scale(view) => {
                let (mut scale, before) = (view.show(object), view.show(old));
                let request = crate::admission::Request { subresource: "scale", ..shorten(target, &before) };
                self.chain()?.admit(&request, Some(&mut scale)).await?;
                *object = view.take_over(object, &scale);
                Ok(())
            }
        }
    }

    async fn check_changed(
        &self,
        target: &Target<'_>,
        object: &Value,
        old: &Value,
        admission: Admission<'_>,
    ) -> Result<(), Status> {
        let hooks = self.hooks(target);
        let namespaced = target.resource.namespaced;
        let errors = field::objections(|| {
            let path = Path::new("metadata");
            let mut errors = validation::validate_object_meta(object, namespaced, validation::path_segment_name, &path);
            errors.extend(validation::validate_object_meta_update(object, old, &path));
            errors.extend((target.strategy().validate_update)(object, old, &hooks));
            errors
        });
        if !errors.is_empty() {
            return Err(self.invalid(target, &errors));
        }
        for warning in field::objections(|| (target.strategy().warnings)(object, Some(old))) {
            target.ctx.warnings.add(warning);
        }
        match admission {
            Admission::Done => Ok(()),
            Admission::Object => self.chain()?.validate(&shorten(target, old), Some(object)).await,
            Admission::Scale(view) => {
                let before = view.show(old);
                let request = crate::admission::Request { subresource: "scale", ..shorten(target, &before) };
                self.chain()?.validate(&request, Some(&view.show(object))).await
            }
        }
    }

    fn invalid(&self, target: &Target<'_>, errors: &ErrorList) -> Status {
        Status::invalid(&target.resource.group_kind(), target.name, errors)
    }

    /// uid and resource version of the wanted object against those of the present one.
    fn check_identity(
        &self,
        target: &Target<'_>,
        object: &Value,
        now: &Current,
        options: UpdateOptions,
    ) -> Result<(), Status> {
        let conflict = |why: &str| Status::conflict(&target.resource.group_resource(), target.name, why);
        let (wanted, there) = (meta::uid(object), meta::uid(&now.value));
        if !wanted.is_empty() && wanted != there && !options.patched {
            return Err(conflict(&format!(
                "Precondition failed: UID in precondition: {wanted}, UID in object meta: {there}"
            )));
        }
        match meta::resource_version(object) {
            "" | "0"
                if target.behaviour().allow_unconditional_update
                    || matches!(options.admission, Admission::Scale(_)) =>
            {
                Ok(())
            }
            "" | "0" => {
                let path = Path::new("metadata").child("resourceVersion");
                let error = FieldError::invalid(path, "0", "must be specified for an update");
                // Upstream names the resource here, not the kind.
                let about = GroupKind { group: target.resource.group.clone(), kind: target.resource.plural.clone() };
                Err(Status::invalid(&about, target.name, &vec![error]))
            }
            version if version == now.revision.to_string() => Ok(()),
            // No error of the API to upstream, which lets its parser's out as it is.
            version if version.parse::<u64>().is_err() => {
                Err(Status::failure(500, "", format!("{version:?} is no resource version")))
            }
            _ => Err(conflict(MODIFIED)),
        }
    }
}

/// The admission request of an update, for as long as the old object is borrowed.
fn shorten<'s>(target: &Target<'s>, old: &'s Value) -> crate::admission::Request<'s> {
    target.admission(Operation::Update, Some(old))
}

/// The body of a PUT says whose it is.
///
/// # Errors
/// 400.
pub fn named_as_url(target: &Target<'_>, object: &Value) -> Result<(), Status> {
    let name = meta::name(object);
    if name.is_empty() {
        return Err(Status::bad_request("the name of the object must be given, and be that of the URL"));
    }
    if name == target.name {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "the name of the object ({name}) does not match the name on the URL ({})",
        target.name
    )))
}

/// Whether a changed object that is terminating has nothing left that holds it.
fn may_go(target: &Target<'_>, object: &Value, old: &Value) -> bool {
    let terminating = meta::deletion_timestamp(old).is_some();
    let free = meta::finalizers(object).next().is_none();
    let grace_is_over = meta::deletion_grace_period_seconds(old).unwrap_or_default() == 0;
    let own = target.resource.finishes_deletion_on_update;
    let spec_free = !own || object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    terminating && free && grace_is_over && spec_free
}
