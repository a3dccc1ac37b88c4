//! Metrics as the aggregated APIs serve them: `metrics.k8s.io` for what containers use, `custom.metrics.k8s.io` for values of
//! pods and other objects, `external.metrics.k8s.io` for the rest.

use std::time::Duration;

use apimachinery::quantity::Quantity;
use apimachinery::selector::LabelSelector;
use client::{Client, ClientError, ListOptions, ResourceRef, encode_into};
use serde::Deserialize;
use serde_json::Value;

use super::replicas::{Sample, Samples};
use crate::framework::executor::get_json;
use crate::views::meta::Time;

/// The window of a custom metric that does not say its own.
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);
/// Versions of the custom metrics API, best first.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodMetrics {
    metadata: Named,
    timestamp: Time,
    window: String,
    containers: Vec<ContainerMetrics>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerMetrics {
    name: String,
    usage: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Values {
    items: Vec<MetricValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MetricValue {
    described_object: Named,
    timestamp: Time,
    window_seconds: Option<u64>,
    value: String,
}

fn milli(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, |amount| amount.milli())
}

/// What the selected pods (or one container of each) use of a resource. Pods of which a container has no figure are left out.
pub async fn resource(
    client: &Client,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<Samples, String> {
    let pods = ResourceRef::custom("metrics.k8s.io", "v1beta1", "pods", "PodMetrics", true);
    let only = ListOptions { label_selector: selector.to_owned(), ..ListOptions::default() };
    let list = client.list::<PodMetrics>(&pods, Some(namespace), &only).await;
    let list = list.map_err(|error| format!("unable to get metrics for resource {resource}: {error}"))?;
    if list.items.is_empty() {
        return Err(format!(
            "unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
        ));
    }
    let mut samples = Samples::new();
    for pod in list.items {
        let mut of: Vec<&ContainerMetrics> = pod.containers.iter().collect();
        if let Some(name) = container {
            of.retain(|one| one.name == name);
            if of.is_empty() {
                let pod = pod.metadata.name;
                return Err(format!("container {name} not present in metrics for pod {namespace}/{pod}"));
            }
        }
        let figures: Option<Vec<i64>> = of.iter().map(|one| one.usage[resource].as_str().map(milli)).collect();
        let Some(figures) = figures else { continue };
        let nanos = apimachinery::time::parse_duration(&pod.window).and_then(|nanos| u64::try_from(nanos).ok());
        let at = pod.timestamp.0.unwrap_or_default();
        let sample = Sample { milli: figures.iter().sum(), at, window: Duration::from_nanos(nanos.unwrap_or(0)) };
        samples.insert(pod.metadata.name, sample);
    }
    Ok(samples)
}

/// The text of a metric's own selector; none selects all.
fn selector_text(metric: &Value) -> Result<String, String> {
    match &metric["selector"] {
        Value::Null => Ok(String::new()),
        selector => LabelSelector::from_value(selector).map(|it| it.to_string()).map_err(|error| error.to_string()),
    }
}

async fn custom(client: &Client, path: &str, query: &[(&str, &str)]) -> Result<Values, String> {
    let mut tail = path.to_owned();
    let mut separator = '?';
    for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
        tail.push(separator);
        tail.push_str(name);
        tail.push('=');
        encode_into(&mut tail, value);
        separator = '&';
    }
    let mut result: Result<Values, ClientError> = Ok(Values::default());
    for version in CUSTOM_VERSIONS {
        let path = format!("/apis/custom.metrics.k8s.io/{version}/namespaces/{tail}");
        result = get_json(client, &path, "application/json").await;
        if !result.as_ref().is_err_and(ClientError::is_not_found) {
            break;
        }
    }
    result.map_err(|error| error.to_string())
}

fn segment(text: &str) -> String {
    let mut out = String::new();
    encode_into(&mut out, text);
    out
}

/// A metric's value of each selected pod.
pub async fn pods(client: &Client, namespace: &str, selector: &str, metric: &Value) -> Result<Samples, String> {
    let name = metric["name"].as_str().unwrap_or_default();
    let path = format!("{namespace}/pods/*/{}", segment(name));
    let of = selector_text(metric)?;
    let values = custom(client, &path, &[("labelSelector", selector), ("metricLabelSelector", &of)]).await;
    let values = values.map_err(|error| format!("unable to get metric {name}: {error}"))?;
    if values.items.is_empty() {
        return Err(format!("unable to get metric {name}: no metrics returned from custom metrics API"));
    }
    let sample = |value: &MetricValue| Sample {
        milli: milli(&value.value),
        at: value.timestamp.0.unwrap_or_default(),
        window: value.window_seconds.map_or(DEFAULT_WINDOW, Duration::from_secs),
    };
    Ok(values.items.iter().map(|value| (value.described_object.name.clone(), sample(value))).collect())
}

/// A metric's value of one object, in thousandths; `resource` is the object's.
pub async fn object(
    client: &Client,
    namespace: &str,
    resource: &ResourceRef,
    object: &str,
    metric: &Value,
) -> Result<i64, String> {
    let name = metric["name"].as_str().unwrap_or_default();
    let path = if resource.kind == "Namespace" && resource.group.is_empty() {
        format!("{}/metrics/{}", segment(object), segment(name))
    } else {
        format!("{namespace}/{resource}/{}/{}", segment(object), segment(name))
    };
    let of = selector_text(metric)?;
    let values = custom(client, &path, &[("metricLabelSelector", &of)]).await;
    let values = values.and_then(|values| {
        values.items.into_iter().next().ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
    });
    let kind = &resource.kind;
    let value =
        values.map_err(|error| format!("unable to get metric {name}: {kind} on {namespace} {object}/{error}"))?;
    Ok(milli(&value.value))
}

/// The sum of an external metric's values, in thousandths.
pub async fn external(client: &Client, namespace: &str, metric: &Value) -> Result<i64, String> {
    let name = metric["name"].as_str().unwrap_or_default();
    let mut path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}", segment(name));
    let of = selector_text(metric)?;
    if !of.is_empty() {
        path.push_str("?labelSelector=");
        encode_into(&mut path, &of);
    }
    let values: Result<Values, ClientError> = get_json(client, &path, "application/json").await;
    let values = values.map_err(|error| error.to_string()).and_then(|values| {
        if values.items.is_empty() {
            Err("no metrics returned from external metrics API".to_owned())
        } else {
            Ok(values)
        }
    });
    let values = values.map_err(|error| format!("unable to get external metric {namespace}/{name}/{of}: {error}"))?;
    Ok(values.items.iter().map(|value| milli(&value.value)).sum())
}
