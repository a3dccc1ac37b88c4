//! Which Services changed since the last sync, so that it looks at those only; and, for metrics, how much changed and how
//! long it takes until rules follow.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use client::informer::Delta;
use component_base::metrics::{Counter, Family as Metrics, Gauge};

use crate::core::{EndpointSlice, Family, SERVICE_NAME_LABEL, Service, ServiceKey};
use crate::metrics;

/// When the endpoint controller saw the change that led to this state of the slice.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Trigger times remembered between two syncs.
const MAX_TRIGGERS: usize = 1024;

/// Changes since the last sync; cheap to clone, all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Changes(Arc<Mutex<Counts>>);

/// What a sync takes into account.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    services: u32,
    slices: u32,
    /// Services that may have other ports or endpoints than before.
    pub touched: BTreeSet<ServiceKey>,
    triggers: Vec<jiff::Timestamp>,
}

impl Changes {
    fn change(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut counts);
        metrics::SERVICE_CHANGES_PENDING.one().set(counts.services.into());
        metrics::ENDPOINT_CHANGES_PENDING.one().set(counts.slices.into());
    }

    /// A Service changed.
    pub fn service(&self, delta: &Delta<Service>) {
        one_more(&metrics::SERVICE_CHANGES);
        let meta = &delta.object().metadata;
        self.change(|counts| {
            counts.services = counts.services.saturating_add(1);
            counts.touched.insert((meta.namespace.clone(), meta.name.clone()));
        });
    }

    /// A slice changed.
    pub fn slice(&self, delta: &Delta<EndpointSlice>) {
        one_more(&metrics::ENDPOINT_CHANGES);
        // The first copy after a start tells nothing about how quick we are.
        let trigger = match delta {
            Delta::Updated { new, .. } => {
                new.metadata.annotations.get(TRIGGER_ANNOTATION).and_then(|t| t.parse::<jiff::Timestamp>().ok())
            }
            Delta::Added(_) | Delta::Deleted(_) => None,
        };
        let old = if let Delta::Updated { old, .. } = delta { owner(old) } else { None };
        self.change(|counts| {
            counts.slices = counts.slices.saturating_add(1);
            counts.touched.extend(old.into_iter().chain(owner(delta.object())));
            if counts.triggers.len() < MAX_TRIGGERS {
                counts.triggers.extend(trigger);
            }
        });
    }

    /// What the sync that begins now will have taken into account.
    pub fn begin(&self) -> Counts {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let touched = std::mem::take(&mut counts.touched);
        Counts { touched, ..counts.clone() }
    }

    /// The rules follow what [`begin`](Self::begin) told.
    pub fn done(&self, counted: &Counts, families: &[Family]) {
        let now = jiff::Timestamp::now();
        for trigger in &counted.triggers {
            let seconds = now.duration_since(*trigger).as_secs_f64();
            for family in families {
                metrics::PROGRAMMING.with(&[family.label()]).observe(seconds.max(0.0));
            }
        }
        self.change(|counts| {
            counts.services = counts.services.saturating_sub(counted.services);
            counts.slices = counts.slices.saturating_sub(counted.slices);
            counts.triggers.drain(..counted.triggers.len().min(counts.triggers.len()));
        });
    }
}

/// The Service that a slice belongs to.
pub fn owner(slice: &EndpointSlice) -> Option<ServiceKey> {
    let service = slice.metadata.labels.get(SERVICE_NAME_LABEL)?;
    Some((slice.metadata.namespace.clone(), service.clone()))
}

fn one_more(total: &Metrics<Counter>) {
    total.one().inc();
}

/// Now, in every family's gauge.
pub fn stamp(gauge: &Metrics<Gauge>, families: &[Family]) {
    for family in families {
        gauge.with(&[family.label()]).set_to_current_time();
    }
}
