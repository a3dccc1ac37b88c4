//! Cron schedules: the standard five fields, descriptors (`@daily`) and `@every DURATION`, as the parser that upstream uses
//! reads them. When both day fields are restricted, either suffices.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const DESCRIPTORS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
/// A schedule without a time in so many years has none (29 February comes at least every eight).
const SEARCHED_YEARS: i16 = 8;
/// Steps of one search: months, days, hours and minutes of the searched years that can be skipped over, with room.
const MAX_STEPS: usize = 10_000;

/// When something is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Whenever the clock shows one of the times.
    Calendar(Calendar),
    /// So many seconds after the last time.
    Every(i64),
}

/// Sets of numbers, a bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
}

impl Schedule {
    /// Reads a schedule; `None` when it is none. Time zones inside the text are not possible.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(every) = text.strip_prefix("@every ") {
            return crate::time::parse_duration(every).map(|nanos| Self::Every((nanos / 1_000_000_000).max(1)));
        }
        let text = if text.starts_with('@') { DESCRIPTORS.iter().find(|(name, _)| *name == text)?.1 } else { text };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else { return None };
        Some(Self::Calendar(Calendar {
            minutes: field(minute, 0, 59, &[], 0)?.0,
            hours: field(hour, 0, 23, &[], 0)?.0,
            days: field(day, 1, 31, &[], 0)?.0,
            months: field(month, 1, 12, MONTHS, 1)?.0,
            weekdays: field(weekday, 0, 6, DAYS, 0)?.0,
            any_day: field(day, 1, 31, &[], 0)?.1 || field(weekday, 0, 6, DAYS, 0)?.1,
        }))
    }

    /// The first time after `after`, to the second; `None` when there is none for years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let after = Timestamp::from_second(after.as_second()).ok()?;
        match self {
            Self::Every(seconds) => after.checked_add(SignedDuration::from_secs(*seconds)).ok(),
            Self::Calendar(calendar) => calendar.next(&after.to_zoned(zone.clone())),
        }
    }
}

impl Calendar {
    fn has_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        if self.any_day { day && weekday } else { day || weekday }
    }

    fn next(&self, after: &Zoned) -> Option<Timestamp> {
        let last_year = after.year().saturating_add(SEARCHED_YEARS);
        let midnight = |date: Date| date.to_zoned(after.time_zone().clone()).ok();
        let mut time = after.checked_add(1.minute()).ok()?;
        time = time.checked_sub(i64::from(time.second()).seconds()).ok()?;
        for _ in 0..MAX_STEPS {
            if time.year() > last_year {
                return None;
            }
            if !has(self.months, time.month()) {
                time = midnight(time.date().first_of_month().checked_add(1.month()).ok()?)?;
            } else if !self.has_day(time.date()) {
                time = midnight(time.date().tomorrow().ok()?)?;
            } else if !has(self.hours, time.hour()) {
                time = time.checked_add((60 - i64::from(time.minute())).minutes()).ok()?;
            } else if !has(self.minutes, time.minute()) {
                time = time.checked_add(1.minute()).ok()?;
            } else {
                return Some(time.timestamp());
            }
        }
        None
    }
}

fn has(set: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| set >> number & 1 == 1)
}

/// The numbers of a field, and whether it is (among others) a star without a step.
fn field(field: &str, min: u32, max: u32, words: &[&str], first: u32) -> Option<(u64, bool)> {
    let value = |text: &str| match words.iter().position(|word| text.eq_ignore_ascii_case(word)) {
        Some(i) => u32::try_from(i).ok().map(|i| i + first),
        None => text.parse::<u32>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())),
    };
    let (mut set, mut star) = (0, false);
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let stride = step.map_or(Some(1), |step| step.parse::<u32>().ok().filter(|step| *step > 0))?;
        let any = range == "*" || range == "?";
        let (low, high) = match range.split_once('-') {
            None if any => (min, max),
            None => value(range).map(|v| (v, if step.is_some() { max } else { v }))?,
            Some((low, high)) => value(low).zip(value(high))?,
        };
        if low < min || low > high || high > max {
            return None;
        }
        star |= any && stride == 1;
        set = (low..=high).step_by(usize::try_from(stride).ok()?).fold(set, |set, number| set | 1_u64 << number);
    }
    Some((set, star))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{format_time, parse_time};

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 0-12/2 1,15 jan-MAR mon", "@hourly", "@every 1h30m", "0 0 ? * 0"] {
            assert!(Schedule::parse(good).is_some(), "{good}");
        }
        for bad in [
            "", "* * * *", "61 * * * *", "* * * * * *", "TZ=UTC 0 0 * * *", "@often", "5-1 * * * *", "*/0 * * * *",
            "* * * * 7",
        ] {
            assert!(Schedule::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn next_times() {
        for (schedule, zone, after, wanted) in [
            ("* * * * *", "UTC", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "UTC", "2026-01-01T00:45:00Z", "2026-01-01T01:00:00Z"),
            ("0 0 1 1 *", "UTC", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("30 4 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T04:30:00Z"),
            ("0 0 13 * fri", "UTC", "2026-01-03T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 */2 * fri", "UTC", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"),
            ("0 9 * * *", "Asia/Tokyo", "2026-01-01T01:00:00Z", "2026-01-02T00:00:00Z"),
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),
            ("@every 90s", "UTC", "2026-01-01T00:00:30.5Z", "2026-01-01T00:02:00Z"),
            ("@weekly", "UTC", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
        ] {
            let next =
                Schedule::parse(schedule).unwrap().next(parse_time(after).unwrap(), &TimeZone::get(zone).unwrap());
            assert_eq!(next.map(format_time).as_deref(), Some(wanted), "{schedule}");
        }
        assert_eq!(Schedule::parse("0 0 31 2 *").unwrap().next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
    }
}
