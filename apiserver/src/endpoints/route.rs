//! From a request that may be made to what answers it: which resource, which part of it, which verb.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use bytes::Bytes;
use component_base::serving::{Body, full};
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use super::negotiate::{self, Offer, Shape};
use super::present::{Presenter, value_answer};
use super::reviews::Reviews;
use super::table::IncludeObject;
use super::verbs::Call;
use super::{actions, body, shape, token_request};
use crate::aggregation::Aggregator;
use crate::http::chain::Route;
use crate::http::request::{Query, RequestContext, RequestInfo};
use crate::http::respond;
use crate::registry::Registry;
use crate::resources::Resource;
use crate::tokens::issuer::Issuer;
use crate::tunnels::Tunnels;

/// Documents about what is served: discovery, OpenAPI.
pub trait Documents: Send + Sync {
    /// The document at a path.
    fn respond(&self, path: &str, query: &str, headers: &HeaderMap) -> Option<Response<Bytes>>;
}

impl Documents for super::discovery::Discovery {
    fn respond(&self, path: &str, _: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
        Self::respond(self, path, headers)
    }
}

impl Documents for super::openapi::OpenApi {
    fn respond(&self, path: &str, query: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
        Self::respond(self, path, query, headers)
    }
}

/// What verifiers of service-account tokens ask for.
impl Documents for crate::tokens::Discovery {
    fn respond(&self, path: &str, _: &str, _: &HeaderMap) -> Option<Response<Bytes>> {
        let documents = self.documents();
        let (media, document) = match path {
            "/.well-known/openid-configuration" => ("application/json", &documents.configuration),
            "/openid/v1/jwks" => ("application/jwk-set+json", &documents.key_set),
            _ => return None,
        };
        let builder = Response::builder().header("content-type", media).header("cache-control", "public, max-age=3600");
        builder.body(document.to_string().into()).ok()
    }
}

/// Everything that is served below the filters.
pub struct Endpoints {
    /// The store.
    pub registry: Arc<Registry>,
    /// Questions about users and rights.
    pub reviews: Reviews,
    /// Issues tokens; without a key nobody does.
    pub issuer: Option<Issuer>,
    /// Extension servers.
    pub aggregator: Arc<Aggregator>,
    /// exec, logs, proxies …
    pub tunnels: Tunnels,
    /// Asked in order.
    pub documents: Vec<Box<dyn Documents>>,
    /// Shortest life of a watch that does not say.
    pub min_watch: Duration,
    /// Ends all watches.
    pub stop_watches: CancellationToken,
}

/// Paths in the list at `/` besides the documents' own.
const OWN_PATHS: [&str; 9] =
    ["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];

impl Route for Endpoints {
    fn route<'a>(&'a self, context: RequestContext, request: Request<Incoming>) -> BoxFuture<'a, Response<Body>> {
        Box::pin(async move {
            match self.answer(context, request).await {
                Ok(response) => response,
                Err(status) => respond::status(&status),
            }
        })
    }
}

fn not_found() -> Response<Body> {
    respond::text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}

/// Resources whose status is not shown as a Table.
const UNPRINTED: [&str; 3] = ["apiservices", "customresourcedefinitions", "resourceclaims"];

impl Endpoints {
    async fn answer(&self, ctx: RequestContext, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let request = match self.aggregator.answer(&ctx, request).await {
            Ok(response) => return Ok(response),
            Err(ours) => ours,
        };
        if !ctx.info.is_resource_request {
            return Ok(self.document(&ctx, &request));
        }
        let info = Arc::clone(&ctx.info);
        let table = self.registry.table().load();
        let Some(resource) = table.get(&info.api_group, &info.api_version, &info.resource) else {
            return Ok(self.document(&ctx, &request));
        };
        let terminating = resource.custom.as_ref().is_some_and(|custom| custom.identity.2);
        if terminating && info.verb == "create" {
            let mut refused = Status::method_not_supported(&resource.group_resource(), "create");
            "create not allowed while custom resource definition is terminating".clone_into(&mut refused.message);
            return Err(refused);
        }
        let query = Query::parse(request.uri().query().unwrap_or_default());
        if Tunnels::serves(&info.api_group, &info.resource, &info.subresource) {
            return self.tunnels.serve(&ctx, &query, request).await;
        }
        shape::check(&info, request.method(), resource)?;
        warn_of_deprecation(&ctx, resource);
        if Reviews::serves(&info.api_group, &info.resource) || is_token(&info) || actions::find(&info).is_some() {
            return self.action(ctx, resource, &query, request).await;
        }
        let Some(version) = resource.version(&info.api_version) else { return Ok(not_found()) };
        let offer = match info.verb.as_str() {
            "watch" => Offer::Watch,
            "list" | "deletecollection" => Offer::List,
            // Upstream's endpoints of these have no printer.
            _ if info.subresource == "status" && UNPRINTED.contains(&info.resource.as_str()) => Offer::Unprinted,
            _ => Offer::Object,
        };
        let accepted = negotiate::negotiate(request.headers(), &query, offer, version.ty.proto)?;
        let presenter = Presenter {
            registry: Arc::clone(&self.registry),
            ctx,
            resource: Arc::clone(resource),
            version: version.version.clone(),
            accepted,
            // Looked at for tables only, as upstream does.
            include: match accepted.shape {
                Shape::Table(_) => IncludeObject::of(&query)?,
                _ => IncludeObject::Metadata,
            },
        };
        Call { endpoints: self, presenter, query }.serve(request).await
    }

    fn document(&self, ctx: &RequestContext, request: &Request<Incoming>) -> Response<Body> {
        let (query, headers) = (request.uri().query().unwrap_or_default(), request.headers());
        let path = ctx.info.path.as_str();
        let found = self.documents.iter().find_map(|documents| documents.respond(path, query, headers));
        if let Some(found) = found {
            let any_method = path == "/apis" || !path.starts_with("/api");
            if !any_method && request.method() != http::Method::GET {
                return respond::status(&shape::method_not_allowed());
            }
            return found.map(full);
        }
        if path == "/" || path.is_empty() {
            return respond::json(StatusCode::OK, &serde_json::json!({"paths": self.paths()}));
        }
        if self.is_api_path(path) {
            return respond::status(&Status::no_such_path());
        }
        not_found()
    }

    /// Below the core group or a group that is served: what is missing there is told as a Status.
    fn is_api_path(&self, path: &str) -> bool {
        let mut segments = path.trim_start_matches('/').split('/');
        match (segments.next(), segments.next()) {
            (Some("api"), Some(_)) => true,
            (Some("apis"), Some(group)) => {
                segments.next().is_some() && self.registry.table().load().iter().any(|r| r.group == group)
            }
            _ => false,
        }
    }

    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = OWN_PATHS.iter().map(|&path| path.to_owned()).collect();
        for resource in self.registry.table().load().iter() {
            for version in &resource.versions {
                let group = &resource.group;
                paths.push(if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}") });
                if !group.is_empty() {
                    paths.push(format!("/apis/{group}/{}", version.version));
                }
            }
        }
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// Reviews, tokens and other kinds that are posted and answered, but not stored.
    async fn action(
        &self,
        ctx: RequestContext,
        resource: &Arc<Resource>,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let info = Arc::clone(&ctx.info);
        let accepted = negotiate::negotiate(request.headers(), query, Offer::ObjectOnly, true)?;
        let options = super::options::write(query, "CreateOptions", None)?;
        let (parts, incoming) = request.into_parts();
        let media = body::media(&parts.headers)?;
        let bytes = body::read(incoming).await?;
        let (ty, api_version, kind) = match resource.subresource(&info.subresource) {
            Some(sub) => (sub.ty.as_deref(), sub.gvk.api_version(), sub.gvk.kind.clone()),
            None => {
                let ty = resource.version(&info.api_version).map(|version| &*version.ty);
                (ty, resource.api_version(&info.api_version), resource.kind.clone())
            }
        };
        let ty = ty.ok_or_else(Status::no_such_path)?;
        let object = super::verbs::decode(&ctx, ty, &api_version, &kind, &bytes, media, options.validation)?;
        let answer = if let Some(action) = actions::find(&info) {
            action(&self.registry, &ctx, resource, object).await?
        } else if is_token(&info) {
            let chain = self.registry.chain()?;
            let issuer = self.issuer.as_ref().ok_or_else(|| {
                Status::service_unavailable("this server issues no tokens: set --service-account-signing-key-file")
            })?;
            token_request::create(issuer, &*self.registry, chain, &ctx, object).await?
        } else {
            self.reviews.create(&ctx, object).await?
        };
        Ok(value_answer(StatusCode::CREATED, accepted, &answer))
    }
}

fn is_token(info: &RequestInfo) -> bool {
    info.api_group.is_empty() && info.resource == "serviceaccounts" && info.subresource == "token"
}

/// Resources whose use upstream warns of.
const DEPRECATED: [(&str, &str, &str); 2] = [
    ("", "componentstatuses", "v1 ComponentStatus is deprecated in v1.19+"),
    ("", "endpoints", "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
];

fn warn_of_deprecation(ctx: &RequestContext, resource: &Resource) {
    let found = DEPRECATED.iter().find(|(group, plural, _)| *group == resource.group && *plural == resource.plural);
    let served = resource.version(&ctx.info.api_version).and_then(|served| served.custom.as_ref());
    let custom = served.and_then(|custom| custom.warning.as_deref());
    if let Some(sentence) = found.map(|(_, _, sentence)| *sentence).or(custom) {
        ctx.warnings.add(sentence);
    }
}
