//! Which extension servers are there, and what they serve: looked at when something changed, every few seconds while one is
//! not available, and otherwise once in a while, because nothing tells when a server's own documents change.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use component_base::tls::{ClientTlsOptions, client_config};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use http::header::{ACCEPT, HeaderValue};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{API_SERVICES, Aggregator, Backend, Backends, Learned, SLICES, Spec, aggregator_user};
use crate::bootstrap::Store;
use crate::objects::Objects;
use crate::tunnels::locate::{SchemeNamePort, service_endpoints};
use crate::tunnels::relay;

/// For one request of a check.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between checks while somebody is unavailable.
const RETRY: Duration = Duration::from_secs(2);
/// Between checks when all is well.
const RESYNC: Duration = Duration::from_secs(30);
/// Longest document of an extension server.
const MAX_DOCUMENT_BYTES: usize = 32 << 20;

/// Group and version, what is known of them, and the APIService to write if its condition changed.
type Checked = ((String, String), Arc<Backend>, Option<Value>);
/// Reason and message of a condition.
pub(super) type Why = (&'static str, String);

/// Where to reach a service, or why it cannot be reached, in upstream's words.
pub(super) fn endpoint(objects: &dyn Objects, spec: &Spec) -> Result<(String, u16), Why> {
    let Spec { namespace, service: name, port, .. } = spec;
    let Some(service) = objects.get(("", "services"), namespace, name) else {
        return Err(("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    if service["spec"]["type"] == "ExternalName" {
        return Ok((service["spec"]["externalName"].as_str().unwrap_or_default().to_owned(), *port));
    }
    let ports = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let Some(found) = ports.iter().find(|p| p["port"] == *port) else {
        let why = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Err(("ServicePortError", why));
    };
    let slices = objects.list(SLICES, namespace);
    let of_service = |s: &&Arc<Value>| s["metadata"]["labels"]["kubernetes.io/service-name"] == name.as_str();
    if !slices.iter().any(|slice| of_service(&slice)) {
        return Err(("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}")));
    }
    let id = SchemeNamePort { https: true, name: name.clone(), port: port.to_string() };
    let endpoints = service_endpoints(&service, &id, &slices).ok().flatten().unwrap_or_default();
    match endpoints.get(rand::random_range(0..endpoints.len().max(1))) {
        Some(chosen) => Ok(chosen.clone()),
        None => {
            let port_name = found["name"].as_str().unwrap_or_default();
            let why =
                format!("endpoints for service/{name} in {namespace:?} have no addresses with port name {port_name:?}");
            Err(("MissingEndpoints", why))
        }
    }
}

/// The `Available` condition as it should be, when it is not.
pub(super) fn condition(object: &Value, outcome: &Result<(), Why>, now: Timestamp) -> Option<Value> {
    let (status, (reason, message)) = match outcome {
        Ok(()) => ("True", ("Passed", "all checks passed".to_owned())),
        Err(why) => ("False", why.clone()),
    };
    let wanted = json!({"type": "Available", "status": status, "reason": reason, "message": message});
    replace_condition(object, wanted, now)
}

fn replace_condition(object: &Value, mut wanted: Value, now: Timestamp) -> Option<Value> {
    let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let old = conditions.iter().position(|c| c["type"] == "Available");
    let old = old.map(|at| conditions.remove(at)).unwrap_or_default();
    if ["status", "reason", "message"].iter().all(|field| old[*field] == wanted[*field]) {
        return None;
    }
    let since = match old["status"] == wanted["status"] {
        true => old["lastTransitionTime"].clone(),
        false => apimachinery::time::format_time(now).into(),
    };
    crate::admission::set(&mut wanted, "lastTransitionTime", since);
    conditions.push(wanted);
    let mut object = object.clone();
    crate::admission::set(&mut object, "status", json!({"conditions": conditions}));
    Some(object)
}

impl Aggregator {
    /// Keeps everything current until shutdown.
    pub async fn run(self: Arc<Self>, store: &dyn Store, shutdown: CancellationToken) {
        loop {
            self.round(store).await;
            let backends = self.backends();
            let pause = match backends.values().all(|backend| backend.available) {
                true => RESYNC,
                false => RETRY,
            };
            let rest = async {
                match backends.is_empty() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.changed.notified() => {}
                () = rest => {}
            }
        }
    }

    async fn round(&self, store: &dyn Store) {
        let renewed = self.read_identity();
        let objects = self.objects.list(API_SERVICES, "");
        for object in objects.iter().filter(|o| o["spec"]["service"].is_null()) {
            let local = json!({"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available"});
            write(store, replace_condition(object, local, Timestamp::now())).await;
        }
        let before = self.backends();
        let checks: Vec<BoxFuture<'_, _>> = objects
            .iter()
            .filter_map(|object| Some((object, Spec::parse(object)?)))
            .map(|(object, spec)| {
                let key = (spec.group.clone(), spec.version.clone());
                let known = before.get(&key).filter(|known| known.spec == spec && !renewed).cloned();
                self.check(object, spec, known).boxed()
            })
            .collect();
        let mut after = Backends::new();
        let mut conditions = Vec::new();
        for (key, backend, condition) in join_all(checks).await {
            after.insert(key, backend);
            conditions.push(condition);
        }
        let same = |(key, backend): (&_, &Arc<Backend>)| {
            before.get(key).is_some_and(|b| b.available == backend.available && b.learned == backend.learned)
                && !renewed
        };
        if before.len() != after.len() || !after.iter().all(same) {
            *self.backends.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        }
        for condition in conditions {
            write(store, condition).await;
        }
    }

    async fn check(&self, object: &Value, spec: Spec, known: Option<Arc<Backend>>) -> Checked {
        let key = (spec.group.clone(), spec.version.clone());
        let mut backend = Backend {
            tls: known.as_ref().map_or_else(|| self.client(&spec), |known| known.tls.clone()),
            learned: known.map(|known| Arc::clone(&known.learned)).unwrap_or_default(),
            available: true,
            spec,
        };
        let outcome = self.ask(&mut backend).await;
        backend.available = outcome.is_ok();
        (key, Arc::new(backend), condition(object, &outcome, Timestamp::now()))
    }

    /// Whether our own certificate is another than before.
    fn read_identity(&self) -> bool {
        let Some((cert, key)) = &self.identity_files else { return false };
        let read = std::fs::read(cert).and_then(|cert| std::fs::read(key).map(|key| (cert, key)));
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(pair) if identity.as_ref() != Some(&pair) => *identity = Some(pair),
            Ok(_) => return false,
            Err(err) => {
                tracing::error!(%err, "--proxy-client-cert-file, --proxy-client-key-file: cannot read");
                return false;
            }
        }
        true
    }

    fn client(&self, spec: &Spec) -> Result<Arc<rustls::ClientConfig>, String> {
        let identity_pem = self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let options = ClientTlsOptions {
            ca_pem: spec.ca_pem.clone(),
            identity_pem,
            insecure_skip_verify: spec.insecure,
            alpn: vec![b"http/1.1".to_vec()],
        };
        client_config(&options).map(Arc::new).map_err(|err| err.to_string())
    }

    /// Asks a server for its documents; its resource list is also the proof that it is there.
    async fn ask(&self, backend: &mut Backend) -> Result<(), Why> {
        let objects = &*self.objects;
        let (address, port) = endpoint(objects, &backend.spec)?;
        let path = format!("/apis/{}/{}", backend.spec.group, backend.spec.version);
        let url = format!("https://{}{path}", crate::tunnels::kubelet::join(&address, port));
        let failed = |why: String| ("FailedDiscoveryCheck", format!("failing or missing response from {url}: {why}"));
        let resources = self.get(backend, &path).await.map_err(failed)?;
        let group = format!("apis/{}", backend.spec.group);
        let below = |path: &str| path.strip_prefix(&group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let mut learned = Learned { resources, ..Learned::default() };
        // A server without OpenAPI is available all the same.
        if let Ok(Value::Object(mut index)) = self.get(backend, "/openapi/v3").await
            && let Some(Value::Object(paths)) = index.remove("paths")
        {
            learned.openapi_v3 = paths.into_iter().filter(|(path, _)| below(path)).collect();
        }
        if let Ok(mut document) = self.get(backend, "/openapi/v2").await {
            if let Some(paths) = document["paths"].as_object_mut() {
                paths.retain(|path, _| below(path.trim_start_matches('/')));
            }
            learned.openapi_v2 = document;
        }
        if *backend.learned != learned {
            backend.learned = Arc::new(learned);
        }
        Ok(())
    }

    async fn get(&self, backend: &Backend, path: &str) -> Result<Value, String> {
        let fetch = async {
            let mut target = self.target(backend, path.to_owned(), &aggregator_user())?;
            target.identity.insert(ACCEPT, HeaderValue::from_static("application/json"));
            let response = relay::get(target).await.map_err(|status| status.message)?;
            if !response.status().is_success() {
                return Err(format!("bad status from {path}: {}", response.status().as_u16()));
            }
            let text = relay::text(response, MAX_DOCUMENT_BYTES).await;
            serde_json::from_str(&text).map_err(|err| err.to_string())
        };
        let outcome = tokio::time::timeout(TIMEOUT, fetch).await;
        outcome.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
    }
}

async fn write(store: &dyn Store, object: Option<Value>) {
    let Some(object) = object else { return };
    let name = apimachinery::meta::name(&object).to_owned();
    if let Err(err) = store.update(API_SERVICES, "status", object).await {
        // Somebody else wrote meanwhile, of which an event tells.
        tracing::info!(name, %err, "Cannot write whether an APIService is available");
    }
}
