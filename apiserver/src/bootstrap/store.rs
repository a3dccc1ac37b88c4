//! [`Store`] over the registry, as the server's own user, and over etcd for the keys that are no objects.

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::gvk::GroupResource;
use apimachinery::meta;
use apimachinery::status::Status;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;

use super::{MASTER_LEASE, Store};
use crate::http::request::RequestContext;
use crate::objects::{Objects, ResourceName};
use crate::registry::{DeleteOptions, Registry, Target, UpdateOptions};
use crate::resources::{Resource, ServedVersion};
use crate::storage::etcd::{Etcd, Written};
use crate::storage::lease::Leases;

/// The registry and etcd.
pub struct RegistryStore {
    registry: Arc<Registry>,
    etcd: Etcd,
    leases: Leases,
    prefix: String,
}

struct Resolved {
    ctx: RequestContext,
    resource: Arc<Resource>,
}

impl Resolved {
    fn version(&self) -> Result<&ServedVersion, Status> {
        self.resource.versions.first().ok_or_else(Status::no_such_path)
    }

    fn target<'a>(&'a self, namespace: &'a str, name: &'a str) -> Result<Target<'a>, Status> {
        let (ctx, resource) = (&self.ctx, &*self.resource);
        Ok(Target { ctx, resource, version: self.version()?, subresource: None, namespace, name })
    }
}

impl RegistryStore {
    /// Over a registry whose clock has started.
    pub fn new(registry: Arc<Registry>, etcd: Etcd) -> Self {
        let leases = Leases::new(etcd.clone(), MASTER_LEASE);
        let prefix = etcd.key_prefix("/registry/masterleases/");
        Self { registry, etcd, leases, prefix }
    }

    fn resolve(&self, (group, plural): ResourceName<'static>) -> Result<Resolved, Status> {
        let table = self.registry.table().load();
        let resource = table.by_plural(group, plural);
        let resource = resource.ok_or_else(|| Status::not_found(&GroupResource::new(group, plural), ""))?;
        Ok(Resolved { ctx: RequestContext::internal(Timestamp::now()), resource: Arc::clone(resource) })
    }
}

impl Store for RegistryStore {
    fn get(&self, resource: ResourceName<'static>, namespace: &str, name: &str) -> Option<Value> {
        Objects::get(&*self.registry, resource, namespace, name).map(Arc::unwrap_or_clone)
    }

    fn list(&self, resource: ResourceName<'static>, namespace: &str) -> Vec<Value> {
        Objects::list(&*self.registry, resource, namespace).into_iter().map(Arc::unwrap_or_clone).collect()
    }

    fn create(&self, resource: ResourceName<'static>, object: Value) -> BoxFuture<'_, Result<Value, Status>> {
        Box::pin(async move {
            let resolved = self.resolve(resource)?;
            let namespace = meta::namespace(&object).to_owned();
            self.registry.create(&resolved.target(&namespace, "")?, object).await.map(|object| object.value())
        })
    }

    fn update(
        &self,
        resource: ResourceName<'static>,
        subresource: &'static str,
        object: Value,
    ) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move {
            let resolved = self.resolve(resource)?;
            let mut target = resolved.target(meta::namespace(&object), meta::name(&object))?;
            target.subresource = resolved.resource.subresource(subresource);
            self.registry.update(&target, &|_| Ok(object.clone()), UpdateOptions::default()).await.map(|_| ())
        })
    }

    fn delete<'a>(
        &'a self,
        resource: ResourceName<'static>,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let resolved = self.resolve(resource)?;
            self.registry.delete(&resolved.target(namespace, name)?, &DeleteOptions::default()).await.map(|_| ())
        })
    }

    fn renew_master<'a>(&'a self, address: IpAddr, value: Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let key = format!("{}{address}", self.prefix);
            let json = serde_json::to_vec(&value).map_err(Status::internal)?;
            let lease = Some(self.leases.get().await?);
            match self.etcd.create(&key, &json, lease).await? {
                Written::Done(_) | Written::Refused(None) => Ok(()),
                Written::Refused(Some(there)) => {
                    // Writing again under a new lease is what renews it.
                    self.etcd.update(&key, there.revision, &json, lease).await?;
                    Ok(())
                }
            }
        })
    }

    fn remove_master(&self, address: IpAddr) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move {
            let key = format!("{}{address}", self.prefix);
            if let Some(there) = self.etcd.get(&key).await? {
                self.etcd.delete(&key, there.revision).await?;
            }
            Ok(())
        })
    }

    fn masters(&self) -> BoxFuture<'_, Result<Vec<IpAddr>, Status>> {
        Box::pin(async move {
            let mut found = Vec::new();
            let prefix = &self.prefix;
            let mut note = |key: &str, _: &[u8], _: u64| {
                found.extend(key.strip_prefix(prefix.as_str()).and_then(|address| address.parse::<IpAddr>().ok()));
            };
            self.etcd.list(prefix, &mut note).await?;
            Ok(found)
        })
    }
}
