//! A request as webhooks and policies see it: the object in the version they asked for, and everything about the request.

use std::sync::Arc;

use apimachinery::codec::{self, FieldValidation};
use apimachinery::gvk::GroupVersionKind;
use apimachinery::meta;
use apimachinery::status::Status;
use serde_json::{Map, Value, json};

use super::matching::Seen;
use crate::admission::{Operation, Request};
use crate::config::ServerOptions;
use crate::extension::convert::Conversion;
use crate::resources::{HookContext, Resource, ResourceTable};

/// What a request is about.
#[derive(Clone)]
pub struct Subject {
    /// The resource.
    pub resource: Arc<Resource>,
    /// The served version of the request.
    pub version: String,
}

impl Subject {
    /// Of a request; `None` for what the table does not know.
    pub fn of(request: &Request<'_>, table: &ResourceTable) -> Option<Self> {
        let resource = Arc::clone(table.by_plural(request.group, request.resource)?);
        let info = &request.ctx.info;
        let asked = info.api_group == request.group && info.resource == request.resource;
        let version = resource.version(&info.api_version).filter(|_| asked).or(resource.versions.first());
        let version = version.map_or_else(|| "v1".to_owned(), |version| version.version.clone());
        Some(Self { resource, version })
    }

    /// Other versions of it are not known here without asking.
    pub(super) fn converts_by_webhook(&self) -> bool {
        let custom = self.resource.custom.as_ref();
        custom.is_some_and(|custom| matches!(custom.conversion, Conversion::Webhook { .. }))
    }

    fn kind(&self, request: &Request<'_>) -> GroupVersionKind {
        kind_in(&self.resource, &self.version, request.subresource)
    }
}

fn kind_in(resource: &Resource, version: &str, subresource: &str) -> GroupVersionKind {
    match resource.subresource(subresource) {
        Some(sub) if sub.gvk.kind != resource.kind => sub.gvk.clone(),
        _ => GroupVersionKind::new(&*resource.group, version, &*resource.kind),
    }
}

/// The request in one version.
pub struct View {
    resource: Arc<Resource>,
    seen: Seen,
    kind: GroupVersionKind,
    /// A subresource with a kind of its own, which is not converted.
    foreign: bool,
    /// `apiVersion` in which the server works on the object.
    given: String,
    /// The new object; null when there is none.
    pub object: Value,
    /// The stored object; null when there is none.
    pub old: Value,
}

impl View {
    /// The request as it is seen.
    pub fn new(request: &Request<'_>, object: Option<&Value>, seen: &Seen, table: &ResourceTable) -> Option<Self> {
        let resource = Arc::clone(table.by_plural(&seen.group, &seen.plural)?);
        let kind = kind_in(&resource, &seen.version, request.subresource);
        let foreign = kind.kind != resource.kind;
        let given = meta::api_version(object.or(request.old).unwrap_or(&Value::Null)).to_owned();
        let (seen, object_now, old) = (seen.clone(), Value::Null, Value::Null);
        let mut view = Self { resource, seen, kind, foreign, given, object: object_now, old };
        view.object = object.map_or(Value::Null, |object| view.served(object));
        view.old = request.old.map_or(Value::Null, |old| view.served(old));
        Some(view)
    }

    /// Whether it shows what is wanted.
    pub fn is(&self, seen: &Seen) -> bool {
        self.seen == *seen
    }

    fn served(&self, object: &Value) -> Value {
        let mut object = object.clone();
        let version = self.resource.version(&self.seen.version).filter(|_| !self.foreign);
        if let Some(conversion) = version.and_then(|version| version.conversion) {
            (conversion.from_storage)(&mut object);
        }
        if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion".to_owned(), self.kind.api_version().into());
            map.insert("kind".to_owned(), self.kind.kind.clone().into());
        }
        object
    }

    /// The schema of the object.
    pub fn ty(&self, request: &Request<'_>) -> Option<&apimachinery::schema::Type> {
        if self.foreign {
            return self.resource.subresource(request.subresource)?.ty.as_deref();
        }
        self.resource.version(&self.seen.version).map(|version| &*version.ty)
    }

    /// Takes a changed object over: unknown fields are dropped, what is left out is filled in.
    ///
    /// # Errors
    /// It is no object of the kind any more.
    pub fn change(&mut self, request: &Request<'_>, object: Value, options: &ServerOptions) -> Result<(), Status> {
        let mut object = match self.ty(request) {
            Some(ty) => codec::conform(ty, object, FieldValidation::Ignore)?.value,
            None => object,
        };
        if meta::kind(&object) != self.kind.kind || meta::api_version(&object) != self.kind.api_version() {
            return Err(Status::internal("the kind of an object cannot be changed"));
        }
        if !self.foreign {
            let context = HookContext {
                request: request.ctx,
                resource: &self.resource,
                version: &self.seen.version,
                subresource: request.subresource,
                options,
                allocators: None,
            };
            (self.resource.strategy.default)(&mut object, &context);
        }
        self.object = object;
        Ok(())
    }

    /// The object in the form that the rest of the server works on.
    pub fn stored(&self) -> Value {
        let mut object = self.object.clone();
        let version = self.resource.version(&self.seen.version).filter(|_| !self.foreign);
        if let Some(conversion) = version.and_then(|version| version.conversion) {
            (conversion.to_storage)(&mut object);
        } else if !self.foreign {
            // Versions of custom resources differ by name; those that a webhook converts are never seen as others.
            object["apiVersion"] = self.given.clone().into();
        }
        object
    }

    /// `AdmissionRequest` without its identity and the objects; what is empty is left out.
    pub fn request(&self, request: &Request<'_>, subject: &Subject) -> Value {
        let asked = subject.kind(request);
        let gvk = |kind: &GroupVersionKind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let gvr = |group: &str, version: &str, resource: &str| json!({"group": group, "version": version, "resource": resource});
        let mut out = json!({
            "kind": gvk(&self.kind),
            "resource": gvr(&self.seen.group, &self.seen.version, &self.seen.plural),
            "requestKind": gvk(&asked),
            "requestResource": gvr(request.group, &subject.version, request.resource),
            "operation": request.operation.as_str(),
            "userInfo": user(request),
            "dryRun": request.ctx.dry_run,
        });
        let name = if request.name.is_empty() { meta::name(&self.object) } else { request.name };
        let optional = [
            ("subResource", request.subresource),
            ("requestSubResource", request.subresource),
            ("name", name),
            ("namespace", request.namespace),
        ];
        for (field, text) in optional {
            if !text.is_empty() {
                out[field] = text.into();
            }
        }
        if let Some(options) = options(request) {
            out["options"] = options;
        }
        out
    }
}

fn user(request: &Request<'_>) -> Value {
    let user = &request.ctx.user;
    let mut out = Map::new();
    if !user.name.is_empty() {
        out.insert("username".to_owned(), user.name.clone().into());
    }
    if !user.uid.is_empty() {
        out.insert("uid".to_owned(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        out.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        out.insert("extra".to_owned(), json!(user.extra));
    }
    Value::Object(out)
}

fn options(request: &Request<'_>) -> Option<Value> {
    let kind = match request.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return None,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if request.ctx.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    if request.operation != Operation::Delete && !request.ctx.field_manager.is_empty() {
        options["fieldManager"] = request.ctx.field_manager.clone().into();
    }
    Some(options)
}
