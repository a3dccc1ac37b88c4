//! `horizontal-pod-autoscaler-controller`: sets the size of whatever has a `scale` subresource by metrics.
//!
//! Each autoscaler is looked at once per `--horizontal-pod-autoscaler-sync-period`: metrics cannot be watched. What it saw and
//! why it did what it did stands in the conditions. The arithmetic is in [`replicas`] (one metric) and [`behavior`] (all).

pub mod behavior;
pub mod metrics;
pub mod replicas;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use apimachinery::quantity::{Format, Quantity};
use apimachinery::selector::LabelSelector;
use client::ResourceRef;
use component_base::metrics::{self as figures, Counter, Family};
use jiff::Timestamp;
use serde_json::{Value, json};

use self::behavior::{History, Sizes};
use self::replicas::{Goal, Patience, Tolerance, by_ratio, by_share, propose, ready, requests};
use crate::framework::discovery::Kinds;
use crate::framework::{Controller, EventKind, Executor, Key, Setup, Store, Subject, SyncError, SyncResult, View};
use crate::views::autoscaling::{AutoscalerStatus, AutoscalerView, MetricSpec, Source};
use crate::views::meta::{Condition, to_value};
use crate::views::pod::{BY_NAMESPACE, PodView};

/// What the flags say.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Between two looks.
    pub period: Duration,
    /// Of scaling down.
    pub stabilization: Duration,
    /// Both ways.
    pub tolerance: f64,
    /// See [`Patience`].
    pub patience: Patience,
}

static RECONCILIATIONS: LazyLock<Family<Counter>> = LazyLock::new(|| {
    figures::counter(
        "horizontal_pod_autoscaler_controller_reconciliations_total",
        "Looks at autoscalers by what was done and what failed.",
        &["action", "error"],
    )
});
static COMPUTATIONS: LazyLock<Family<Counter>> = LazyLock::new(|| {
    figures::counter(
        "horizontal_pod_autoscaler_controller_metric_computation_total",
        "Metrics evaluated, by their type, what they asked for and what failed.",
        &["action", "error", "metric_type"],
    )
});

/// What a change of size is called in metrics.
fn action(from: i32, to: i32) -> &'static str {
    match to.cmp(&from) {
        Ordering::Greater => "scale_up",
        Ordering::Less => "scale_down",
        Ordering::Equal => "none",
    }
}

/// Registers `horizontal-pod-autoscaler-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("horizontalpodautoscaler");
    let (autoscalers, pods) = (setup.stores.of::<AutoscalerView>(), setup.stores.of::<PodView>());
    let settings = setup.config.autoscaling;
    let wake = queue.clone();
    autoscalers.on(move |delta| wake.add_after(Key::of(&delta.object().metadata), settings.period));
    let executor = setup.executor("horizontal-pod-autoscaler");
    let kinds = Kinds::new(executor.client().clone());
    let workers = setup.config.concurrent.autoscaler;
    setup.workers(
        queue,
        workers,
        Autoscalers { autoscalers, pods, kinds, executor, settings, memory: Mutex::default() },
    );
}

/// What is remembered of one autoscaler.
#[derive(Default)]
struct Memory {
    history: History,
    selector: Option<LabelSelector>,
}

struct Autoscalers {
    autoscalers: Store<AutoscalerView>,
    pods: Store<PodView>,
    kinds: Kinds,
    executor: Executor,
    settings: Settings,
    memory: Mutex<HashMap<Key, Memory>>,
}

/// Why a metric gives no number: the reason in conditions and events, and words.
type Failure = (&'static str, String);

/// What one metric asks for.
struct Wish {
    replicas: i32,
    name: String,
    status: Value,
}

/// One look at one autoscaler; `status` is what will be said.
struct Look<'a> {
    all: &'a Autoscalers,
    hpa: &'a AutoscalerView,
    about: Subject,
    status: AutoscalerStatus,
    now: Timestamp,
}

impl Controller for Autoscalers {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(hpa) = self.autoscalers.get(&key.namespace, &key.name) else {
            self.memory().remove(key);
            return Ok(None);
        };
        let about = hpa.subject();
        let mut look = Look { all: self, hpa: &hpa, about, status: hpa.status.clone(), now: Timestamp::now() };
        let outcome = look.scale().await;
        let done =
            outcome.as_ref().map_or("none", |_| action(look.status.current_replicas, look.status.desired_replicas));
        RECONCILIATIONS.with(&[done, if outcome.is_ok() { "none" } else { "internal" }]).inc();
        if let Err(error) = outcome {
            tracing::debug!(autoscaler = %key, error, "not scaled");
        }
        if look.status != hpa.status {
            match look.write().await {
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                result => result?,
            }
        }
        Ok(Some(self.settings.period))
    }
}

impl Autoscalers {
    fn memory(&self) -> MutexGuard<'_, HashMap<Key, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which pods an autoscaler scales, and returns those, and the autoscalers that scale one of them.
    fn scaled_pods(&self, key: &Key, selector: &LabelSelector) -> (Vec<Arc<PodView>>, Vec<Key>) {
        let mut pods = self.pods.by_index(BY_NAMESPACE, &key.namespace);
        pods.retain(|pod| selector.matches(&pod.metadata.labels));
        let mut memory = self.memory();
        memory.entry(key.clone()).or_default().selector = Some(selector.clone());
        let selects = |other: &Memory, pod: &PodView| {
            other.selector.as_ref().is_some_and(|selector| selector.matches(&pod.metadata.labels))
        };
        let mut keys: Vec<Key> = memory
            .iter()
            .filter(|(other, _)| other.namespace == key.namespace)
            .filter(|(_, other)| pods.iter().any(|pod| selects(other, pod)))
            .map(|(other, _)| other.clone())
            .collect();
        keys.sort();
        (pods, keys)
    }
}

impl Look<'_> {
    fn event(&self, kind: EventKind, reason: &'static str, note: impl Into<String>) {
        self.all.executor.event(&self.about, kind, reason, note);
    }

    fn condition(&mut self, kind: &str, status: bool, reason: &str, message: impl Into<String>) {
        let status = if status { "True" } else { "False" };
        let conditions = &mut self.status.conditions;
        let index = conditions.iter().position(|condition| condition.kind == kind).unwrap_or(conditions.len());
        if index == conditions.len() {
            conditions.push(Condition { kind: kind.to_owned(), ..Condition::default() });
        }
        let condition = &mut conditions[index];
        if condition.status != status {
            status.clone_into(&mut condition.status);
            condition.last_transition_time = self.now.into();
        }
        reason.clone_into(&mut condition.reason);
        condition.message = message.into();
    }

    async fn write(&self) -> Result<(), SyncError> {
        let AutoscalerStatus { last_scale_time, current_replicas, desired_replicas, current_metrics, conditions } =
            &self.status;
        let status = json!({
            "lastScaleTime": last_scale_time,
            "currentReplicas": current_replicas,
            "desiredReplicas": desired_replicas,
            "currentMetrics": if current_metrics.is_empty() { Value::Null } else { to_value(current_metrics) },
            "conditions": to_value(conditions),
        });
        let change = json!({"metadata": {"resourceVersion": self.hpa.metadata.resource_version}, "status": status});
        self.all.executor.apply(self.hpa.target().change_status(change)).await
    }

    /// The target's resource and its scale.
    async fn target(&self) -> Result<(ResourceRef, Value), String> {
        let reference = &self.hpa.spec.scale_target_ref;
        let found = self.all.kinds.find(&reference.api_version, &reference.kind).await;
        let found = found.map_err(|error| error.to_string())?;
        let unknown = || format!("no matches for kind {:?} in {:?}", reference.kind, reference.api_version);
        let (resource, _) = found.ok_or_else(unknown)?;
        let namespace = self.hpa.metadata.namespace.as_str();
        let scale = self.all.executor.client().get_sub(&resource, Some(namespace), &reference.name, "scale").await;
        scale.map(|scale| (resource, scale)).map_err(|error| error.to_string())
    }

    async fn scale(&mut self) -> Result<(), String> {
        let (resource, scale) = match self.target().await {
            Ok(target) => target,
            Err(why) => {
                self.event(EventKind::Warning, "FailedGetScale", why.clone());
                let message = format!("the HPA controller was unable to get the target's current scale: {why}");
                self.condition("AbleToScale", false, "FailedGetScale", message);
                return Err(why);
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        self.condition("AbleToScale", true, "SucceededGetScale", message);
        let current = size(&scale["spec"]["replicas"]);
        self.all.memory().entry(self.about.key.clone()).or_default().history.begin(current, self.now);
        let (min, max) = (self.hpa.spec.min_replicas.unwrap_or(1), self.hpa.spec.max_replicas);
        let mut metrics = Vec::new();
        let (desired, why) = if current == 0 && min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.condition("ScalingActive", false, "ScalingDisabled", message);
            (0, String::new())
        } else if current > max {
            (max, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < min {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            match self.by_metrics(&scale, current, &mut metrics).await {
                Ok((wanted, name)) => {
                    let grows = format!("{name} above target");
                    let why = if wanted > current { grows } else { "All metrics below target".to_owned() };
                    (self.decide(Sizes { min, max, current, wanted }), why)
                }
                Err(why) => {
                    self.status.current_replicas = current;
                    self.status.current_metrics = metrics;
                    self.event(EventKind::Warning, "FailedComputeMetricsReplicas", why.clone());
                    return Err(why);
                }
            }
        };
        self.status.current_replicas = current;
        self.status.current_metrics = metrics;
        if desired != current {
            self.resize(&resource, scale, current, desired, &why).await?;
        }
        self.status.desired_replicas = desired;
        Ok(())
    }

    fn decide(&mut self, sizes: Sizes) -> i32 {
        let behavior = self.hpa.spec.behavior.as_ref();
        let decision = {
            let mut memory = self.all.memory();
            let history = &mut memory.entry(self.about.key.clone()).or_default().history;
            history.decide(behavior, sizes, self.all.settings.stabilization, self.now)
        };
        self.condition("AbleToScale", true, decision.able.0, decision.able.1);
        self.condition("ScalingLimited", decision.limited.0, decision.limited.1, decision.limited.2);
        decision.replicas
    }

    async fn resize(
        &mut self,
        resource: &ResourceRef,
        mut scale: Value,
        from: i32,
        to: i32,
        why: &str,
    ) -> Result<(), String> {
        scale["spec"]["replicas"] = to.into();
        let (namespace, name) = (self.hpa.metadata.namespace.as_str(), &self.hpa.spec.scale_target_ref.name);
        let client = self.all.executor.client();
        if let Err(error) = client.put_sub::<Value>(resource, Some(namespace), name, "scale", &scale).await {
            let note = format!("New size: {to}; reason: {why}; error: {error}");
            self.event(EventKind::Warning, "FailedRescale", note);
            let message = format!("the HPA controller was unable to update the target scale: {error}");
            self.condition("AbleToScale", false, "FailedUpdateScale", message);
            return Err(error.to_string());
        }
        let message = format!("the HPA controller was able to update the target scale to {to}");
        self.condition("AbleToScale", true, "SucceededRescale", message);
        self.event(EventKind::Normal, "SuccessfulRescale", format!("New size: {to}; reason: {why}"));
        let mut memory = self.all.memory();
        let history = &mut memory.entry(self.about.key.clone()).or_default().history;
        history.scaled(self.hpa.spec.behavior.as_ref(), from, to, self.now);
        self.status.last_scale_time = self.now.into();
        Ok(())
    }

    /// The pods behind the scale's selector, if they are this autoscaler's alone.
    fn selected(&mut self, scale: &Value) -> Result<(String, Vec<Arc<PodView>>), String> {
        let text = scale["status"]["selector"].as_str().unwrap_or_default().to_owned();
        let (reason, why) = if text.is_empty() {
            self.event(EventKind::Warning, "SelectorRequired", "selector is required");
            ("InvalidSelector", "the HPA target's scale is missing a selector".to_owned())
        } else {
            match LabelSelector::parse(&text) {
                Err(error) => {
                    let why =
                        format!("couldn't convert selector into a corresponding internal selector object: {error}");
                    self.event(EventKind::Warning, "InvalidSelector", why.clone());
                    ("InvalidSelector", why)
                }
                Ok(selector) => {
                    let (pods, keys) = self.all.scaled_pods(&self.about.key, &selector);
                    if keys.len() < 2 {
                        return Ok((text, pods));
                    }
                    let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
                    let why = format!("pods by selector {text} are controlled by multiple HPAs: {names:?}");
                    self.event(EventKind::Warning, "AmbiguousSelector", why.clone());
                    ("AmbiguousSelector", why)
                }
            }
        };
        self.condition("ScalingActive", false, reason, why.clone());
        Err(why)
    }

    /// The largest wish of all metrics and whose it is. Broken metrics forbid shrinking.
    async fn by_metrics(&mut self, scale: &Value, spec: i32, all: &mut Vec<Value>) -> Result<(i32, String), String> {
        let (selector, pods) = self.selected(scale)?;
        let status = size(&scale["status"]["replicas"]);
        let (mut best, mut failure, mut failed) = (None::<(i32, String)>, None::<Failure>, 0);
        for metric in &self.hpa.spec.metrics {
            let wish = self.wish(metric, (spec, status), &selector, &pods).await;
            let asked = wish.as_ref().map_or("none", |wish| action(spec, wish.replicas));
            let error = if wish.is_ok() { "none" } else { "internal" };
            COMPUTATIONS.with(&[asked, error, &metric.kind]).inc();
            match wish {
                Ok(wish) => {
                    all.push(wish.status);
                    if best.as_ref().is_none_or(|(replicas, _)| *replicas == 0 || wish.replicas > *replicas) {
                        best = Some((wish.replicas, wish.name));
                    }
                }
                Err((reason, why)) => {
                    self.event(EventKind::Warning, reason, why.clone());
                    all.push(json!({"type": ""}));
                    failed += 1;
                    failure.get_or_insert((reason, why));
                }
            }
        }
        let enough = best.filter(|(replicas, _)| failed == 0 || *replicas >= spec);
        match (enough, failure) {
            (Some((replicas, name)), _) => {
                let message = format!("the HPA was able to successfully calculate a replica count from {name}");
                self.condition("ScalingActive", true, "ValidMetricFound", message);
                Ok((replicas, name))
            }
            (None, failure) => {
                let (reason, why) = failure.unwrap_or(("InvalidMetricSourceType", "there are no metrics".to_owned()));
                let message = format!("the HPA was unable to compute the replica count: {why}");
                self.condition("ScalingActive", false, reason, message);
                let count = self.hpa.spec.metrics.len();
                Err(format!("invalid metrics ({failed} invalid out of {count}), first error is: {why}"))
            }
        }
    }

    fn tolerance(&self) -> Tolerance {
        let behavior = self.hpa.spec.behavior.as_ref();
        let own = |text: Option<&String>| {
            let own = text.and_then(|text| Quantity::parse(text).ok());
            own.map_or(self.all.settings.tolerance, |own| own.milli() as f64 / 1000.0)
        };
        Tolerance {
            up: own(behavior.and_then(|behavior| behavior.scale_up.tolerance.as_ref())),
            down: own(behavior.and_then(|behavior| behavior.scale_down.tolerance.as_ref())),
        }
    }

    /// What one metric asks for; `sizes` are the replicas that are wanted and that are there.
    async fn wish(
        &self,
        metric: &MetricSpec,
        sizes: (i32, i32),
        selector: &str,
        pods: &[Arc<PodView>],
    ) -> Result<Wish, Failure> {
        match metric.kind.as_str() {
            "Resource" => {
                self.resource_wish("Resource", &metric.resource, sizes.0, selector, pods).await.map_err(|why| {
                    ("FailedGetResourceMetric", format!("failed to get {} utilization: {why}", metric.resource.name))
                })
            }
            "ContainerResource" => self
                .resource_wish("ContainerResource", &metric.container_resource, sizes.0, selector, pods)
                .await
                .map_err(|why| {
                    ("FailedGetContainerResourceMetric", format!("failed to get container metric value: {why}"))
                }),
            "Pods" => self
                .pods_wish(&metric.pods, sizes.0, selector, pods)
                .await
                .map_err(|why| ("FailedGetPodsMetric", format!("failed to get pods metric value: {why}"))),
            "Object" => self
                .object_wish(&metric.object, sizes, pods)
                .await
                .map_err(|why| ("FailedGetObjectMetric", format!("failed to get object metric value: {why}"))),
            "External" => self
                .external_wish(&metric.external, sizes, pods)
                .await
                .map_err(|why| ("FailedGetExternalMetric", format!("failed to get external metric: {why}"))),
            other => Err(("InvalidMetricSourceType", format!("unknown metric source type {other:?}"))),
        }
    }

    async fn resource_wish(
        &self,
        kind: &str,
        source: &Source,
        current: i32,
        selector: &str,
        pods: &[Arc<PodView>],
    ) -> Result<Wish, String> {
        let container = (kind == "ContainerResource").then_some(source.container.as_str());
        let (namespace, name) = (&self.hpa.metadata.namespace, &source.name);
        let client = self.all.executor.client();
        let samples = metrics::resource(client, namespace, selector, name, container).await?;
        let (goal, what) = match (&source.target.average_value, source.target.average_utilization) {
            (Some(value), _) => (Goal::Average(milli(value)), format!("{name} resource")),
            (None, Some(percent)) => (
                Goal::Utilization(percent, requests(pods, name, container)?),
                format!("{name} resource utilization (percentage of request)"),
            ),
            (None, None) => return Err("neither a utilization target nor a value target was set".to_owned()),
        };
        let young = (name == "cpu").then_some(self.all.settings.patience);
        let proposal = propose(pods, &samples, current, &goal, self.tolerance(), young, self.now)?;
        // As the metrics server writes it.
        let format = if name == "memory" { Format::BinarySi } else { Format::DecimalSi };
        let average = Quantity::from_milli(proposal.average, format).to_string();
        let mut now = json!({"averageValue": average});
        if matches!(goal, Goal::Utilization(..)) {
            now["averageUtilization"] = proposal.utilization.into();
        }
        let mut field = json!({"name": name, "current": now});
        if let Some(container) = container {
            field["container"] = container.into();
        }
        let key = if container.is_some() { "containerResource" } else { "resource" };
        let what = container.map_or(what.clone(), |container| format!("{what} of container {container}"));
        Ok(Wish { replicas: proposal.replicas, name: what, status: json!({"type": kind, (key): field}) })
    }

    async fn pods_wish(
        &self,
        source: &Source,
        current: i32,
        selector: &str,
        pods: &[Arc<PodView>],
    ) -> Result<Wish, String> {
        let client = self.all.executor.client();
        let samples = metrics::pods(client, &self.hpa.metadata.namespace, selector, &source.metric).await?;
        let goal = Goal::Average(source.target.average_value.as_deref().map_or(0, milli));
        let proposal = propose(pods, &samples, current, &goal, self.tolerance(), None, self.now)?;
        let field = json!({"metric": source.metric, "current": {"averageValue": quantity(proposal.average)}});
        let name = format!("pods metric {}", source.metric["name"].as_str().unwrap_or_default());
        Ok(Wish { replicas: proposal.replicas, name, status: json!({"type": "Pods", "pods": field}) })
    }

    async fn object_wish(&self, source: &Source, sizes: (i32, i32), pods: &[Arc<PodView>]) -> Result<Wish, String> {
        let text = |key: &str| source.described_object[key].as_str().unwrap_or_default();
        let found = self.all.kinds.find(text("apiVersion"), text("kind")).await.map_err(|error| error.to_string())?;
        let (resource, _) = found.ok_or_else(|| format!("no matches for kind {:?}", text("kind")))?;
        let (client, namespace) = (self.all.executor.client(), &self.hpa.metadata.namespace);
        let total = metrics::object(client, namespace, &resource, text("name"), &source.metric).await?;
        let (replicas, now) = self.of_total(source, total, sizes, pods)?;
        let field = json!({"metric": source.metric, "describedObject": source.described_object, "current": now});
        let name = format!("{} metric {}", text("kind"), source.metric["name"].as_str().unwrap_or_default());
        Ok(Wish { replicas, name, status: json!({"type": "Object", "object": field}) })
    }

    async fn external_wish(&self, source: &Source, sizes: (i32, i32), pods: &[Arc<PodView>]) -> Result<Wish, String> {
        let client = self.all.executor.client();
        let total = metrics::external(client, &self.hpa.metadata.namespace, &source.metric).await?;
        let (replicas, now) = self.of_total(source, total, sizes, pods)?;
        let name = source.metric["name"].as_str().unwrap_or_default();
        let name = format!("external metric {name}({})", source.metric["selector"]);
        let field = json!({"metric": source.metric, "current": now});
        Ok(Wish { replicas, name, status: json!({"type": "External", "external": field}) })
    }

    /// What a total asks for, by the target's type, and the total as the status tells it.
    fn of_total(
        &self,
        source: &Source,
        total: i64,
        (spec, status): (i32, i32),
        pods: &[Arc<PodView>],
    ) -> Result<(i32, Value), String> {
        let target = &source.target;
        match (&target.average_value, &target.value) {
            (Some(average), _) => {
                let (replicas, average) = by_share(total, milli(average), status, self.tolerance());
                Ok((replicas, json!({"averageValue": quantity(average)})))
            }
            (None, Some(value)) => {
                if spec != 0 && pods.is_empty() {
                    return Err("no pods returned by selector while calculating replica count".to_owned());
                }
                let ratio = total as f64 / milli(value) as f64;
                Ok((by_ratio(ratio, spec, ready(pods), self.tolerance()), json!({"value": quantity(total)})))
            }
            (None, None) => Err("neither a value target nor an average value target was set".to_owned()),
        }
    }
}

fn size(value: &Value) -> i32 {
    value.as_i64().and_then(|size| i32::try_from(size).ok()).unwrap_or(0)
}

fn milli(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, |amount| amount.milli())
}

fn quantity(milli: i64) -> String {
    Quantity::from_milli(milli, Format::DecimalSi).to_string()
}
