//! Go's duration notation (`1h30m0s`, `250ms`), in flags and configuration files.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A non-negative duration written as Go writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// Whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl std::ops::Deref for GoDuration {
    type Target = Duration;
    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl From<GoDuration> for Duration {
    fn from(value: GoDuration) -> Self {
        value.0
    }
}

impl FromStr for GoDuration {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("invalid duration {text:?}: write it like 1h30m, 45s or 250ms");
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(bad());
        }
        let mut total_ns: f64 = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let number: f64 = rest.get(..digits).and_then(|n| n.parse().ok()).ok_or_else(bad)?;
            rest = rest.get(digits..).unwrap_or_default();
            let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let unit_ns = match rest.get(..end).unwrap_or_default() {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(bad()),
            };
            total_ns += number * unit_ns;
            rest = rest.get(end..).unwrap_or_default();
        }
        // Go's range; also keeps the conversion exact enough and infallible.
        if total_ns > i64::MAX as f64 {
            return Err(bad());
        }
        Ok(Self(Duration::from_nanos(total_ns.round() as u64)))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        let fraction = |value: u128, unit: u128| {
            let text = format!("{}.{:0width$}", value / unit, value % unit, width = unit.ilog10() as usize);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        match ns {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{ns}ns"),
            1_000..1_000_000 => write!(f, "{}µs", fraction(ns, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", fraction(ns, 1_000_000)),
            _ => {
                let (minutes, rest) = (ns / 60_000_000_000, ns % 60_000_000_000);
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write!(f, "{}s", fraction(rest, 1_000_000_000))
            }
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_as_go_does() {
        for (text, ns, canonical) in [
            ("0", 0, "0s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1h2m3.5s", 3_723_500_000_000, "1h2m3.5s"),
            ("250ms", 250_000_000, "250ms"),
            ("1.5ms", 1_500_000, "1.5ms"),
            ("24h0m0s", 86_400_000_000_000, "24h0m0s"),
        ] {
            let duration: GoDuration = text.parse().unwrap();
            assert_eq!(duration.0.as_nanos(), ns, "{text}");
            assert_eq!(duration.to_string(), canonical);
        }
        for text in ["", "5", "1x", "-3s", "h", "1..2s"] {
            assert!(text.parse::<GoDuration>().is_err(), "{text}");
        }
    }
}
