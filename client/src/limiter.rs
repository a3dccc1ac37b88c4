//! A token bucket for requests, as upstream's `--kube-api-qps` and `--kube-api-burst`.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Hands out one permission after the other, in order of asking.
pub(crate) struct Limiter {
    per_second: f64,
    burst: f64,
    // Tokens at an instant; may be negative: those are promised already.
    bucket: Mutex<(f64, Instant)>,
}

impl Limiter {
    /// `None` when `qps` asks for no limit.
    pub(crate) fn new(qps: f32, burst: u32) -> Option<Self> {
        let burst = f64::from(burst.max(1));
        (qps > 0.0).then(|| Self { per_second: f64::from(qps), burst, bucket: Mutex::new((burst, Instant::now())) })
    }

    /// Waits for the permission to send one request.
    pub(crate) async fn acquire(&self) {
        let wait = self.reserve(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn reserve(&self, now: Instant) -> Duration {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, since) = *bucket;
        let refilled = (tokens + now.saturating_duration_since(since).as_secs_f64() * self.per_second).min(self.burst);
        *bucket = (refilled - 1.0, now);
        if refilled >= 1.0 { Duration::ZERO } else { Duration::from_secs_f64((1.0 - refilled) / self.per_second) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let limiter = Limiter::new(10.0, 2).unwrap();
        let now = Instant::now();
        assert_eq!(limiter.reserve(now), Duration::ZERO);
        assert_eq!(limiter.reserve(now), Duration::ZERO);
        assert_eq!(limiter.reserve(now).as_millis(), 100);
        assert_eq!(limiter.reserve(now).as_millis(), 200);
        assert_eq!(limiter.reserve(now + Duration::from_secs(10)), Duration::ZERO);
        assert!(Limiter::new(0.0, 5).is_none());
    }
}
