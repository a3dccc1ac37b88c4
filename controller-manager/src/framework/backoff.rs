//! Waiting times counted from a moment in the past, for loops that must look again "when that is so long ago".

use std::time::Duration;

use jiff::Timestamp;

/// How long from `now` until `since + seconds`; zero when that has passed.
pub fn remaining(since: Timestamp, seconds: i64, now: Timestamp) -> Duration {
    let left_ms = since.as_millisecond().saturating_add(seconds.saturating_mul(1000)) - now.as_millisecond();
    Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
}

/// How long ago `since` is; zero when it lies ahead.
pub fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(now.as_millisecond() - since.as_millisecond()).unwrap_or(0))
}
