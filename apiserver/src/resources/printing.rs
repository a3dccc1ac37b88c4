//! The words of table cells: ages, counts, lists. Formats follow upstream's printers, so that `kubectl get` looks the
//! same. Pure: the time comes in from the request.

use jiff::Timestamp;
use serde_json::Value;

use super::check::At;

/// Shown for what is not there.
pub const NONE: &str = "<none>";
/// Shown for what cannot be known.
pub const UNKNOWN: &str = "<unknown>";
/// Shown for what was never set.
pub const UNSET: &str = "<unset>";

/// The text, or `<none>`.
pub fn or_none(text: &str) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// The name of an object.
pub fn name(object: &At) -> Value {
    object.get("metadata.name").str().into()
}

/// How long ago the object was created.
pub fn age(object: &At, now: Timestamp) -> Value {
    since(&object.get("metadata.creationTimestamp"), now).into()
}

/// How long ago the time at `at` was; `<unknown>` when there is none.
pub fn since(at: &At, now: Timestamp) -> String {
    match at.str().parse::<Timestamp>() {
        Ok(then) => human_duration(now.as_second() - then.as_second()),
        Err(_) => UNKNOWN.to_owned(),
    }
}

/// A duration in at most two units, as upstream's `HumanDuration`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days, years) = (seconds / 60, seconds / 3600, seconds / 86_400, seconds / 31_536_000);
    let two = |major: i64, unit: &str, minor: i64, minor_unit: &str| {
        if minor == 0 { format!("{major}{unit}") } else { format!("{major}{unit}{minor}{minor_unit}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(map: &At) -> Value {
    let pairs: Vec<String> = map.entries().map(|(key, value)| format!("{key}={}", value.str())).collect();
    or_none(&pairs.join(","))
}

/// A label selector as a query, or `<none>`.
pub fn selector(at: &At) -> Value {
    let mut terms: Vec<(String, String)> = at
        .get("matchLabels")
        .entries()
        .map(|(key, value)| (key.to_owned(), format!("{key}={}", value.str())))
        .collect();
    for expression in at.get("matchExpressions").items() {
        let key = expression.get("key").str();
        let mut values: Vec<&str> = expression.get("values").strings().collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match expression.get("operator").str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".into(),
        };
        terms.push((key.to_owned(), text));
    }
    terms.sort_by(|a, b| a.0.cmp(&b.0));
    or_none(&terms.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(","))
}

/// Names and images of a pod spec's containers, each joined by commas.
pub fn containers(spec: &At) -> (Value, Value) {
    let join = |field: &str| spec.get("containers").items().map(|c| c.get(field).str()).collect::<Vec<_>>().join(",");
    (join("name").into(), join("image").into())
}

/// `ReadWriteOnce` and the like as `RWO,ROX,RWX,RWOP`.
pub fn access_modes(at: &At) -> Value {
    const MODES: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let given: Vec<&str> = at.strings().collect();
    MODES.iter().filter(|(mode, _)| given.contains(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",").into()
}

/// The number at `at` as a cell of integer type.
pub fn number(at: &At) -> Value {
    at.number().into()
}

/// The boolean at `at`, false when absent.
pub fn flag(at: &At) -> Value {
    at.flag().into()
}

/// The string at `at`, as it is.
pub fn text(at: &At) -> Value {
    at.str().into()
}

/// A pointer's value as text, or `other`.
pub fn shown_or(at: &At, other: &str) -> Value {
    match at.value {
        Value::Null => other.into(),
        Value::String(s) => s.clone().into(),
        value => value.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_at_most_two_units() {
        for (seconds, expected) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }
}
