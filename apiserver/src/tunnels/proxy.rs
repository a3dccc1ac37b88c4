//! The plain proxies: to a port of a pod, a service's endpoint or a node, over HTTP or unverified HTTPS as upstream.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use component_base::serving::{Body, full};
use component_base::tls::{ClientTlsOptions, client_config};
use http::{Request, Response};
use hyper::body::Incoming;
use rustls::pki_types::ServerName;

use super::kubelet::join;
use super::links::{self, Links};
use super::locate::{SchemeNamePort, proxyable};
use super::relay::{self, Security, Target};
use crate::http::request::RequestInfo;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// What follows `/proxy` in the URL, as the client wrote it, with its query.
pub(super) fn rest_of_path(info: &RequestInfo, uri: &http::Uri) -> String {
    // Prefix, (group,) version, (namespaces, namespace,) resource, name and `proxy` come before.
    let version = if info.api_prefix == "api" { 2 } else { 3 };
    let in_namespace = if info.resource != "namespaces" && !info.namespace.is_empty() { 2 } else { 0 };
    let skipped = version + in_namespace + 3;
    let mut at = 0;
    let path = uri.path();
    for _ in 0..skipped {
        at = path[at..].find('/').map_or(path.len(), |slash| at + slash + 1);
    }
    let rest = path[at..].find('/').map_or("/", |slash| &path[at + slash..]);
    match uri.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    }
}

/// The same without the query.
pub(super) fn path(info: &RequestInfo, uri: &http::Uri) -> String {
    let mut rest = rest_of_path(info, uri);
    rest.truncate(rest.find('?').unwrap_or(rest.len()));
    rest
}

/// Where a client that asked for a proxy without a path is sent: the same with a slash, so that relative links are right.
pub(super) fn with_slash(info: &RequestInfo, request: &Request<Incoming>) -> Option<Response<Body>> {
    let (method, uri) = (request.method(), request.uri());
    let asks = matches!(*method, http::Method::GET | http::Method::HEAD) && !relay::wants_upgrade(request.headers());
    let bare = path(info, uri) == "/" && !uri.path().ends_with('/');
    if !asks || !bare {
        return None;
    }
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let location = http::HeaderValue::from_str(&format!("{}/{query}", uri.path())).ok()?;
    let mut response = Response::new(full(""));
    *response.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(http::header::LOCATION, location);
    Some(response)
}

/// Passes a request on to a target whose path is `rest` behind the proxy's own; links in the answer lead through the proxy.
pub(super) async fn forward(
    target: Target,
    rest: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let path = request.uri().path();
    let rest = rest.split('?').next().unwrap_or_default();
    let links = Links {
        prefix: path.strip_suffix(rest).unwrap_or(path).to_owned(),
        backend: target.authority.clone(),
        asked: request.headers().get(http::header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default().to_owned(),
    };
    if let Ok(uri) = http::HeaderValue::from_str(path) {
        request.headers_mut().insert("x-forwarded-uri", uri);
    }
    links::rewritten(relay::forward(target, request).await?, &links).await
}

/// Passes a request on to `host`, on the port and with the scheme that the URL named.
pub(super) async fn forward_plain(
    id: &SchemeNamePort,
    host: &str,
    path_and_query: String,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let default = if id.https { 443 } else { 80 };
    let port = if id.port.is_empty() { Ok(default) } else { id.port.parse() };
    let port: u16 = port.map_err(|_| Status::bad_request(format!("{:?} is not a port number", id.port)))?;
    if host.parse().is_ok_and(|address| !proxyable(address)) || host == "localhost" {
        return Err(Status::bad_request("address not allowed"));
    }
    let security = if id.https {
        let options = ClientTlsOptions { insecure_skip_verify: true, ..ClientTlsOptions::default() };
        let tls = Arc::new(client_config(&options).map_err(Status::internal)?);
        let name = ServerName::try_from(host.to_owned()).map_err(Status::internal)?;
        Some(Security { tls, name })
    } else {
        None
    };
    let identity = http::HeaderMap::new();
    let authority = join(host, port);
    let rest = path_and_query.clone();
    let target = Target { authority, security, path_and_query, connect_timeout: CONNECT_TIMEOUT, identity };
    forward(target, &rest, request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::Query;

    #[test]
    fn what_follows_proxy() {
        let cases = [
            ("/api/v1/nodes/n/proxy/metrics/cadvisor?x=1", "/metrics/cadvisor?x=1"),
            ("/api/v1/nodes/n/proxy", "/"),
            ("/api/v1/nodes/n/proxy/", "/"),
            ("/api/v1/namespaces/a/pods/p:80/proxy/a%2Fb", "/a%2Fb"),
            ("/api/v1/namespaces/a/services/https:s:/proxy/proxy/x", "/proxy/x"),
        ];
        for (uri, expected) in cases {
            let uri: http::Uri = uri.parse().unwrap();
            let info = RequestInfo::parse(&http::Method::GET, uri.path(), &Query::default());
            assert_eq!(rest_of_path(&info, &uri), expected, "{uri}");
        }
    }
}
