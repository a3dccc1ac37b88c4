//! Which start of a cron job is due and when the next one is, purely. Upstream's rules: only the latest missed start is made
//! up; how many were missed is estimated from the first two, so that years of absence cost nothing.

use std::time::Duration;

use apimachinery::cron::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::views::batch::CronJobView;

/// Added to every pause, so that the clock has surely passed the start.
const MARGIN: Duration = Duration::from_millis(100);
/// More missed starts than this are worth a warning.
const MANY: i64 = 100;

/// The latest start that is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// From when starts were counted.
    pub since: Timestamp,
    /// When it should have been; None while nothing is due.
    pub at: Option<Timestamp>,
    /// Roughly how many starts were missed.
    pub missed: i64,
}

/// The latest start until `now`; the error says why the schedule has none.
pub fn due(
    cron: &CronJobView,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
    with_deadline: bool,
) -> Result<Due, String> {
    let created = cron.metadata.creation_timestamp.unwrap_or_default();
    let mut since = cron.status.last_schedule_time.0.unwrap_or(created);
    if let Some(seconds) = cron.spec.starting_deadline_seconds.filter(|_| with_deadline) {
        since = now.checked_sub(SignedDuration::from_secs(seconds)).map_or(since, |limit| since.max(limit));
    }
    let never = || "it has no time within years".to_owned();
    let first = schedule.next(since, zone).ok_or_else(never)?;
    if now < first {
        return Ok(Due { since, at: None, missed: 0 });
    }
    let second = schedule.next(first, zone).ok_or_else(never)?;
    if now < second {
        return Ok(Due { since, at: Some(first), missed: 0 });
    }
    let interval = (second.as_second() - first.as_second()).max(1);
    let missed = (now.as_second() - first.as_second()) / interval + 1;
    let earlier = Timestamp::from_second(first.as_second() + (missed - 2) * interval).unwrap_or(first);
    let starts = std::iter::successors(schedule.next(earlier, zone), |start| schedule.next(*start, zone));
    Ok(Due { since, at: starts.take_while(|start| *start <= now).last(), missed })
}

impl Due {
    /// Whether so many starts were missed that somebody should look.
    pub fn many_missed(&self) -> bool {
        self.missed > MANY
    }
}

/// How long until the next start.
pub fn until_next(cron: &CronJobView, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Option<Duration> {
    let from = match due(cron, schedule, zone, now, false) {
        Ok(Due { at: Some(at), .. }) => at,
        Ok(Due { since, missed: 0, .. }) => since,
        _ => now,
    };
    let next = schedule.next(from, zone)?;
    let left = u64::try_from(next.as_millisecond() - now.as_millisecond()).unwrap_or(0);
    Some(Duration::from_millis(left) + MARGIN)
}

#[cfg(test)]
mod tests {
    use apimachinery::time::parse_time;
    use serde_json::{Value, json};

    use super::*;

    #[allow(clippy::needless_pass_by_value)]
    fn cron(last: Value, deadline: Value) -> CronJobView {
        serde_json::from_value(json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:10Z"},
            "spec": {"startingDeadlineSeconds": deadline}, "status": {"lastScheduleTime": last},
        }))
        .unwrap()
    }

    #[test]
    fn only_the_latest_missed_start_counts() {
        let schedule = Schedule::parse("*/10 * * * *").unwrap();
        let at = |text: &str| parse_time(text).unwrap();
        for (last, deadline, now, wanted, many) in [
            (Value::Null, Value::Null, "2026-01-01T00:05:00Z", None, false),
            (Value::Null, Value::Null, "2026-01-01T00:10:00Z", Some("2026-01-01T00:10:00Z"), false),
            (json!("2026-01-01T00:10:00Z"), Value::Null, "2026-01-01T00:19:59Z", None, false),
            (json!("2026-01-01T00:10:00Z"), Value::Null, "2026-01-01T05:02:00Z", Some("2026-01-01T05:00:00Z"), false),
            (json!("2026-01-01T00:10:00Z"), Value::Null, "2026-01-03T05:02:00Z", Some("2026-01-03T05:00:00Z"), true),
            (Value::Null, json!(60), "2026-01-03T05:02:00Z", None, false),
            (Value::Null, json!(200), "2026-01-03T05:02:00Z", Some("2026-01-03T05:00:00Z"), false),
        ] {
            let due = due(&cron(last, deadline), &schedule, &TimeZone::UTC, at(now), true).unwrap();
            assert_eq!((due.at, due.many_missed()), (wanted.map(at), many), "{now}");
        }
        let next = |last, now| until_next(&cron(last, Value::Null), &schedule, &TimeZone::UTC, at(now)).unwrap();
        assert_eq!(next(Value::Null, "2026-01-01T00:05:00Z"), Duration::from_millis(300_100));
        assert_eq!(next(Value::Null, "2026-01-01T05:02:00Z"), Duration::from_millis(480_100));
        let never = Schedule::parse("0 0 31 2 *").unwrap();
        assert!(
            super::due(&cron(Value::Null, Value::Null), &never, &TimeZone::UTC, at("2026-01-02T00:00:00Z"), true)
                .is_err()
        );
    }
}
