//! Making a new object: upstream's order is admission, names, system metadata, preparation, reservation, validation,
//! validating admission, and the conditional write.

use apimachinery::field::{self, ErrorList, Path};
use apimachinery::meta;
use apimachinery::status::Status;
use apimachinery::validation;
use serde_json::Value;

use super::{Object, Registry, Target, Wanted, canonicalize, metadata, ownership};
use crate::admission::Operation;
use crate::resources::Rollback;
use crate::storage::etcd::Written;

/// Attempts at a generated name that nobody has.
const MAX_NAME_ATTEMPTS: usize = 8;

/// A body's namespace must be that of the URL; an absent one becomes it.
pub(super) fn settle_namespace(target: &Target<'_>, object: &mut Value) -> Result<(), Status> {
    let given = meta::namespace(object);
    if !target.resource.namespaced {
        if !given.is_empty() {
            meta::set_namespace(object, "");
        }
        return Ok(());
    }
    if given.is_empty() {
        meta::set_namespace(object, target.namespace);
    } else if given != target.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

impl Registry {
    /// Creates an object from the served version's form (decoded, not yet defaulted).
    ///
    /// # Errors
    /// What admission, validation or storage says; 409 when the name is taken.
    pub async fn create(&self, target: &Target<'_>, object: Value) -> Result<Object, Status> {
        self.create_owned(target, object, false).await
    }

    /// The same; `owned` tells that the object already says who owns what.
    pub(super) async fn create_owned(
        &self,
        target: &Target<'_>,
        mut object: Value,
        owned: bool,
    ) -> Result<Object, Status> {
        settle_namespace(target, &mut object)?;
        (target.strategy().default)(&mut object, &self.hooks(target));
        if !owned {
            ownership::record(target, None, &mut object, false);
        }
        target.to_stored_form(&mut object);
        let chain = self.chain()?;
        let request = target.admission(Operation::Create, None);
        chain.admit(&request, Some(&mut object)).await?;
        settle_namespace(target, &mut object)?;
        // What is no number counts as none.
        let versioned = meta::resource_version(&object).parse().is_ok_and(|version: u64| version != 0);
        metadata::fill_new(&mut object, target.ctx.now);
        let generated = meta::name(&object).is_empty() && !meta::generate_name(&object).is_empty();
        if !generated {
            return self.create_named(target, object, versioned).await;
        }
        let unnamed = Wanted::new(object)?;
        let mut attempts = MAX_NAME_ATTEMPTS;
        loop {
            let mut object = unnamed.take()?;
            let name = metadata::generate_name(meta::generate_name(&object));
            meta::set_name(&mut object, &name);
            attempts -= 1;
            match self.create_named(target, object, versioned).await {
                Err(taken) if attempts > 0 && taken.reason == "AlreadyExists" => {}
                outcome => return outcome,
            }
        }
    }

    async fn create_named(&self, target: &Target<'_>, mut object: Value, versioned: bool) -> Result<Object, Status> {
        let hooks = self.hooks(target);
        metadata::prepare_new(&mut object, target.behaviour());
        (target.strategy().prepare_create)(&mut object, &hooks);
        let rollback = match target.strategy().allocate {
            Some(allocate) => allocate(&mut object, None, &hooks).await?,
            None => Rollback::none(),
        };
        canonicalize(target, &mut object);
        let outcome = self.validate_and_put(target, object, versioned).await;
        if outcome.is_err() || target.ctx.dry_run {
            rollback.undo().await;
        }
        outcome
    }

    async fn validate_and_put(&self, target: &Target<'_>, object: Value, versioned: bool) -> Result<Object, Status> {
        let hooks = self.hooks(target);
        let strategy = target.strategy();
        let name = meta::name(&object).to_owned();
        let refuse = |errors: &ErrorList| Status::invalid(&target.resource.group_kind(), &name, errors);
        let errors = field::objections(|| (strategy.validate)(&object, &hooks));
        if !errors.is_empty() {
            return Err(refuse(&errors));
        }
        let namespaced = target.resource.namespaced;
        let errors = field::objections(|| {
            let path = Path::new("metadata");
            validation::validate_object_meta(&object, namespaced, validation::path_segment_name, &path)
        });
        if !errors.is_empty() {
            return Err(refuse(&errors));
        }
        for warning in field::objections(|| (strategy.warnings)(&object, None)) {
            target.ctx.warnings.add(warning);
        }
        self.chain()?.validate(&target.admission(Operation::Create, None), Some(&object)).await?;
        let named = Target { name: &name, ..*target };
        self.put_new(&named, object, versioned).await
    }

    /// `versioned`: the object came with a resource version, which is refused last of all.
    async fn put_new(&self, target: &Target<'_>, object: Value, versioned: bool) -> Result<Object, Status> {
        let cache = self.cache(target.resource)?;
        let key = target.key();
        let taken = || Status::already_exists(&target.resource.group_resource(), target.name);
        if target.ctx.dry_run {
            let there = self.live(target, &cache, &key).await?;
            return if there.is_some() { Err(taken()) } else { Ok(Object::of(&object)) };
        }
        if versioned {
            return Err(Status::failure(500, "", "resourceVersion should not be set on objects to be created"));
        }
        let outgoing = self.outgoing(target, &object).await?;
        drop(object);
        let lease = self.lease(target.resource).await?;
        match self.etcd.create(&format!("{}{key}", cache.prefix()), outgoing.json(), lease).await? {
            Written::Done(revision) => Ok(outgoing.written(revision)),
            Written::Refused(_) => Err(taken()),
        }
    }
}
