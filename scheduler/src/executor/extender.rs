//! HTTP extenders: other programs that filter, score and bind pods they are interested in.
//!
//! Contract: upstream's extender v1 wire format. An extender is given the pod and the nodes (whole objects, or names when
//! it is `nodeCacheCapable`) as the API has them now; what fails at an `ignorable` one is as if it had not been asked.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use client::{Access, Client, ClientConfig, ListOptions, Material, ResourceRef, resources};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::file::{ExtenderFile, ExtenderTls};
use crate::model::pod::PodInfo;
use crate::preemption::Candidate;

/// Scores of extenders go to 10, those of plugins to 100.
const SCALE: i64 = 10;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// An extender, ready to be asked.
#[derive(Clone)]
pub struct Extender {
    file: ExtenderFile,
    path: String,
    timeout: Duration,
    client: Client,
}

impl std::fmt::Debug for Extender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extender").field("file", &self.file).finish_non_exhaustive()
    }
}

/// What filtering left.
#[derive(Debug, Default, PartialEq)]
pub struct Filtered {
    /// Names of nodes that are right.
    pub nodes: Vec<String>,
    /// Why others are not, and whether removing pods cannot help.
    pub failed: BTreeMap<String, (String, bool)>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FilterResult {
    nodes: Option<Nodes>,
    nodenames: Option<Vec<String>>,
    #[serde(rename = "failednodes", deserialize_with = "null_is_none")]
    failed_nodes: BTreeMap<String, String>,
    #[serde(rename = "failedandunresolvablenodes", deserialize_with = "null_is_none")]
    failed_and_unresolvable_nodes: BTreeMap<String, String>,
    error: String,
}

fn null_is_none<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Nodes {
    items: Vec<Value>,
}

#[derive(Deserialize)]
struct HostPriority {
    host: String,
    score: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PreemptionResult {
    #[serde(rename = "nodenametometavictims", deserialize_with = "null_is_none")]
    nodes: BTreeMap<String, Option<MetaVictims>>,
}

/// Pods to remove from a node, as an extender names them.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct MetaVictims {
    pods: Option<Vec<MetaPod>>,
    #[serde(rename = "numpdbviolations")]
    violations: i64,
}

#[derive(Deserialize)]
struct MetaPod {
    uid: String,
}

impl MetaVictims {
    /// Their uids.
    pub fn uids(&self) -> impl Iterator<Item = &str> {
        self.pods.iter().flatten().map(|pod| pod.uid.as_str())
    }

    /// How many of them break a disruption budget.
    pub fn violations(&self) -> usize {
        usize::try_from(self.violations).unwrap_or(0)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct BindResult {
    error: String,
}

/// Names of fields in small letters: Go's decoder does not mind their case, and extenders rely on that.
fn small(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name.to_lowercase(), small(value))).collect(),
        Value::Array(items) => items.into_iter().map(small).collect(),
        other => other,
    }
}

fn material(data: &str, file: &str) -> Result<Option<Material>, String> {
    use base64::Engine as _;
    if !data.is_empty() {
        let pem =
            base64::engine::general_purpose::STANDARD.decode(data).map_err(|e| format!("extender TLS data: {e}"))?;
        return Ok(Some(Material::Inline(pem)));
    }
    Ok((!file.is_empty()).then(|| Material::File(file.into())))
}

fn access(server: String, tls: &ExtenderTls) -> Result<Access, String> {
    Ok(Access {
        server,
        ca: material(&tls.ca_data, &tls.ca_file)?,
        certificate: material(&tls.cert_data, &tls.cert_file)?,
        key: material(&tls.key_data, &tls.key_file)?,
        tls_server_name: (!tls.server_name.is_empty()).then(|| tls.server_name.clone()),
        insecure_skip_tls_verify: tls.insecure,
        ..Access::default()
    })
}

impl Extender {
    /// From its part of the configuration.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn new(file: ExtenderFile) -> Result<Self, String> {
        let url = file.url_prefix.trim_end_matches('/');
        if !file.prioritize_verb.is_empty() && file.weight <= 0 {
            return Err(format!("extender {url}: weight must be positive with a prioritizeVerb"));
        }
        let uri: http::Uri = url.parse().map_err(|e| format!("extender {url:?}: {e}"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(format!("extender {url:?}: urlPrefix must be http(s)://host[:port]/path"));
        };
        let scheme = if file.enable_https { "https" } else { scheme };
        let access = access(format!("{scheme}://{authority}"), &file.tls_config)?;
        let config = ClientConfig::with_access(access, "kube-scheduler");
        let timeout = match file.http_timeout.as_deref() {
            None | Some("" | "0" | "0s") => DEFAULT_TIMEOUT,
            Some(text) => {
                let nanos = apimachinery::time::parse_duration(text).filter(|n| *n > 0);
                let nanos = nanos.and_then(|n| u64::try_from(n).ok());
                Duration::from_nanos(
                    nanos.ok_or_else(|| format!("extender {url}: httpTimeout {text:?} is no duration"))?,
                )
            }
        };
        let client = Client::new(config).map_err(|e| format!("extender {url}: {e}"))?;
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { file, path, timeout, client })
    }

    /// Resources that the scheduler leaves to extenders.
    pub fn ignored_resources(&self) -> impl Iterator<Item = &str> {
        self.file.managed_resources.iter().filter(|r| r.ignored_by_scheduler).map(|r| r.name.as_str())
    }

    /// Whether it wants to be asked about a pod: it manages none in particular, or a resource that the pod requests.
    pub fn is_interested(&self, pod: &PodInfo) -> bool {
        let managed = &self.file.managed_resources;
        managed.is_empty() || managed.iter().any(|r| pod.template.requests.get(&r.name) != 0)
    }

    /// Whether it binds.
    pub fn binds(&self) -> bool {
        !self.file.bind_verb.is_empty()
    }

    /// Whether what fails here is to be ignored.
    pub fn is_ignorable(&self) -> bool {
        self.file.ignorable
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, verb: &str, body: &Value) -> Result<T, String> {
        let what = || format!("extender {}/{verb}", self.file.url_prefix.trim_end_matches('/'));
        let request = http::Request::post(format!("{}/{verb}", self.path))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Bytes::from(body.to_string()))
            .map_err(|e| format!("{}: {e}", what()))?;
        let answer = tokio::time::timeout(self.timeout, self.client.once(request)).await;
        let answer = answer.map_err(|_| format!("{}: no answer within {:?}", what(), self.timeout))?;
        let answer = answer.map_err(|e| format!("{}: {e}", what()))?;
        let answer = serde_json::from_slice(answer.body()).map(small);
        answer.and_then(serde_json::from_value).map_err(|e| format!("{}: {e}", what()))
    }

    fn args(&self, pod: &Value, nodes: &[Value]) -> Value {
        let name = |n: &Value| n["metadata"]["name"].clone();
        if self.file.node_cache_capable {
            return json!({"Pod": pod, "NodeNames": nodes.iter().map(name).collect::<Vec<_>>()});
        }
        json!({"Pod": pod, "Nodes": {"apiVersion": "v1", "kind": "NodeList", "metadata": {}, "items": nodes}})
    }

    /// Which of the nodes are right for a pod.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn filter(&self, pod: &Value, nodes: &[Value]) -> Result<Filtered, String> {
        let name = |n: &Value| n["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.file.filter_verb.is_empty() {
            return Ok(Filtered { nodes: nodes.iter().map(name).collect(), failed: BTreeMap::new() });
        }
        let result: FilterResult = self.ask(&self.file.filter_verb, &self.args(pod, nodes)).await?;
        if !result.error.is_empty() {
            return Err(result.error);
        }
        let left = match (result.nodenames, result.nodes) {
            (Some(names), _) if self.file.node_cache_capable => names,
            (_, Some(nodes)) => nodes.items.iter().map(name).collect(),
            (names, None) => names.unwrap_or_default(),
        };
        let failed = result.failed_nodes.into_iter().map(|(node, why)| (node, (why, false)));
        let hopeless = result.failed_and_unresolvable_nodes.into_iter().map(|(node, why)| (node, (why, true)));
        Ok(Filtered { nodes: left, failed: failed.chain(hopeless).collect() })
    }

    /// Weighted scores by node, on the scale of the plugins' ones.
    ///
    /// # Errors
    /// What went wrong; upstream takes that for no opinion.
    pub async fn prioritize(&self, pod: &Value, nodes: &[Value]) -> Result<BTreeMap<String, i64>, String> {
        if self.file.prioritize_verb.is_empty() {
            return Ok(BTreeMap::new());
        }
        let list: Vec<HostPriority> = self.ask(&self.file.prioritize_verb, &self.args(pod, nodes)).await?;
        Ok(list.into_iter().map(|p| (p.host, p.score.saturating_mul(self.file.weight.saturating_mul(SCALE)))).collect())
    }

    /// An answer of it; none when it may be ignored and failed.
    ///
    /// # Errors
    /// What went wrong.
    pub fn unless_ignored<T>(&self, pod: &PodInfo, answer: Result<T, String>) -> Result<Option<T>, String> {
        match answer {
            Err(why) if self.is_ignorable() => {
                tracing::warn!(pod = %pod.key, why, "an extender is ignored");
                Ok(None)
            }
            answer => answer.map(Some),
        }
    }

    /// Whether it is asked before pods are removed.
    pub fn preempts(&self) -> bool {
        !self.file.preempt_verb.is_empty()
    }

    /// Whether it is shown whole objects.
    pub fn wants_objects(&self) -> bool {
        !self.file.node_cache_capable
    }

    /// A candidate as this extender is shown it. `pods` has all pods by uid, for those that want whole ones.
    pub fn victims(&self, candidate: &Candidate, pods: &BTreeMap<String, Value>) -> Value {
        let uids = candidate.victims.iter().map(|p| &*p.uid);
        let pods: Vec<Value> = if self.file.node_cache_capable {
            uids.map(|uid| json!({"UID": uid})).collect()
        } else {
            uids.filter_map(|uid| pods.get(uid).cloned()).collect()
        };
        json!({"Pods": pods, "NumPDBViolations": candidate.violations})
    }

    /// What remains of nodes where preemption would help, and who is to go there.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn preempt(
        &self,
        pod: &Value,
        nodes: BTreeMap<String, Value>,
    ) -> Result<BTreeMap<String, MetaVictims>, String> {
        let shown = if self.file.node_cache_capable { "NodeNameToMetaVictims" } else { "NodeNameToVictims" };
        let result: PreemptionResult = self.ask(&self.file.preempt_verb, &json!({"Pod": pod, shown: nodes})).await?;
        Ok(result.nodes.into_iter().map(|(node, victims)| (node, victims.unwrap_or_default())).collect())
    }

    /// Has a pod bound.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), String> {
        let body =
            json!({"PodName": &*pod.key.name, "PodNamespace": &*pod.key.namespace, "PodUID": &*pod.uid, "Node": node});
        let result: BindResult = self.ask(&self.file.bind_verb, &body).await?;
        if result.error.is_empty() { Ok(()) } else { Err(result.error) }
    }
}

/// The pod as the API has it, for extenders to see.
///
/// # Errors
/// When it cannot be read.
pub async fn pod(client: &Client, pod: &PodInfo) -> Result<Value, String> {
    let object = client.get::<Value>(&resources::PODS, Some(&pod.key.namespace), &pod.key.name).await;
    object.map_err(|e| e.to_string())
}

/// All objects of a resource as the API has them.
///
/// # Errors
/// When they cannot be read.
pub async fn all(client: &Client, resource: &ResourceRef) -> Result<Vec<Value>, String> {
    let list = client.list::<Value>(resource, None, &ListOptions::default()).await;
    Ok(list.map_err(|e| e.to_string())?.items)
}
