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

/// Whether the node counts when its zone's health is judged.
pub fn counts(node: &NodeView) -> bool {
    !node.metadata.labels.contains_key(NOT_COUNTED)
}

/// How the zones are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Zones {
    /// Nodes per second that may be marked for eviction, by zone.
    pub rates: BTreeMap<String, f64>,
    /// No node answers: nobody can tell that the nodes are at fault, so marks are taken back too.
    pub all_down: bool,
}

/// Judges every zone.
pub fn judge<'a>(nodes: impl Iterator<Item = &'a NodeView>, rates: Rates) -> Zones {
    let mut zones: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for node in nodes {
        let count = zones.entry(zone_of(node)).or_default();
        if counts(node) {
            let ready = readiness(node) == "True";
            *(if ready { &mut count.0 } else { &mut count.1 }) += 1;
        }
    }
    let state = |&(ready, not): &(usize, usize)| state(ready, not, rates.unhealthy_share);
    // Zones of which no node counts say nothing.
    let mut judged = zones.values().filter(|count| **count != (0, 0)).peekable();
    let all_down = judged.peek().is_some() && judged.all(|count| state(count) == State::Full);
    let rate = |count: (usize, usize)| match state(&count) {
        State::Full if all_down => 0.0,
        State::Normal | State::Full => rates.normal,
        State::Partial if count.0 + count.1 > rates.large_cluster => rates.secondary,
        State::Partial => 0.0,
    };
    Zones { rates: zones.into_iter().map(|(zone, count)| (zone, rate(count))).collect(), all_down }
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
