//! Counting what changed and how long it takes until rules follow; for metrics only, decisions never look here.

use std::sync::{Arc, Mutex, PoisonError};

use client::informer::Delta;
use component_base::metrics::{Counter, Family as Metrics, Gauge};

use crate::core::{EndpointSlice, Family, Service};
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
    pub fn service(&self, _: &Delta<Service>) {
        one_more(&metrics::SERVICE_CHANGES);
        self.change(|counts| counts.services = counts.services.saturating_add(1));
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
        self.change(|counts| {
            counts.slices = counts.slices.saturating_add(1);
            if counts.triggers.len() < MAX_TRIGGERS {
                counts.triggers.extend(trigger);
            }
        });
    }

    /// What the sync that begins now will have taken into account.
    pub fn begin(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The rules follow what [`begin`](Self::begin) told.
    pub fn done(&self, counted: &Counts, families: &[Family]) {
        let now = jiff::Timestamp::now();
        for trigger in &counted.triggers {
            let seconds = now.duration_since(*trigger).as_secs_f64();
            for family in families {
                metrics::PROGRAMMING.with(&[metrics::label(*family)]).observe(seconds.max(0.0));
            }
        }
        self.change(|counts| {
            counts.services = counts.services.saturating_sub(counted.services);
            counts.slices = counts.slices.saturating_sub(counted.slices);
            counts.triggers.drain(..counted.triggers.len().min(counts.triggers.len()));
        });
    }
}

fn one_more(total: &Metrics<Counter>) {
    total.one().inc();
}

/// Now, in every family's gauge.
pub fn stamp(gauge: &Metrics<Gauge>, families: &[Family]) {
    for family in families {
        gauge.with(&[metrics::label(*family)]).set_to_current_time();
    }
}
