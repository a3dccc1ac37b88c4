//! exec, attach, port-forward, logs and the proxies: what the API server only passes through.
//!
//! A tunnel is bytes in both directions. The backend's refusal travels back with its own status, headers and body; no
//! redirect is followed, but the proxies make links of their backends lead through themselves again; credentials of the
//! client never leave this server. WebSocket clients that speak what container
//! runtimes do not (`v5.channel.k8s.io`, port-forward over WebSocket) are translated to SPDY; any other protocol that
//! runtimes do not speak is refused with 400, upon which clients fall back.

pub mod kubelet;
mod links;
pub(crate) mod locate;
mod proxy;
pub(crate) mod relay;
mod spdy;
mod translate;
mod websocket;

use std::sync::Arc;

use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use component_base::serving::{Body, full};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use self::kubelet::Kubelets;
use self::locate::LogOptions;
use self::relay::Target;
use self::translate::Streams;
use crate::admission::{self, Chain, Operation};
use crate::authz::{Attributes, Union};
use crate::endpoints::shape::method_not_allowed;
use crate::http::request::{Query, RequestContext};
use crate::objects::{Objects, find};

/// Longest error text of a kubelet that is quoted.
const MAX_ERROR_BYTES: usize = 2048;

/// What tunnels need.
pub struct Tunnels {
    /// How kubelets are reached.
    pub kubelets: Kubelets,
    /// The cluster.
    pub objects: Arc<dyn Objects>,
    /// For the second look at WebSocket upgrades, which come as GET.
    pub authz: Arc<Union>,
    /// CONNECT goes through admission too.
    pub admission: Arc<Chain>,
}

impl Tunnels {
    /// Whether a subresource is a tunnel.
    pub fn serves(group: &str, resource: &str, subresource: &str) -> bool {
        group.is_empty()
            && matches!(
                (resource, subresource),
                ("pods", "exec" | "attach" | "portforward" | "log" | "proxy") | ("nodes" | "services", "proxy")
            )
    }

    /// Serves a request to such a subresource.
    ///
    /// # Errors
    /// The target does not exist, cannot be reached, or the request is malformed.
    pub async fn serve(
        &self,
        ctx: &RequestContext,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let info = &ctx.info;
        if info.subresource == "proxy"
            && let Some(redirect) = proxy::with_slash(info, &request)
        {
            return Ok(redirect);
        }
        match (info.resource.as_str(), info.subresource.as_str()) {
            ("pods", "log") if info.verb != "get" => Err(method_not_allowed()),
            ("pods", "log") => self.log(ctx, query, request).await,
            ("pods", "exec" | "attach" | "portforward") if !matches!(info.verb.as_str(), "get" | "create") => {
                Err(method_not_allowed())
            }
            ("pods", "exec" | "attach" | "portforward") => self.stream(ctx, query, request).await,
            ("pods", "proxy") => self.pod_proxy(ctx, request).await,
            ("nodes", "proxy") => self.node_proxy(ctx, request).await,
            ("services", "proxy") => self.service_proxy(ctx, request).await,
            _ => Err(Status::no_such_path()),
        }
    }

    async fn pod(&self, ctx: &RequestContext, name: &str) -> Result<Arc<Value>, Status> {
        find(&*self.objects, ("", "pods"), &ctx.info.namespace, name)
            .await?
            .ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))
    }

    async fn node(&self, name: &str) -> Result<Arc<Value>, Status> {
        find(&*self.objects, ("", "nodes"), "", name)
            .await?
            .ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), name))
    }

    async fn admit(&self, ctx: &RequestContext, options: Value) -> Result<(), Status> {
        let mut options = options;
        let request = admission::Request {
            ctx,
            operation: Operation::Connect,
            group: "",
            resource: &ctx.info.resource,
            subresource: &ctx.info.subresource,
            namespace: &ctx.info.namespace,
            name: &ctx.info.name,
            old: None,
        };
        self.admission.admit(&request, Some(&mut options)).await?;
        self.admission.validate(&request, Some(&options)).await
    }

    /// An upgrade comes as GET with WebSocket, which asks only for `get`; running commands needs `create`.
    async fn require_create(&self, ctx: &RequestContext) -> Result<(), Status> {
        if ctx.info.verb == "create" {
            return Ok(());
        }
        let mut ask = Attributes::of(Arc::clone(&ctx.user), &ctx.info);
        "create".clone_into(&mut ask.verb);
        self.authz.require(&ask).await
    }

    async fn stream(
        &self,
        ctx: &RequestContext,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        self.require_create(ctx).await?;
        let pod = self.pod(ctx, &ctx.info.name).await?;
        let path = locate::stream_path(&pod, &ctx.info.subresource, query)?;
        self.admit(ctx, stream_options(&ctx.info.subresource, query)?).await?;
        if !relay::wants_upgrade(request.headers()) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let node = self.node(pod["spec"]["nodeName"].as_str().unwrap_or_default()).await?;
        let target = self.kubelets.target(&node, path)?;
        if ctx.info.subresource == "portforward" {
            let protocols = translate::tunnelled(request.headers());
            if !protocols.is_empty() {
                return translate::tunnel(target, request, &protocols).await;
            }
        } else if translate::wants_v5(request.headers()) {
            return translate::remote_command(target, request, Streams::of(query));
        }
        match relay::untranslatable(request.headers()) {
            Some(why) => Err(Status::bad_request(why)),
            None => relay::forward(target, request).await,
        }
    }

    async fn log(
        &self,
        ctx: &RequestContext,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let options = LogOptions::parse(query, &ctx.info.name)?;
        let pod = self.pod(ctx, &ctx.info.name).await?;
        let Some(path) = locate::log_path(&pod, &options)? else {
            // Not on a node yet: there are no logs.
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        };
        let node = self.node(pod["spec"]["nodeName"].as_str().unwrap_or_default()).await?;
        let response = relay::get(self.kubelets.target(&node, path)?).await?;
        if response.status().is_success() {
            if websocket::asked(request.headers()) {
                return websocket::send(request, response.into_body());
            }
            let mut response = response;
            response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
            response.headers_mut().remove(http::header::CONTENT_LENGTH);
            response.headers_mut().remove(http::header::TRANSFER_ENCODING);
            return Ok(response);
        }
        let code = response.status().as_u16();
        let text = relay::text(response, MAX_ERROR_BYTES).await;
        Err(match code {
            400 => Status::bad_request(text),
            404 => {
                Status::failure(404, "NotFound", format!("the server could not find the requested resource ({text})"))
            }
            500 => Status::internal(text),
            code => Status::failure(code, "", format!("the kubelet answered {code}: {text}")),
        })
    }

    async fn node_proxy(&self, ctx: &RequestContext, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let id = locate::SchemeNamePort::parse(&ctx.info.name)?;
        let node = self.node(&id.name).await?;
        self.admit(ctx, json!({"path": proxy::path(&ctx.info, request.uri())})).await?;
        let path = proxy::rest_of_path(&ctx.info, request.uri());
        let own = kubelet::port(&node).to_string();
        if id.port.is_empty() || id.port == own {
            let target = self.kubelets.target(&node, path.clone())?;
            return proxy::forward(target, &path, request).await;
        }
        let host = self.kubelets.host(&node)?;
        proxy::forward_plain(&id, &host, path, request).await
    }

    async fn pod_proxy(&self, ctx: &RequestContext, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let mut id = locate::SchemeNamePort::parse(&ctx.info.name)?;
        let pod = self.pod(ctx, &id.name).await?;
        self.admit(ctx, json!({"path": proxy::path(&ctx.info, request.uri())})).await?;
        if id.port.is_empty() {
            id.port = locate::first_port(&pod).unwrap_or_default();
        }
        let address = locate::pod_address(&pod)?;
        let path = proxy::rest_of_path(&ctx.info, request.uri());
        proxy::forward_plain(&id, &address, path, request).await
    }

    async fn service_proxy(&self, ctx: &RequestContext, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let id = locate::SchemeNamePort::parse(&ctx.info.name)?;
        let services = ("", "services");
        let service = find(&*self.objects, services, &ctx.info.namespace, &id.name)
            .await?
            .ok_or_else(|| Status::not_found(&GroupResource::new("", services.1), &id.name))?;
        self.admit(ctx, json!({"path": proxy::path(&ctx.info, request.uri())})).await?;
        let slices = self.objects.list(("discovery.k8s.io", "endpointslices"), &ctx.info.namespace);
        let Some(endpoints) = locate::service_endpoints(&service, &id, &slices)? else {
            return Err(Status::not_found(&GroupResource::new("", "endpoints"), &id.name));
        };
        let Some((address, port)) = endpoints.get(rand::random_range(0..endpoints.len().max(1))) else {
            return Err(Status::service_unavailable(format!("no endpoints available for service {:?}", ctx.info.name)));
        };
        let path = proxy::rest_of_path(&ctx.info, request.uri());
        let id = locate::SchemeNamePort { port: port.to_string(), ..id };
        proxy::forward_plain(&id, address, path, request).await
    }
}

/// What admission is told of a stream: the options of the query, as upstream reads them. Output is always wanted.
fn stream_options(subresource: &str, query: &Query) -> Result<Value, Status> {
    if subresource == "portforward" {
        let port = |port: &str| port.parse::<i32>().map_err(|error| Status::bad_request(error.to_string()));
        let ports = query.all("ports").flat_map(|ports| ports.split(',')).map(port).collect::<Result<Vec<_>, _>>()?;
        return Ok(if ports.is_empty() { json!({}) } else { json!({"ports": ports}) });
    }
    let mut options = json!({"stdout": true, "stderr": true});
    for flag in ["stdin", "tty"] {
        if query.flag(flag) {
            options[flag] = true.into();
        }
    }
    if let Some(container) = query.get("container").filter(|name| !name.is_empty()) {
        options["container"] = container.into();
    }
    if subresource == "exec" {
        options["command"] = query.all("command").collect();
    }
    Ok(options)
}

/// A backend that could not be reached, as upstream words it.
fn unreachable(target: &Target, why: &dyn std::fmt::Display) -> Status {
    Status::internal(format!("error dialing backend: {}: {why}", target.authority))
}
