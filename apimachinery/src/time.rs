//! Times and durations in the API's text forms: RFC 3339 with whole seconds or microseconds, and Go's durations.
//!
//! Guarantees: accepts what Go's RFC 3339 parser accepts, prints UTC. Reads no clock.

use jiff::Timestamp;

const SECOND: i64 = 1_000_000_000;

/// Parses RFC 3339 with any number of fraction digits; `None` for anything else.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        digits.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
    };
    let mark = |at: usize, what: u8| (*bytes.get(at)? == what).then_some(());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    for (at, what) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        mark(at, what)?;
    }
    let (year, month, day) = (i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?);
    let (hour, minute, second) = (i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, i8::try_from(second).ok()?);
    let civil = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    let (nanos, rest) = fraction(&bytes[19..])?;
    let offset_seconds = offset(rest)?;
    let utc = jiff::tz::Offset::UTC.to_timestamp(civil).ok()?.as_second();
    Timestamp::new(utc - offset_seconds, nanos).ok()
}

/// Nanoseconds of an optional `.123…`, and what follows it.
fn fraction(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let Some(digits) = bytes.strip_prefix(b".") else { return Some((0, bytes)) };
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let padded = digits[..count].iter().copied().chain(std::iter::repeat(b'0')).take(9);
    Some((padded.fold(0, |n, b| n * 10 + i32::from(b - b'0')), &digits[count..]))
}

/// Seconds east of UTC from `Z` or `+hh:mm`.
fn offset(bytes: &[u8]) -> Option<i64> {
    let (sign, digits) = match bytes {
        b"Z" => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let [h1, h2, b':', m1, m2] = digits else { return None };
    if ![h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let pair = |a: &u8, b: &u8| i64::from(a - b'0') * 10 + i64::from(b - b'0');
    let (hours, minutes) = (pair(h1, h2), pair(m1, m2));
    (hours <= 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// Parses `MicroTime`: RFC 3339 with exactly six fraction digits.
pub fn parse_micro_time(text: &str) -> Option<Timestamp> {
    let digits = text.get(19..)?.strip_prefix('.')?.bytes().take_while(u8::is_ascii_digit).count();
    (digits == 6).then(|| parse_time(text))?
}

/// `2006-01-02T15:04:05Z`; parts of a second are cut.
pub fn format_time(time: Timestamp) -> String {
    civil(time, "Z")
}

/// `2006-01-02T15:04:05.000000Z`.
pub fn format_micro_time(time: Timestamp) -> String {
    let micros = time.as_nanosecond().rem_euclid(i128::from(SECOND)) / 1000;
    civil(time, &format!(".{micros:06}Z"))
}

fn civil(time: Timestamp, tail: &str) -> String {
    let at = jiff::tz::Offset::UTC.to_datetime(time);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{tail}",
        at.year(),
        at.month(),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// Nanoseconds of a Go duration (`1h2m3.5s`, `-100ms`, `0`); `None` when malformed or out of range.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let nanos_per_unit = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut below: i64 = 0;
        for digit in part.bytes().take(18) {
            if !digit.is_ascii_digit() {
                return None;
            }
            below = below * 10 + i64::from(digit - b'0');
        }
        let digits = u32::try_from(part.len().min(18)).ok()?;
        let part = i128::from(below) * i128::from(nanos_per_unit) / 10i128.pow(digits);
        let value = whole.checked_mul(nanos_per_unit)?.checked_add(i64::try_from(part).ok()?)?;
        total = total.checked_add(value)?;
        rest = tail;
    }
    Some(if negative { -total } else { total })
}

/// Go's `Duration.String()`: `1h2m3.5s`, `100ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let all = nanos.unsigned_abs();
    let second = SECOND.unsigned_abs();
    if all == 0 {
        return "0s".to_owned();
    }
    let with_fraction = |whole: u64, part: u64, digits: usize, unit: &str| {
        let tail = format!("{part:0digits$}");
        let tail = tail.trim_end_matches('0');
        if part == 0 { format!("{whole}{unit}") } else { format!("{whole}.{tail}{unit}") }
    };
    if all < second {
        return match all {
            0..1000 => format!("{sign}{all}ns"),
            1000..1_000_000 => format!("{sign}{}", with_fraction(all / 1000, all % 1000, 3, "µs")),
            _ => format!("{sign}{}", with_fraction(all / 1_000_000, all % 1_000_000, 6, "ms")),
        };
    }
    let seconds = with_fraction(all / second % 60, all % second, 9, "s");
    match (all / second / 3600, all / second / 60 % 60) {
        (0, 0) => format!("{sign}{seconds}"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}"),
    }
}

/// `#[serde(with = "time::seconds")]` for an optional `Time`.
pub mod seconds {
    use jiff::Timestamp;
    use serde::{Deserializer, Serialize, Serializer};

    /// Prints whole seconds, or null.
    pub fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(super::format_time).serialize(serializer)
    }

    /// Reads RFC 3339, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        super::optional(deserializer)
    }
}

/// `#[serde(with = "time::micros")]` for an optional `MicroTime`.
pub mod micros {
    use jiff::Timestamp;
    use serde::{Deserializer, Serialize, Serializer};

    /// Prints microseconds, or null.
    pub fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(super::format_micro_time).serialize(serializer)
    }

    /// Reads RFC 3339, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        super::optional(deserializer)
    }
}

fn optional<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = <Option<std::borrow::Cow<'de, str>> as serde::Deserialize>::deserialize(deserializer)?;
    let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(None) };
    parse_time(&text).map(Some).ok_or_else(|| serde::de::Error::custom(format!("\"{text}\" is no RFC 3339 time")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_and_prints_times() {
        for (given, seconds, micros) in [
            ("2024-02-29T12:30:05Z", "2024-02-29T12:30:05Z", "2024-02-29T12:30:05.000000Z"),
            ("2024-01-01T01:00:00+02:00", "2023-12-31T23:00:00Z", "2023-12-31T23:00:00.000000Z"),
            ("2024-01-01T01:00:00.1234567Z", "2024-01-01T01:00:00Z", "2024-01-01T01:00:00.123456Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59Z", "1969-12-31T23:59:59.500000Z"),
        ] {
            let time = parse_time(given).unwrap();
            assert_eq!(format_time(time), seconds);
            assert_eq!(format_micro_time(time), micros);
        }
        for bad in [
            "", "2024-02-30T00:00:00Z", "2024-02-28 00:00:00Z", "2024-02-28T00:00:00", "2024-02-28T25:00:00Z",
            "2024-02-28T00:00:00.Z",
        ] {
            assert!(parse_time(bad).is_none(), "{bad}");
        }
        assert!(parse_micro_time("2024-02-28T00:00:00Z").is_none());
        assert!(parse_micro_time("2024-02-28T00:00:00.000001Z").is_some());
    }

    #[test]
    fn durations_are_gos() {
        for (text, nanos, printed) in [
            ("0", 0, "0s"),
            ("1h", 3600 * SECOND, "1h0m0s"),
            ("1m30s", 90 * SECOND, "1m30s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("100ms", 100_000_000, "100ms"),
            ("-2m", -120 * SECOND, "-2m0s"),
            ("1us", 1000, "1µs"),
            (".5m", 30 * SECOND, "30s"),
            ("15ns", 15, "15ns"),
        ] {
            assert_eq!(parse_duration(text), Some(nanos), "{text}");
            assert_eq!(format_duration(nanos), printed);
        }
        for bad in ["", "1", "s", "1x", "1.s.", "-", "99999999999h"] {
            assert!(parse_duration(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in "\\PC{0,40}") {
            let _ = (parse_time(&text), parse_micro_time(&text), parse_duration(&text));
        }

        #[test]
        fn durations_round_trip(nanos in any::<i32>().prop_map(|n| i64::from(n) * 1_000_003)) {
            prop_assert_eq!(parse_duration(&format_duration(nanos)), Some(nanos));
        }

        #[test]
        fn times_round_trip(seconds in -60_000_000_000i64..250_000_000_000) {
            let time = Timestamp::from_second(seconds).unwrap();
            if (0..=9999).contains(&jiff::tz::Offset::UTC.to_datetime(time).year()) {
                prop_assert_eq!(parse_time(&format_time(time)), Some(time));
            }
        }
    }
}
