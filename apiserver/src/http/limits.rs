//! How many requests are worked on at once: one bound for those that read, one for those that change something.
//!
//! Long-running requests (watches, tunnels, logs) are not counted, nor those of `system:masters`, as upstream's exempt
//! priority level has it. Who finds no place is told to come back in a second; nobody waits in a queue.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::request::{RequestInfo, UserInfo};
use crate::config::RequestLimits;
use crate::flowcontrol::Refused;

const MASTERS: &str = "system:masters";

/// The two bounds.
#[derive(Clone, Debug)]
pub struct InFlight {
    reading: Arc<Semaphore>,
    mutating: Arc<Semaphore>,
}

/// A place, given back when dropped.
pub type Place = Option<OwnedSemaphorePermit>;

impl InFlight {
    /// With these bounds.
    pub fn new(limits: &RequestLimits) -> Self {
        let semaphore = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { reading: semaphore(limits.max_reading), mutating: semaphore(limits.max_mutating) }
    }

    /// A place for a request, or 429.
    ///
    /// # Errors
    /// When all places are taken.
    pub fn enter(&self, user: &UserInfo, info: &RequestInfo) -> Result<Place, Refused> {
        if is_long_running(info) || user.groups.iter().any(|group| group == MASTERS) {
            return Ok(None);
        }
        let semaphore = if is_mutating(&info.verb) { &self.mutating } else { &self.reading };
        match Arc::clone(semaphore).try_acquire_owned() {
            Ok(place) => Ok(Some(place)),
            Err(_) => Err(Refused),
        }
    }
}

/// Whether a verb changes something.
pub fn is_mutating(verb: &str) -> bool {
    !matches!(verb, "get" | "list" | "watch" | "head" | "options")
}

/// Whether a request lasts as long as the client wants (upstream's long-running check).
pub fn is_long_running(info: &RequestInfo) -> bool {
    info.is_resource_request
        && (matches!(info.verb.as_str(), "watch" | "proxy")
            || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_bound_holds_and_places_come_back() {
        let limits = RequestLimits {
            max_reading: 1,
            fair: false,
            max_mutating: 1,
            timeout: Duration::from_secs(1),
            min_watch: Duration::from_secs(1),
        };
        let flight = InFlight::new(&limits);
        let user = UserInfo::default();
        let read = RequestInfo { verb: "get".to_owned(), ..RequestInfo::default() };
        let watch = RequestInfo { verb: "watch".to_owned(), is_resource_request: true, ..RequestInfo::default() };
        let place = flight.enter(&user, &read).unwrap();
        assert_eq!(flight.enter(&user, &read).err(), Some(Refused));
        assert!(flight.enter(&user, &watch).is_ok());
        assert!(flight.enter(&UserInfo::system(), &read).is_ok());
        drop(place);
        assert!(flight.enter(&user, &read).is_ok());
    }
}
