//! How fast nodes of a zone may be marked for eviction, purely. When too much of a zone is down, the reason is likelier
//! a partition than many dead nodes, so eviction slows down or stops; when everything is down, it stops everywhere.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::health::readiness;
use crate::views::node::NodeView;

/// The limits.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Nodes per second in a healthy zone.
    pub normal: f64,
    /// Nodes per second in a large, partly down zone.
    pub secondary: f64,
    /// Share of nodes that makes a zone partly down.
    pub unhealthy_share: f64,
    /// More nodes than this make a zone large.
    pub large_cluster: usize,
}

/// The zone of a node: region and zone.
pub fn zone_of(node: &NodeView) -> String {
    let label = |name: &str| node.metadata.labels.get(name).map(String::as_str).unwrap_or_default();
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Normal,
    Partial,
    Full,
}

fn state(ready: usize, not_ready: usize, share: f64) -> State {
    let total = (ready + not_ready) as f64;
    if ready == 0 && not_ready > 0 {
        State::Full
    } else if not_ready > 2 && not_ready as f64 / total >= share {
        State::Partial
    } else {
        State::Normal
    }
}

/// Nodes with this label do not count when a zone's health is judged.
const NOT_COUNTED: &str = "node.kubernetes.io/exclude-disruption";

/// Nodes per second for every zone.
pub fn rates<'a>(nodes: impl Iterator<Item = &'a NodeView>, rates: Rates) -> BTreeMap<String, f64> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for node in nodes {
        let count = counts.entry(zone_of(node)).or_default();
        if node.metadata.labels.contains_key(NOT_COUNTED) {
            continue;
        }
        if readiness(node) == "True" {
            count.0 += 1;
        } else {
            count.1 += 1;
        }
    }
    let states: BTreeMap<String, (State, usize)> = counts
        .into_iter()
        .map(|(zone, (ready, not))| (zone, (state(ready, not, rates.unhealthy_share), ready + not)))
        .collect();
    let all_down = !states.is_empty() && states.values().all(|(state, _)| *state == State::Full);
    states
        .into_iter()
        .map(|(zone, (state, size))| {
            let rate = match state {
                _ if all_down => 0.0,
                State::Normal | State::Full => rates.normal,
                State::Partial if size > rates.large_cluster => rates.secondary,
                State::Partial => 0.0,
            };
            (zone, rate)
        })
        .collect()
}

/// A token bucket of one token.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    last: Option<Timestamp>,
}

impl Bucket {
    /// Takes the token, or says in how many milliseconds to come again; None if never at this rate.
    pub fn take(&mut self, per_second: f64, now: Timestamp) -> Result<(), Option<u64>> {
        if per_second <= 0.0 {
            return Err(None);
        }
        let interval_ms = (1000.0 / per_second) as i64;
        match self.last {
            Some(last) if now.as_millisecond() - last.as_millisecond() < interval_ms => {
                let left = interval_ms - (now.as_millisecond() - last.as_millisecond());
                Err(Some(u64::try_from(left).unwrap_or(1)))
            }
            _ => {
                self.last = Some(now);
                Ok(())
            }
        }
    }
}
