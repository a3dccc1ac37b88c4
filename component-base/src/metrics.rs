//! The process-wide registry of metric families, with upstream's exact names.
//!
//! Guarantees: a family is registered once under its name (asking again for the same name gives the same family), label
//! order is the declaration's, and the text form is Prometheus' 0.0.4 with families sorted by name. `_total` appears only
//! where a family's name has it. The number of label sets of a family is bounded by `MAX_CHILDREN`; further ones share
//! one overflow set, so that a client cannot fill the memory.
//!
//! ```
//! use component_base::metrics::{Counter, Family};
//! use std::sync::LazyLock;
//! static REQUESTS: LazyLock<Family<Counter>> =
//!     LazyLock::new(|| component_base::metrics::counter("demo_requests_total", "Requests served.", &["verb"]));
//! REQUESTS.with(&["GET"]).inc();
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// Label sets of one family.
pub const MAX_CHILDREN: usize = 10_000;

/// A value that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down, a 64-bit float.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
    /// Adds `delta`, which may be negative.
    pub fn add(&self, delta: f64) {
        let add = |bits| Some((f64::from_bits(bits) + delta).to_bits());
        // The closure never declines.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
    /// Adds one.
    pub fn inc(&self) {
        self.add(1.0);
    }
    /// Takes one away.
    pub fn dec(&self) {
        self.add(-1.0);
    }
    /// Sets it to the current time in Unix seconds.
    pub fn set_to_current_time(&self) {
        self.set(jiff::Timestamp::now().as_millisecond() as f64 / 1e3);
    }
    /// The value now.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// A distribution over fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    // One per bound and one for what is above all; not cumulative.
    counts: Box<[AtomicU64]>,
    sum_nanos: AtomicI64,
}

impl Histogram {
    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let index = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_nanos.fetch_add((value * 1e9) as i64, Ordering::Relaxed);
    }
    /// Counts a duration in seconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }
    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }
}

/// What a family is made of.
trait Metric: Send + Sync + 'static {
    const KIND: &'static str;
    fn create(bounds: &'static [f64]) -> Self;
    fn write(&self, out: &mut String, name: &str, labels: &str);
}

impl Metric for Counter {
    const KIND: &'static str = "counter";
    fn create(_: &'static [f64]) -> Self {
        Self::default()
    }
    fn write(&self, out: &mut String, name: &str, labels: &str) {
        line(out, name, labels, self.get() as f64);
    }
}

impl Metric for Gauge {
    const KIND: &'static str = "gauge";
    fn create(_: &'static [f64]) -> Self {
        Self::default()
    }
    fn write(&self, out: &mut String, name: &str, labels: &str) {
        line(out, name, labels, self.get());
    }
}

impl Metric for Histogram {
    const KIND: &'static str = "histogram";
    fn create(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_nanos: AtomicI64::new(0) }
    }
    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        let separator = if labels.is_empty() { "" } else { "," };
        for (index, count) in self.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            let bound = self.bounds.get(index).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            line(out, &format!("{name}_bucket"), &format!("{labels}{separator}le=\"{bound}\""), total as f64);
        }
        line(out, &format!("{name}_sum"), labels, self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9);
        line(out, &format!("{name}_count"), labels, total as f64);
    }
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    // Writing to a String cannot fail.
    let _ =
        if labels.is_empty() { writeln!(out, "{name} {value}") } else { writeln!(out, "{name}{{{labels}}} {value}") };
}

/// All metrics of one name, by label values; cheap to clone.
pub struct Family<M> {
    inner: Arc<Inner<M>>,
}

impl<M> Clone for Family<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

type Children<M> = HashMap<Box<[Box<str>]>, Arc<M>>;

struct Inner<M> {
    help: &'static str,
    labels: &'static [&'static str],
    bounds: &'static [f64],
    children: RwLock<Children<M>>,
}

#[allow(private_bounds)]
impl<M: Metric> Family<M> {
    /// The metric with these label values, in the declaration's order; missing ones are empty, extra ones ignored.
    pub fn with(&self, values: &[&str]) -> Arc<M> {
        let key: Box<[Box<str>]> =
            (0..self.inner.labels.len()).map(|i| values.get(i).copied().unwrap_or_default().into()).collect();
        if let Some(found) = self.inner.children.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(found);
        }
        let mut children = self.inner.children.write().unwrap_or_else(PoisonError::into_inner);
        let full = children.len() >= MAX_CHILDREN && !children.contains_key(&key);
        let key = if full { self.inner.labels.iter().map(|_| "overflow".into()).collect() } else { key };
        let bounds = self.inner.bounds;
        Arc::clone(children.entry(key).or_insert_with(|| Arc::new(M::create(bounds))))
    }

    /// The metric of a family without labels.
    pub fn one(&self) -> Arc<M> {
        self.with(&[])
    }

    /// Forgets a label set, so that it is no longer exposed.
    pub fn remove(&self, values: &[&str]) {
        let key: Box<[Box<str>]> = values.iter().map(|v| (*v).into()).collect();
        self.inner.children.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// Forgets all label sets.
    pub fn clear(&self) {
        self.inner.children.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

trait Expose: Send + Sync {
    fn expose(&self, out: &mut String, name: &str);
    fn any(&self) -> &dyn std::any::Any;
}

impl<M: Metric> Expose for Family<M> {
    fn expose(&self, out: &mut String, name: &str) {
        let children = self.inner.children.read().unwrap_or_else(PoisonError::into_inner);
        if children.is_empty() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {}", self.inner.help.replace('\n', "\\n"), M::KIND);
        let mut sorted: Vec<_> = children.iter().collect();
        sorted.sort_by_key(|(key, _)| *key);
        for (key, metric) in sorted {
            let pair = |(label, value): (&&str, &str)| format!("{label}=\"{}\"", escape(value));
            let labels =
                self.inner.labels.iter().zip(key.iter().map(AsRef::as_ref)).map(pair).collect::<Vec<_>>().join(",");
            metric.write(out, name, &labels);
        }
    }

    fn any(&self) -> &dyn std::any::Any {
        self
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

static REGISTRY: Mutex<BTreeMap<&'static str, Box<dyn Expose>>> = Mutex::new(BTreeMap::new());

fn register<M: Metric>(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    bounds: &'static [f64],
) -> Family<M> {
    let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(same) = registry.get(name).and_then(|f| f.any().downcast_ref::<Family<M>>()) {
        return same.clone();
    }
    let family = Family { inner: Arc::new(Inner { help, labels, bounds, children: RwLock::new(HashMap::new()) }) };
    registry.insert(name, Box::new(family.clone()));
    drop(registry);
    if labels.is_empty() {
        // Exposed as zero from the start, as upstream's are.
        family.one();
    }
    family
}

/// The counter family of that name.
pub fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family<Counter> {
    register(name, help, labels, &[])
}

/// The gauge family of that name.
pub fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family<Gauge> {
    register(name, help, labels, &[])
}

/// The histogram family of that name; `bounds` ascending.
pub fn histogram(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    bounds: &'static [f64],
) -> Family<Histogram> {
    register(name, help, labels, bounds)
}

/// Prometheus' default buckets, seconds.
pub const DEFAULT_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Refresh = Box<dyn Fn() -> bool + Send>;
static REFRESHES: Mutex<Vec<Refresh>> = Mutex::new(Vec::new());

/// Calls `refresh` before every exposition, for figures that change by themselves, until it answers false.
pub fn on_render(refresh: impl Fn() -> bool + Send + 'static) {
    REFRESHES.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(refresh));
}

/// The families whose names are chosen.
pub fn render_families(chosen: impl Fn(&str) -> bool) -> String {
    REFRESHES.lock().unwrap_or_else(PoisonError::into_inner).retain(|refresh| refresh());
    let mut out = String::with_capacity(16 << 10);
    for (name, family) in &*REGISTRY.lock().unwrap_or_else(PoisonError::into_inner) {
        if chosen(name) {
            family.expose(&mut out, name);
        }
    }
    out
}

/// All families, and the process's own figures.
pub fn render() -> String {
    let mut out = render_families(|_| true);
    build_info(&mut out);
    process(&mut out);
    out
}

fn build_info(out: &mut String) {
    let v = crate::version::info();
    out.push_str("# HELP kubernetes_build_info Version of this component.\n# TYPE kubernetes_build_info gauge\n");
    let labels = format!(
        "build_date=\"{}\",compiler=\"{}\",git_commit=\"{}\",git_tree_state=\"{}\",git_version=\"{}\",go_version=\"{}\",major=\"{}\",minor=\"{}\",platform=\"{}\"",
        v.build_date,
        v.compiler,
        v.git_commit,
        v.git_tree_state,
        v.git_version,
        v.go_version,
        v.major,
        v.minor,
        v.platform
    );
    line(out, "kubernetes_build_info", &labels, 1.0);
}

/// `process_*` from /proc; what cannot be read is left out.
fn process(out: &mut String) {
    let mut one = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields after the command name, which may hold blanks; the first is the state (field 3 of proc(5)).
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).copied();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let page = rustix::param::page_size() as f64;
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks);
    one("process_cpu_seconds_total", "counter", "CPU time spent in user and system mode, seconds.", cpu);
    let fds = std::fs::read_dir("/proc/self/fd").ok().map(|d| d.count() as f64);
    one("process_open_fds", "gauge", "Open file descriptors.", fds);
    one("process_resident_memory_bytes", "gauge", "Resident memory, bytes.", field(24).map(|p| p * page));
    one("process_virtual_memory_bytes", "gauge", "Virtual memory, bytes.", field(23));
    let boot = std::fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|s| s.lines().find_map(|l| l.strip_prefix("btime ")).and_then(|t| t.trim().parse::<f64>().ok()));
    let start = boot.zip(field(22)).map(|(boot, after)| boot + after / ticks);
    one("process_start_time_seconds", "gauge", "Start of the process, Unix seconds.", start);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let requests = counter("test_requests_total", "Requests.", &["verb", "code"]);
        requests.with(&["GET", "200"]).add(2);
        counter("test_requests_total", "Requests.", &["verb", "code"]).with(&["GET", "200"]).inc();
        requests.with(&["A\"B", "x\ny"]).inc();
        gauge("test_depth", "Depth.", &[]).one().set(1.5);
        let latency = histogram("test_seconds", "Latency.", &[], &[0.1, 1.0]);
        latency.one().observe(0.1);
        latency.one().observe(5.0);
        let text = render();
        for expected in [
            "# TYPE test_requests_total counter\n",
            "test_requests_total{verb=\"GET\",code=\"200\"} 3\n",
            "test_requests_total{verb=\"A\\\"B\",code=\"x\\ny\"} 1\n",
            "test_depth 1.5\n",
            "test_seconds_bucket{le=\"0.1\"} 1\ntest_seconds_bucket{le=\"1\"} 1\ntest_seconds_bucket{le=\"+Inf\"} 2\n",
            "test_seconds_sum 5.1\ntest_seconds_count 2\n",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(expected), "{expected} not in\n{text}");
        }
    }
}
