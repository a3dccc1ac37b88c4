//! Priority and fairness: how many requests of which kind are worked on at once, and who waits for whom.
//!
//! A request belongs to the first flow schema that covers it; the schema names a priority level, which has its share of the
//! server's seats (`--max-requests-inflight` and `--max-mutating-requests-inflight` together). A level without a free seat
//! borrows one that others can lend; else the request waits in a queue of its flow, for at most a quarter of the request
//! timeout, or is refused with 429. Long-running requests take no seat, every other request takes one.

mod classify;
mod level;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use component_base::metrics::{self, Counter, Family, Gauge, Histogram};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::classify::{Distinguisher, Schema};
use self::level::{Entry, Level, Levels, Shape, divide, flow};
use crate::bootstrap::policy;
use crate::http::request::{RequestInfo, UserInfo};
use crate::objects::{Objects, ResourceName};
use crate::registry::Registry;

const SCHEMAS: ResourceName = ("flowcontrol.apiserver.k8s.io", "flowschemas");
const LEVELS: ResourceName = ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations");
/// What takes requests that no schema covers.
const CATCH_ALL: &str = "catch-all";
const WAIT_SECONDS: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

struct Row {
    schema: Schema,
    level: Arc<Level>,
    dispatched: Arc<Counter>,
    waited: Arc<Histogram>,
    schema_uid: HeaderValue,
    level_uid: HeaderValue,
}

#[derive(Default)]
struct Plan {
    /// In the order in which they are asked.
    rows: Vec<Row>,
    levels: Levels,
}

struct Families {
    dispatched: Family<Counter>,
    rejected: Family<Counter>,
    waited: Family<Histogram>,
    executing: Family<Gauge>,
    queued: Family<Gauge>,
    nominal: Family<Gauge>,
}

/// All priority levels.
pub struct Fairness {
    objects: Arc<dyn Objects>,
    total: usize,
    max_wait: Duration,
    plan: RwLock<Arc<Plan>>,
    changed: Notify,
    /// Somebody waited when a seat came back last.
    waiting: AtomicBool,
    metrics: Families,
}

/// A seat, given back when dropped.
pub struct Seat {
    fairness: Arc<Fairness>,
    level: Arc<Level>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.level.leave();
        self.fairness.dispatch(&self.level);
    }
}

/// A request that finds no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl Fairness {
    /// `total` seats; nobody waits longer than `max_wait`.
    pub fn new(objects: Arc<dyn Objects>, total: usize, max_wait: Duration) -> Arc<Self> {
        const BOTH: &[&str] = &["priority_level", "flow_schema"];
        const REASON: &[&str] = &["priority_level", "flow_schema", "reason"];
        const EXECUTE: &[&str] = &["priority_level", "flow_schema", "execute"];
        let metrics = Families {
            dispatched: metrics::counter(
                "apiserver_flowcontrol_dispatched_requests_total",
                "Requests that got a seat",
                BOTH,
            ),
            rejected: metrics::counter(
                "apiserver_flowcontrol_rejected_requests_total",
                "Requests that got none",
                REASON,
            ),
            waited: metrics::histogram(
                "apiserver_flowcontrol_request_wait_duration_seconds",
                "How long requests waited in their queue",
                EXECUTE,
                WAIT_SECONDS,
            ),
            executing: metrics::gauge(
                "apiserver_flowcontrol_current_executing_seats",
                "Seats in use",
                &["priority_level"],
            ),
            queued: metrics::gauge(
                "apiserver_flowcontrol_current_inqueue_requests",
                "Requests in queues",
                &["priority_level"],
            ),
            nominal: metrics::gauge(
                "apiserver_flowcontrol_nominal_limit_seats",
                "Seats of a level",
                &["priority_level"],
            ),
        };
        let (plan, changed, waiting) = Default::default();
        Arc::new(Self { objects, total, max_wait, plan, changed, waiting, metrics })
    }

    /// Plans anew whenever a schema or level changes.
    pub fn follow(self: &Arc<Self>, registry: &Registry) {
        for resource in [SCHEMAS, LEVELS] {
            let this = Arc::clone(self);
            registry.subscribe(resource, Box::new(move |_| this.changed.notify_one()));
        }
        self.plan_anew();
    }

    /// Keeps the plan current until shutdown.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(self.changed.notified()).await.is_some() {
            self.plan_anew();
        }
    }

    fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn plan_anew(&self) {
        let old = self.plan();
        let mandatory = |list: &'static [Value]| list.iter().map(|object| Arc::new(object.clone()));
        let (levels, schemas) = (policy::priority_levels(), policy::flow_schemas());
        let named = |objects: Vec<Arc<Value>>, defaults: &'static [Value]| -> BTreeMap<String, Arc<Value>> {
            let all = mandatory(defaults).filter(|o| ["exempt", CATCH_ALL].contains(&apimachinery::meta::name(o)));
            all.chain(objects).map(|object| (apimachinery::meta::name(&object).to_owned(), object)).collect()
        };
        let mut plan = Plan::default();
        for (name, object) in named(self.objects.list(LEVELS, ""), levels) {
            let (uid, shape) = (apimachinery::meta::uid(&object), Shape::parse(&object));
            let kept = old.levels.get(&name).filter(|level| level.shape == shape && level.uid == uid);
            let level = kept.map_or_else(|| Arc::new(Level::new(&name, uid, shape)), Arc::clone);
            plan.levels.insert(name, level);
        }
        let shapes: Vec<Shape> = plan.levels.values().map(|level| level.shape).collect();
        for (level, seats) in plan.levels.values().zip(divide(&shapes, self.total)) {
            level.resize(seats);
        }
        let parsed = named(self.objects.list(SCHEMAS, ""), schemas);
        let rows =
            parsed.values().map(|object| Schema::parse(object)).filter_map(|schema| self.row(schema, &plan.levels));
        let mut rows: Vec<Row> = rows.collect();
        rows.sort_by(|a, b| (a.schema.precedence, &a.schema.name).cmp(&(b.schema.precedence, &b.schema.name)));
        plan.rows = rows;
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
    }

    /// A schema without its level is passed over.
    fn row(&self, schema: Schema, levels: &Levels) -> Option<Row> {
        let level = Arc::clone(levels.get(&schema.level)?);
        let labels = [level.name.as_str(), schema.name.as_str()];
        let header = |uid: &str| HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""));
        Some(Row {
            dispatched: self.metrics.dispatched.with(&labels),
            waited: self.metrics.waited.with(&[labels[0], labels[1], "true"]),
            schema_uid: header(&schema.uid),
            level_uid: header(&level.uid),
            schema,
            level,
        })
    }

    /// Says in `headers` where the request belongs, and returns its seat.
    ///
    /// # Errors
    /// There was no seat in time.
    pub async fn enter(
        self: &Arc<Self>,
        user: &UserInfo,
        info: &RequestInfo,
        headers: &mut HeaderMap,
    ) -> Result<Option<Seat>, Refused> {
        let plan = self.plan();
        let row = plan.rows.iter().find(|row| row.schema.covers(user, info));
        let Some(row) = row.or_else(|| plan.rows.iter().find(|row| row.schema.name == CATCH_ALL)) else {
            return Ok(None);
        };
        headers.insert("x-kubernetes-pf-flowschema-uid", row.schema_uid.clone());
        headers.insert("x-kubernetes-pf-prioritylevel-uid", row.level_uid.clone());
        if crate::http::limits::is_long_running(info) {
            return Ok(None);
        }
        let distinguisher = match row.schema.by {
            Distinguisher::All => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        };
        let spare = || spare(&plan.levels);
        let waiting = match row.level.enter(flow(&row.schema.name, distinguisher), spare) {
            Entry::Seat => return Ok(Some(self.seat(row))),
            Entry::Refused(why) => return Err(self.refuse(row, why)),
            Entry::Wait(waiting) => waiting,
        };
        self.waiting.store(true, Ordering::SeqCst);
        // A seat may have come back before that was seen.
        self.dispatch(&row.level);
        let since = Instant::now();
        let mut waiting = Waiting { fairness: self, row, receiver: waiting };
        match tokio::time::timeout(self.max_wait, &mut waiting.receiver).await {
            Ok(Ok(())) => {
                row.waited.observe_duration(since.elapsed());
                Ok(Some(self.seat(row)))
            }
            Ok(Err(_)) => Err(self.refuse(row, "cancelled")),
            Err(_) => Err(self.refuse(row, "time-out")),
        }
    }

    fn seat(self: &Arc<Self>, row: &Row) -> Seat {
        row.dispatched.inc();
        Seat { fairness: Arc::clone(self), level: Arc::clone(&row.level) }
    }

    fn refuse(&self, row: &Row, why: &str) -> Refused {
        self.metrics.rejected.with(&[&row.level.name, &row.schema.name, why]).inc();
        Refused
    }

    /// Gives free seats to those who wait: in this level first, then in those that could borrow.
    fn dispatch(&self, first: &Arc<Level>) {
        if !self.waiting.load(Ordering::SeqCst) {
            return;
        }
        let plan = self.plan();
        let spare = || spare(&plan.levels);
        let mut waiting = first.dispatch(spare);
        for level in plan.levels.values() {
            waiting |= level.dispatch(spare);
        }
        if !waiting {
            self.waiting.store(false, Ordering::SeqCst);
            // Who came meanwhile must not be forgotten.
            if plan.levels.values().any(|level| level.load().1 > 0) {
                self.waiting.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Brings the gauges up to date, before they are read.
    pub fn measure(&self) {
        for (name, level) in &self.plan().levels {
            let (in_use, waiting, nominal) = level.load();
            self.metrics.executing.with(&[name]).set(in_use as f64);
            self.metrics.queued.with(&[name]).set(waiting as f64);
            self.metrics.nominal.with(&[name]).set(nominal as f64);
        }
    }
}

/// Somebody in a queue. Who is given a seat at the moment of giving up gives it back.
struct Waiting<'w> {
    fairness: &'w Arc<Fairness>,
    row: &'w Row,
    receiver: tokio::sync::oneshot::Receiver<()>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        if self.receiver.try_recv().is_ok() {
            drop(Seat { fairness: Arc::clone(self.fairness), level: Arc::clone(&self.row.level) });
        }
    }
}

/// Whether some level can lend a seat that is not lent yet.
fn spare(levels: &Levels) -> bool {
    levels.values().map(|level| level.spare()).sum::<i64>() > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::Query;
    use crate::objects::fake::Fake;

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..UserInfo::default() }
    }

    #[tokio::test]
    async fn requests_find_their_schema_and_seats_come_back() {
        let (levels, schemas) = (policy::priority_levels(), policy::flow_schemas());
        let mut cluster = Fake::default();
        for object in schemas {
            cluster = cluster.with(SCHEMAS, object.clone());
        }
        for object in levels {
            cluster = cluster.with(LEVELS, object.clone());
        }
        let fairness = Fairness::new(Arc::new(cluster), 14, Duration::from_millis(1));
        fairness.plan_anew();
        let all = "system:authenticated";
        let cases = [
            (user("a", &["system:masters", all]), "GET", "/api/v1/pods", "exempt"),
            (user("system:node:n", &["system:nodes", all]), "PATCH", "/api/v1/nodes/n/status", "system-node-high"),
            (user("system:node:n", &["system:nodes", all]), "GET", "/api/v1/namespaces/a/pods/p", "system-nodes"),
            (
                user("system:kube-scheduler", &[all]),
                "GET",
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
                "system-leader-election",
            ),
            (user("system:kube-scheduler", &[all]), "GET", "/api/v1/pods", "kube-scheduler"),
            (
                user("system:serviceaccount:kube-system:x", &["system:serviceaccounts:kube-system", all]),
                "GET",
                "/api/v1/pods",
                "kube-system-service-accounts",
            ),
            (
                user("system:serviceaccount:a:x", &["system:serviceaccounts", all]),
                "GET",
                "/api/v1/pods",
                "service-accounts",
            ),
            (user("u", &[all]), "GET", "/healthz", "probes"),
            (user("u", &[all]), "GET", "/api/v1/pods", "global-default"),
        ];
        let plan = fairness.plan();
        for (user, method, path, expected) in cases {
            let info = RequestInfo::parse(&method.parse().unwrap(), path, &Query::default());
            let row = plan.rows.iter().find(|row| row.schema.covers(&user, &info)).unwrap();
            assert_eq!(row.schema.name, expected, "{} {path}", user.name);
        }
        let info = RequestInfo::parse(&http::Method::GET, "/api/v1/pods", &Query::default());
        let mut seats = Vec::new();
        let refused = loop {
            match fairness.enter(&user("u", &[all]), &info, &mut HeaderMap::new()).await {
                Ok(seat) => seats.push(seat),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused, Refused);
        assert!(seats.len() < 20, "{}", seats.len());
        seats.pop();
        assert!(fairness.enter(&user("u", &[all]), &info, &mut HeaderMap::new()).await.is_ok());
        assert!(fairness.enter(&user("root", &["system:masters"]), &info, &mut HeaderMap::new()).await.is_ok());
    }
}
