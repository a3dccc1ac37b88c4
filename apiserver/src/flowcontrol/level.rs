//! The seats of one priority level and the queues before them.
//!
//! Queues are served by start-time fair queuing: each has a virtual time that advances by the seats it was given, and the
//! one that is furthest behind is next. A flow is dealt a hand of queues and waits in the shortest of them, so that a heavy
//! flow hardly ever fills all queues of a light one.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::oneshot;

/// Numbers of a PriorityLevelConfiguration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) exempt: bool,
    pub(super) shares: u64,
    pub(super) lendable_percent: u64,
    pub(super) borrowing_percent: Option<u64>,
    /// Queues, hand, length of a queue; `None`: refuse at once.
    pub(super) queues: Option<(usize, usize, usize)>,
}

impl Shape {
    pub(super) fn parse(object: &Value) -> Self {
        let spec = &object["spec"];
        let exempt = spec["type"] == "Exempt";
        let own = if exempt { &spec["exempt"] } else { &spec["limited"] };
        let number = |value: &Value, default: u64| value.as_u64().unwrap_or(default);
        let size = |value: &Value, default| usize::try_from(number(value, default)).unwrap_or(1).max(1);
        let response = &own["limitResponse"];
        let queuing = &response["queuing"];
        let queues = (!exempt && response["type"] == "Queue").then(|| {
            (size(&queuing["queues"], 64), size(&queuing["handSize"], 8), size(&queuing["queueLengthLimit"], 50))
        });
        Self {
            exempt,
            shares: number(&own["nominalConcurrencyShares"], if exempt { 0 } else { 30 }),
            lendable_percent: number(&own["lendablePercent"], 0),
            borrowing_percent: own["borrowingLimitPercent"].as_u64(),
            queues,
        }
    }
}

/// Seats of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seats {
    pub(super) nominal: usize,
    pub(super) lendable: usize,
    /// Most that it may have, borrowed ones included.
    pub(super) upper: usize,
}

/// Shares of the server's `total` seats by upstream's rounding.
pub(super) fn divide(shapes: &[Shape], total: usize) -> Vec<Seats> {
    let sum: u64 = shapes.iter().map(|shape| shape.shares).sum::<u64>().max(1);
    let seats = |shape: &Shape| {
        let nominal = (total as u64 * shape.shares).div_ceil(sum);
        let percent = |percent: u64| usize::try_from((nominal * percent + 50) / 100).unwrap_or(usize::MAX);
        let nominal_seats = usize::try_from(nominal).unwrap_or(usize::MAX);
        let upper = shape.borrowing_percent.map_or(usize::MAX, |most| nominal_seats.saturating_add(percent(most)));
        Seats { nominal: nominal_seats, lendable: percent(shape.lendable_percent), upper }
    };
    shapes.iter().map(seats).collect()
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<oneshot::Sender<()>>,
    /// What it was given so far, in seats.
    virtual_time: u64,
}

#[derive(Default)]
struct State {
    seats: Seats,
    in_use: usize,
    waiting: usize,
    virtual_time: u64,
    queues: Vec<Queue>,
}

/// A priority level at work.
pub(super) struct Level {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) shape: Shape,
    state: Mutex<State>,
}

/// What comes of asking for a seat.
pub(super) enum Entry {
    Seat,
    Wait(oneshot::Receiver<()>),
    Refused(&'static str),
}

impl Level {
    pub(super) fn new(name: &str, uid: &str, shape: Shape) -> Self {
        let queues = shape.queues.map_or(0, |(queues, ..)| queues);
        let state = State { queues: std::iter::repeat_with(Queue::default).take(queues).collect(), ..State::default() };
        Self { name: name.to_owned(), uid: uid.to_owned(), shape, state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn resize(&self, seats: Seats) {
        self.state().seats = seats;
    }

    /// Seats in use, requests waiting, and the nominal seats.
    pub(super) fn load(&self) -> (usize, usize, usize) {
        let state = self.state();
        (state.in_use, state.waiting, state.seats.nominal)
    }

    /// Seats that others may have now (positive), or that were borrowed (negative).
    pub(super) fn spare(&self) -> i64 {
        let state = self.state();
        let (nominal, used) = (state.seats.nominal as i64, state.in_use as i64);
        if self.shape.exempt { 0 } else { (nominal - used).min(state.seats.lendable as i64) }
    }

    /// Asks for a seat for a flow. `spare`: whether others have a seat to lend; asked only when it matters.
    pub(super) fn enter(&self, flow: u64, spare: impl Fn() -> bool) -> Entry {
        {
            let mut state = self.state();
            if self.shape.exempt || state.waiting == 0 && state.in_use < state.seats.nominal {
                state.in_use += 1;
                return Entry::Seat;
            }
        }
        let borrowed = spare();
        let mut state = self.state();
        let room = state.in_use < state.seats.nominal || borrowed && state.in_use < state.seats.upper;
        if state.waiting == 0 && room {
            state.in_use += 1;
            return Entry::Seat;
        }
        let Some((_, hand, longest)) = self.shape.queues else { return Entry::Refused("concurrency-limit") };
        let dealt = deal(flow, state.queues.len(), hand);
        let shortest = dealt.into_iter().min_by_key(|&at| state.queues[at].waiting.len()).unwrap_or_default();
        let now = state.virtual_time;
        let Some(queue) = state.queues.get_mut(shortest) else { return Entry::Refused("concurrency-limit") };
        if queue.waiting.len() >= longest {
            // Who gave up waiting still stands there.
            let before = queue.waiting.len();
            queue.waiting.retain(|waiter| !waiter.is_closed());
            let gone = before - queue.waiting.len();
            if gone == 0 {
                return Entry::Refused("queue-full");
            }
            state.waiting -= gone;
        }
        let Some(queue) = state.queues.get_mut(shortest) else { return Entry::Refused("queue-full") };
        if queue.waiting.is_empty() {
            queue.virtual_time = queue.virtual_time.max(now);
        }
        let (sender, receiver) = oneshot::channel();
        queue.waiting.push_back(sender);
        state.waiting += 1;
        Entry::Wait(receiver)
    }

    /// A seat comes back.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.in_use = state.in_use.saturating_sub(1);
    }

    /// Gives free seats to those who wait. Says whether somebody still waits.
    pub(super) fn dispatch(&self, spare: impl Fn() -> bool) -> bool {
        loop {
            let (waiting, free) = {
                let state = self.state();
                (state.waiting > 0, state.in_use < state.seats.nominal)
            };
            if !waiting {
                return false;
            }
            let borrowed = !free && spare();
            let mut state = self.state();
            if state.in_use >= if borrowed { state.seats.upper } else { state.seats.nominal } {
                return true;
            }
            let behind = state.queues.iter_mut().filter(|queue| !queue.waiting.is_empty());
            let Some(queue) = behind.min_by_key(|queue| queue.virtual_time) else {
                state.waiting = 0;
                return false;
            };
            let next = queue.waiting.pop_front();
            let start = queue.virtual_time;
            let taken = next.is_some_and(|next| next.send(()).is_ok());
            queue.virtual_time += u64::from(taken);
            state.waiting -= 1;
            state.in_use += usize::from(taken);
            state.virtual_time = state.virtual_time.max(start);
        }
    }
}

/// The number of a flow.
pub(super) fn flow(schema: &str, distinguisher: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (schema, distinguisher).hash(&mut hasher);
    hasher.finish()
}

/// `hand` different ones of `queues` queues, always the same for a flow.
fn deal(mut flow: u64, queues: usize, hand: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for left in (queues.saturating_sub(hand) + 1..=queues).rev() {
        let left = left.max(1) as u64;
        let mut card = usize::try_from(flow % left).unwrap_or_default();
        flow /= left;
        let mut sorted = dealt.clone();
        sorted.sort_unstable();
        for earlier in sorted {
            card += usize::from(card >= earlier);
        }
        dealt.push(card);
    }
    dealt
}

/// Levels by name.
pub(super) type Levels = std::collections::BTreeMap<String, Arc<Level>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(queues: Option<(usize, usize, usize)>) -> Shape {
        Shape { exempt: false, shares: 1, lendable_percent: 50, borrowing_percent: None, queues }
    }

    #[test]
    fn hands_are_of_different_queues() {
        for flow in 0..200 {
            let mut hand = deal(super::flow("schema", &flow.to_string()), 16, 6);
            hand.sort_unstable();
            hand.dedup();
            assert_eq!((hand.len(), hand.iter().all(|card| *card < 16)), (6, true));
        }
        assert_eq!(deal(7, 1, 1), [0]);
        assert_eq!(deal(7, 3, 8).len(), 3);
    }

    #[test]
    fn seats_are_divided_as_upstream_does() {
        // v1.36's defaults of 600 seats: upstream's metric says 30, 40, 245, … for them.
        let shapes = [30, 40, 20, 20, 100, 5, 30].map(|shares| Shape { shares, ..shape(None) });
        let nominal: Vec<usize> = divide(&shapes, 600).iter().map(|seats| seats.nominal).collect();
        assert_eq!(nominal, [74, 98, 49, 49, 245, 13, 74]);
        assert_eq!(divide(&[Shape { borrowing_percent: Some(50), ..shape(None) }], 9)[0].upper, 14);
    }

    #[test]
    fn the_light_flow_is_served_between_the_heavy_ones() {
        let level = Level::new("l", "", shape(Some((2, 1, 10))));
        level.resize(Seats { nominal: 1, lendable: 0, upper: 1 });
        assert!(matches!(level.enter(0, || false), Entry::Seat));
        let wait = |flow| match level.enter(flow, || false) {
            Entry::Wait(receiver) => receiver,
            _ => panic!("there is no seat"),
        };
        let mut heavy: Vec<_> = (0..5).map(|_| wait(0)).collect();
        let mut light = wait(1);
        let mut order = Vec::new();
        for _ in 0..6 {
            level.leave();
            level.dispatch(|| false);
            order.extend(heavy.iter_mut().filter_map(|h| h.try_recv().ok()).map(|()| 'h'));
            order.extend(light.try_recv().ok().map(|()| 'l'));
        }
        assert_eq!(order.iter().collect::<String>().find('l').map(|at| at < 2), Some(true), "{order:?}");
        assert_eq!(order.len(), 6);
    }

    #[test]
    fn full_queues_refuse_and_spare_seats_are_lent() {
        let level = Level::new("l", "", shape(Some((1, 1, 1))));
        level.resize(Seats { nominal: 1, lendable: 0, upper: 2 });
        assert!(matches!(level.enter(0, || false), Entry::Seat));
        assert!(matches!(level.enter(0, || true), Entry::Seat));
        let Entry::Wait(waiting) = level.enter(0, || true) else { panic!("more than the upper limit") };
        assert!(matches!(level.enter(0, || true), Entry::Refused("queue-full")));
        drop(waiting);
        assert!(matches!(level.enter(0, || true), Entry::Wait(_)), "who gave up makes room");
        let refusing = Level::new("r", "", shape(None));
        assert!(matches!(refusing.enter(0, || false), Entry::Refused("concurrency-limit")));
    }
}
