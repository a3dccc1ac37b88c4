//! The verbs of resources: decode what came, let the registry do it, present what it answers.

use std::sync::OnceLock;
use std::time::Duration;

use apimachinery::codec::{self, FieldValidation, Media};
use apimachinery::field::{FieldError, Path};
use apimachinery::gvk::{GroupKind, GroupVersion};
use apimachinery::patch;
use apimachinery::proto;
use apimachinery::schema::{self, Type};
use apimachinery::status::Status;
use bytes::Bytes;
use component_base::serving::Body;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;

use super::body::{self, PatchType};
use super::component_statuses;
use super::compress::accepts_gzip;
use super::options::{self, WriteOptions};
use super::present::{Presenter, error_event};
use super::route::Endpoints;
use super::watch_stream::{WatchStream, single};
use crate::http::request::{Query, RequestContext};
use crate::registry::list::invalid_options;
use crate::registry::{DeleteOptions, Deleted, Object, Target, UpdateOptions, Wanted, named_as_url, ownership};

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// One request to a resource.
pub struct Call<'a> {
    /// Everything that is served.
    pub endpoints: &'a Endpoints,
    /// Its context, resource, version and negotiated form.
    pub presenter: Presenter,
    /// Its query.
    pub query: Query,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TypeMeta {
    api_version: Option<String>,
    kind: Option<String>,
}

/// What the body says it is. Broken bodies say nothing here; decoding refuses them.
fn type_meta(bytes: &[u8], media: Media) -> TypeMeta {
    match media {
        Media::Json => serde_json::from_slice(bytes).unwrap_or_default(),
        Media::Yaml => codec::parse(bytes, media).ok().and_then(|v| serde_json::from_value(v).ok()).unwrap_or_default(),
        Media::Protobuf => {
            let envelope = proto::open(bytes).ok();
            envelope.map(|e| TypeMeta { api_version: Some(e.api_version), kind: Some(e.kind) }).unwrap_or_default()
        }
    }
}

/// An object from a body: of the expected kind and version, canonical; dropped fields become warnings.
///
/// # Errors
/// 400.
pub fn decode(
    ctx: &RequestContext,
    ty: &Type,
    api_version: &str,
    kind: &str,
    bytes: &[u8],
    media: Media,
    validation: FieldValidation,
) -> Result<Value, Status> {
    // Nothing is an object without fields, too.
    let hollow = matches!((media, bytes.trim_ascii()), (Media::Json | Media::Yaml, b"null") | (Media::Yaml, b""));
    let decoded = codec::decode(ty, if hollow { b"{}" } else { bytes }, media, validation);
    let given = match &decoded {
        // Read once: most bodies are what they should be.
        Ok(decoded) if media != Media::Protobuf => {
            let text = |key: &str| decoded.value.get(key).and_then(Value::as_str).map(str::to_owned);
            TypeMeta { api_version: text("apiVersion"), kind: text("kind") }
        }
        _ => type_meta(bytes, media),
    };
    fits(&given, ty, api_version, kind)?;
    let decoded = decoded?;
    for warning in decoded.warnings {
        ctx.warnings.add(warning);
    }
    let mut object = decoded.value;
    object["kind"] = kind.into();
    object["apiVersion"] = api_version.into();
    ctx.audit.request_object(&object);
    Ok(object)
}

/// What a body says it is must be what is expected here.
fn fits(given: &TypeMeta, ty: &Type, api_version: &str, kind: &str) -> Result<(), Status> {
    let given_kind = given.kind.as_deref().unwrap_or_default();
    let given_version = given.api_version.as_deref().unwrap_or_default();
    if ty.custom.is_some() && given_kind.is_empty() {
        return Err(Status::bad_request("Object 'Kind' is missing in the body of the request"));
    }
    if ty.custom.is_some() && given_kind != kind {
        let group = GroupVersion::parse(api_version).map(|gv| gv.group).unwrap_or_default();
        let error = FieldError::invalid(Path::new("kind"), given_kind, format!("must be {kind}"));
        return Err(Status::invalid(&GroupKind { group, kind: kind.to_owned() }, "", &vec![error]));
    }
    if !given_kind.is_empty() && given_kind != kind {
        let version = GroupVersion::parse(given_version).map(|gv| gv.version).unwrap_or_default();
        return Err(Status::bad_request(format!(
            "{given_kind} in version {version:?} cannot be handled as a {kind}: converting ({given_version}).{given_kind} to ({api_version}).{kind}: unknown conversion"
        )));
    }
    if !given_version.is_empty() && given_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({api_version})"
        )));
    }
    Ok(())
}

impl Call<'_> {
    /// Serves the request.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn serve(&self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        match self.presenter.ctx.info.verb.as_str() {
            "get" => self.get().await,
            "list" => self.list(request.headers()).await,
            "watch" => self.watch().await,
            "create" => self.create(request).await,
            "update" => self.update(request).await,
            "patch" => self.patch(request).await,
            "delete" => self.delete(request).await,
            "deletecollection" => self.delete_collection(request).await,
            _ => Err(Status::method_not_supported(
                &self.presenter.resource.group_resource(),
                &self.presenter.ctx.info.verb,
            )),
        }
    }

    fn target(&self) -> Result<Target<'_>, Status> {
        let Presenter { ctx, resource, version, .. } = &self.presenter;
        let info = &ctx.info;
        let collection = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
        Ok(Target {
            ctx,
            resource,
            version: resource.version(version).ok_or_else(Status::no_such_path)?,
            subresource: resource.subresource(&info.subresource),
            namespace: if resource.namespaced { &info.namespace } else { "" },
            name: if collection && info.parts.len() < 2 { "" } else { &info.name },
        })
    }

    /// The kind that the endpoint speaks: the resource's, or its subresource's.
    fn spoken(&self) -> Result<(&Type, String, String), Status> {
        let Presenter { ctx, resource, version, .. } = &self.presenter;
        if let Some(sub) = resource.subresource(&ctx.info.subresource)
            && sub.gvk.kind != resource.kind
        {
            let ty = sub.ty.as_deref().ok_or_else(Status::no_such_path)?;
            return Ok((ty, sub.gvk.api_version(), sub.gvk.kind.clone()));
        }
        let served = resource.version(version).ok_or_else(Status::no_such_path)?;
        Ok((&served.ty, resource.api_version(version), resource.kind.clone()))
    }

    /// An object of the endpoint's kind as answer.
    fn present(&self, code: StatusCode, object: &Object) -> Result<Response<Body>, Status> {
        let (_, _, kind) = self.spoken()?;
        if kind == self.presenter.resource.kind {
            return Ok(self.presenter.object(code, object));
        }
        Ok(self.presenter.view(code, object.value()))
    }

    async fn get(&self) -> Result<Response<Body>, Status> {
        let target = self.target()?;
        if self.presenter.resource.storage.is_none() {
            let status = component_statuses::get(&self.endpoints.registry, target.name).await?;
            return Ok(self.presenter.object(StatusCode::OK, &Object::of(&status)));
        }
        let registry = &self.endpoints.registry;
        let version = self.query.get("resourceVersion").unwrap_or_default();
        let object = match registry.get_scale(&target, version).await? {
            Some(scale) => scale,
            None => registry.get(&target, version).await?,
        };
        self.present(StatusCode::OK, &object)
    }

    async fn list(&self, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        if self.presenter.resource.storage.is_none() {
            return Ok(self.presenter.values(&component_statuses::list(&self.endpoints.registry).await));
        }
        if self.query.get("sendInitialEvents").is_some() {
            let why = "sendInitialEvents is forbidden for list";
            return Err(invalid_options(&vec![FieldError::forbidden(Path::new("sendInitialEvents"), why)]));
        }
        let registry = &self.endpoints.registry;
        let listing = registry.list(&self.target()?, &options::read(&self.query)?).await?;
        let Presenter { resource, version, .. } = &self.presenter;
        let listing = registry.listed_as(resource, version, listing).await?;
        Ok(self.presenter.list(listing, accepts_gzip(headers)))
    }

    async fn watch(&self) -> Result<Response<Body>, Status> {
        let options = options::watch(&self.query)?;
        let timeout = match self.query.get("timeoutSeconds").and_then(|text| text.parse::<u64>().ok()) {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => self.endpoints.min_watch.mul_f64(1.0 + rand::random::<f64>()),
        };
        match self.endpoints.registry.watch(&self.target()?, &options).await {
            Ok(mut watch) => {
                if let Some(initial) = watch.initial.take() {
                    let Presenter { registry, resource, version, .. } = &self.presenter;
                    watch.initial = Some(registry.listed_as(resource, version, initial).await?);
                }
                let stop = self.endpoints.stop_watches.clone();
                Ok(WatchStream::new(watch, self.presenter.clone(), options.bookmarks, timeout, stop).into_response())
            }
            // What went wrong after the options were understood is told within the stream, as upstream does.
            Err(status) if matches!(status.code, 410 | 504) => {
                let accepted = self.presenter.accepted;
                Ok(single(error_event(accepted, &status), accepted.content_type(true)))
            }
            Err(status) => Err(status),
        }
    }

    async fn object_of(&self, request: Request<Incoming>, options: WriteOptions) -> Result<Value, Status> {
        let (ty, api_version, kind) = self.spoken()?;
        let (parts, incoming) = request.into_parts();
        let media = body::media(&parts.headers)?;
        let bytes = body::read(incoming).await?;
        decode(&self.presenter.ctx, ty, &api_version, &kind, &bytes, media, options.validation)
    }

    async fn create(&self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let options = options::write(&self.query, "CreateOptions", None)?;
        let object = self.object_of(request, options).await?;
        let created = self.endpoints.registry.create(&self.target()?, object).await?;
        self.present(StatusCode::CREATED, &created)
    }

    async fn update(&self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let options = options::write(&self.query, "UpdateOptions", None)?;
        let object = self.object_of(request, options).await?;
        named_as_url(&self.target()?, &object)?;
        // Again when somebody else writes meanwhile.
        let wanted = Wanted::new(object)?;
        let change = |_: Option<&Value>| wanted.take();
        let registry = &self.endpoints.registry;
        let (object, created) = registry.update(&self.target()?, &change, UpdateOptions::default()).await?;
        self.present(if created { StatusCode::CREATED } else { StatusCode::OK }, &object)
    }

    async fn patch(&self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let (parts, incoming) = request.into_parts();
        let patch_type = body::patch_type(&parts.headers, self.presenter.resource.custom.is_none())?;
        let options = options::write(&self.query, "PatchOptions", self.check_apply(patch_type))?;
        let bytes = body::read(incoming).await?;
        if self.presenter.ctx.audit.level() >= crate::audit::policy::Level::Request {
            let patch = std::str::from_utf8(&bytes).ok().and_then(|text| serde_saphyr::from_str(text).ok());
            self.presenter.ctx.audit.request_object(&patch.unwrap_or_default());
        }
        let (ty, api_version, kind) = self.spoken()?;
        let tree = OnceLock::new();
        if patch_type == PatchType::Apply {
            let tree = tree.get_or_init(|| self.patch_tree(patch_type, &bytes, options));
            check_configuration(tree.as_ref().map_err(Status::clone)?, &api_version, &kind)?;
        }
        let change = self.patch_change(patch_type, &bytes, &tree, ty, options)?;
        let typed = |now: Option<&Value>| {
            let mut object = change(now)?;
            if matches!(patch_type, PatchType::Json | PatchType::Merge) {
                check_type(&object, &api_version, &kind)?;
            }
            object["kind"] = kind.clone().into();
            object["apiVersion"] = api_version.clone().into();
            Ok(object)
        };
        let registry = &self.endpoints.registry;
        let applied = patch_type == PatchType::Apply;
        let (object, created) = registry
            .update(&self.target()?, &typed, UpdateOptions { applied, patched: true, ..UpdateOptions::default() })
            .await?;
        self.present(if created { StatusCode::CREATED } else { StatusCode::OK }, &object)
    }

    /// An apply names its manager, and only an apply may be forced.
    fn check_apply(&self, patch_type: PatchType) -> Option<FieldError> {
        let unnamed = self.query.get("fieldManager").unwrap_or_default().is_empty();
        match patch_type {
            PatchType::Apply => {
                unnamed.then(|| FieldError::required(Path::new("fieldManager"), "is required for apply patch"))
            }
            _ => self
                .query
                .flag("force")
                .then(|| FieldError::forbidden(Path::new("force"), "may not be specified for non-apply patch")),
        }
    }

    /// The patch as a tree.
    fn patch_tree(&self, patch_type: PatchType, bytes: &Bytes, options: WriteOptions) -> Result<Value, Status> {
        let media = match patch_type {
            PatchType::Json | PatchType::Merge | PatchType::Strategic => Media::Json,
            PatchType::Apply => Media::Yaml,
        };
        let parsed = codec::parse_reporting(bytes, media, options.validation)?;
        if options.validation == FieldValidation::Strict && !parsed.warnings.is_empty() {
            let why = format!("strict decoding error: {}", parsed.warnings.join(", "));
            if patch_type == PatchType::Apply {
                let why = codec::yaml_duplicate(bytes).unwrap_or(why);
                return Err(Status::bad_request(format!("error strict decoding YAML: {why}")));
            }
            let error = FieldError::invalid(Path::new("patch"), "", why);
            return Err(Status::invalid(&GroupKind::default(), "", &vec![error]));
        }
        for warning in parsed.warnings {
            self.presenter.ctx.warnings.add(warning);
        }
        let document = parsed.value.is_object() || (parsed.value.is_null() && patch_type == PatchType::Apply);
        if matches!(patch_type, PatchType::Merge | PatchType::Apply) && !document {
            return Err(Status::bad_request("error decoding patch: it must be an object"));
        }
        Ok(parsed.value)
    }

    fn patch_change<'c>(
        &'c self,
        patch_type: PatchType,
        bytes: &'c Bytes,
        tree: &'c OnceLock<Result<Value, Status>>,
        ty: &'c Type,
        options: WriteOptions,
    ) -> Result<impl Fn(Option<&Value>) -> Result<Value, Status> + use<'c>, Status> {
        let ctx = &self.presenter.ctx;
        let target = self.target()?;
        Ok(move |now: Option<&Value>| {
            let tree = || tree.get_or_init(|| self.patch_tree(patch_type, bytes, options));
            if patch_type == PatchType::Apply {
                let applied = ownership::apply(&target, now, tree().as_ref().map_err(Status::clone)?, options.force)?;
                return Ok(codec::conform(ty, applied, options.validation)?.value);
            }
            let Some(now) = now else {
                return Err(Status::not_found(&self.presenter.resource.group_resource(), &ctx.info.name));
            };
            // Only now does anybody look at the patch.
            let tree = tree().as_ref().map_err(Status::clone)?;
            let patched = match patch_type {
                PatchType::Json => patch::json_patch(now, bytes)?,
                PatchType::Strategic => patch::strategic_merge(ty, now, tree)?,
                PatchType::Merge | PatchType::Apply => {
                    let mut patched = now.clone();
                    patch::merge_patch(&mut patched, tree);
                    patched
                }
            };
            let conforming = codec::conform(ty, patched, options.validation)?;
            for warning in conforming.warnings {
                ctx.warnings.add(warning);
            }
            Ok(conforming.value)
        })
    }

    /// Options from the body, or from the query when there is none: never from both, as upstream has it.
    async fn delete_options(&self, request: Request<Incoming>) -> Result<DeleteOptions, Status> {
        let (parts, incoming) = request.into_parts();
        let bytes = body::read(incoming).await?;
        if bytes.is_empty() {
            return options::delete(&self.query);
        }
        if bytes.trim_ascii() == b"null" {
            return Ok(DeleteOptions::default());
        }
        let media = body::media(&parts.headers)?;
        let ty = schema::by_name(DELETE_OPTIONS).ok_or_else(Status::no_such_path)?;
        let given = type_meta(&bytes, media);
        if given.kind.as_deref().is_some_and(|kind| !kind.is_empty() && kind != "DeleteOptions") {
            return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
        }
        let decoded = codec::decode(ty, &bytes, media, FieldValidation::Ignore)?;
        Ok(DeleteOptions::of(&decoded.value))
    }

    async fn delete(&self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let options = self.delete_options(request).await?;
        let ctx = RequestContext { dry_run: !options.dry_run.is_empty(), ..self.presenter.ctx.clone() };
        let target = Target { ctx: &ctx, ..self.target()? };
        match self.endpoints.registry.delete(&target, &options).await? {
            Deleted::Gone(status) => Ok(self.presenter.value_answer(StatusCode::OK, &status.to_value())),
            Deleted::Object { object, gone } => {
                let code = if !gone && options.orphan_dependents == Some(false) {
                    StatusCode::ACCEPTED
                } else {
                    StatusCode::OK
                };
                self.present(code, &object)
            }
        }
    }

    async fn delete_collection(&self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let options = self.delete_options(request).await?;
        let ctx = RequestContext { dry_run: !options.dry_run.is_empty(), ..self.presenter.ctx.clone() };
        let target = Target { ctx: &ctx, ..self.target()? };
        let registry = &self.endpoints.registry;
        let selected = options::read(&self.query)?;
        let left = registry.delete_collection(&target, &selected, &options).await?;
        Ok(self.presenter.list(left, false))
    }
}

/// What is applied must say that it is of the endpoint's kind.
fn check_configuration(tree: &Value, api_version: &str, kind: &str) -> Result<(), Status> {
    let (given_version, given_kind) = (tree["apiVersion"].as_str(), tree["kind"].as_str());
    if (given_version, given_kind) == (Some(api_version), Some(kind)) {
        return Ok(());
    }
    let (version, kind) = (given_version.unwrap_or_default(), given_kind.unwrap_or_default());
    Err(Status::bad_request(format!("invalid object type: {version}, Kind={kind}")))
}

/// What a patch made must still be of the endpoint's kind, or not say of which it is.
fn check_type(object: &Value, api_version: &str, kind: &str) -> Result<(), Status> {
    for (field, wanted) in [("apiVersion", api_version), ("kind", kind)] {
        let given = object[field].as_str().unwrap_or_default();
        if !given.is_empty() && given != wanted {
            let why = format!("{field} {given:?} is not {wanted:?}");
            return Err(Status::invalid(
                &GroupKind::default(),
                "",
                &vec![FieldError::invalid(Path::new("patch"), "", why)],
            ));
        }
    }
    Ok(())
}
