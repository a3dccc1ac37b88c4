//! The operators and conversions of the language itself, times, and optional values.

use std::cmp::Ordering;
use std::rc::Rc;

use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{Cost, Error, Outcome, Row, int, none, runtime};
use crate::value::{Key, Val};

const ORDERED: &str = "(bool,bool)bool|(num,num)bool|(string,string)bool|(bytes,bytes)bool|(timestamp,timestamp)bool|(duration,duration)bool";
const PART: &str = "timestamp.()int|timestamp.(string)int";
const PART_OR_TOTAL: &str = "timestamp.()int|timestamp.(string)int|duration.()int";

pub(super) const ROWS: &[Row] = &[
    ("==", "(A,A)bool", Cost::Shorter, |a| Ok(Val::Bool(a[0].equals(&a[1])))),
    ("!=", "(A,A)bool", Cost::Shorter, |a| Ok(Val::Bool(!a[0].equals(&a[1])))),
    ("<", ORDERED, Cost::Shorter, |a| ordered(a, &[Ordering::Less])),
    ("<=", ORDERED, Cost::Shorter, |a| ordered(a, &[Ordering::Less, Ordering::Equal])),
    (">", ORDERED, Cost::Shorter, |a| ordered(a, &[Ordering::Greater])),
    (">=", ORDERED, Cost::Shorter, |a| ordered(a, &[Ordering::Greater, Ordering::Equal])),
    (
        "+",
        "(int,int)int|(uint,uint)uint|(double,double)double|(string,string)string|(bytes,bytes)bytes|(list(A),list(A))list(A)|\
         (timestamp,duration)timestamp|(duration,timestamp)timestamp|(duration,duration)duration",
        Cost::Both,
        add,
    ),
    (
        "-",
        "(int,int)int|(uint,uint)uint|(double,double)double|(timestamp,timestamp)duration|(timestamp,duration)timestamp|\
         (duration,duration)duration",
        Cost::One,
        subtract,
    ),
    ("*", "(int,int)int|(uint,uint)uint|(double,double)double", Cost::One, |a| match a {
        [Val::Int(x), Val::Int(y)] => x.checked_mul(*y).map(Val::Int).ok_or_else(overflow),
        [Val::Uint(x), Val::Uint(y)] => x.checked_mul(*y).map(Val::Uint).ok_or_else(overflow),
        [Val::Double(x), Val::Double(y)] => Ok(Val::Double(x * y)),
        _ => none(),
    }),
    ("/", "(int,int)int|(uint,uint)uint|(double,double)double", Cost::One, |a| match a {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => runtime("division by zero"),
        [Val::Int(x), Val::Int(y)] => x.checked_div(*y).map(Val::Int).ok_or_else(overflow),
        [Val::Uint(x), Val::Uint(y)] => Ok(Val::Uint(x / y)),
        [Val::Double(x), Val::Double(y)] => Ok(Val::Double(x / y)),
        _ => none(),
    }),
    ("%", "(int,int)int|(uint,uint)uint", Cost::One, |a| match a {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => runtime("modulus by zero"),
        [Val::Int(x), Val::Int(y)] => x.checked_rem(*y).map(Val::Int).ok_or_else(overflow),
        [Val::Uint(x), Val::Uint(y)] => Ok(Val::Uint(x % y)),
        _ => none(),
    }),
    ("-_", "(int)int|(double)double", Cost::One, |a| match a {
        [Val::Int(x)] => x.checked_neg().map(Val::Int).ok_or_else(overflow),
        [Val::Double(x)] => Ok(Val::Double(-x)),
        _ => none(),
    }),
    ("!", "(bool)bool", Cost::One, |a| match a {
        [Val::Bool(x)] => Ok(Val::Bool(!x)),
        _ => none(),
    }),
    ("in", "(A,list(A))bool|(A,map(A,B))bool", Cost::Elements, |a| match a[1].items() {
        Some(items) => Ok(Val::Bool(items.iter().any(|item| item.equals(&a[0])))),
        None if matches!(a[1], Val::Map(_) | Val::JsonMap(..)) => {
            Ok(Val::Bool(Key::of(&a[0]).is_some() && a[1].element(&a[0])?.is_some()))
        }
        None => none(),
    }),
    (
        "size",
        "(string)int|(bytes)int|(list(A))int|(map(A,B))int|string.()int|bytes.()int|list(A).()int|map(A,B).()int",
        Cost::One,
        |a| a[0].len().map(int).ok_or_else(|| Error::no_overload("size")),
    ),
    ("int", "(num)int|(string)int|(timestamp)int|(duration)int", Cost::One, to_int),
    ("uint", "(num)uint|(string)uint", Cost::One, to_uint),
    ("double", "(num)double|(string)double", Cost::One, |a| match a {
        [Val::Str(text)] => {
            text.parse().map(Val::Double).or_else(|_| runtime("type conversion error from 'string' to 'double'"))
        }
        [x] => x.float().map_or_else(none, |float| Ok(Val::Double(float))),
        _ => none(),
    }),
    ("bool", "(bool)bool|(string)bool", Cost::One, |a| match a {
        [Val::Bool(x)] => Ok(Val::Bool(*x)),
        [Val::Str(text)] => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Val::Bool(false)),
            _ => runtime("type conversion error from 'string' to 'bool'"),
        },
        _ => none(),
    }),
    (
        "string",
        "(string)string|(bool)string|(bytes)string|(num)string|(duration)string|(timestamp)string|(IP)string|(CIDR)string",
        Cost::Scan,
        |a| to_string(&a[0]),
    ),
    ("bytes", "(bytes)bytes|(string)bytes", Cost::Scan, |a| match a {
        [Val::Bytes(bytes)] => Ok(Val::Bytes(Rc::clone(bytes))),
        [Val::Str(text)] => Ok(Val::Bytes(text.as_bytes().into())),
        _ => none(),
    }),
    ("duration", "(duration)duration|(string)duration|(int)duration", Cost::One, |a| match a {
        [Val::Duration(x)] => Ok(Val::Duration(*x)),
        [Val::Int(nanos)] => Ok(Val::Duration(*nanos)),
        [Val::Str(text)] => apimachinery::time::parse_duration(text).map_or_else(
            || runtime("type conversion error from 'string' to 'google.protobuf.Duration'"),
            |d| Ok(Val::Duration(d)),
        ),
        _ => none(),
    }),
    ("timestamp", "(timestamp)timestamp|(string)timestamp|(int)timestamp", Cost::One, |a| match a {
        [Val::Timestamp(x)] => Ok(Val::Timestamp(*x)),
        [Val::Int(seconds)] => Timestamp::from_second(*seconds).map(Val::Timestamp).map_err(|_| overflow()),
        [Val::Str(text)] => text
            .parse()
            .map(Val::Timestamp)
            .or_else(|_| runtime("type conversion error from 'string' to 'google.protobuf.Timestamp'")),
        _ => none(),
    }),
    ("dyn", "(A)dyn", Cost::One, |a| Ok(a[0].clone())),
    ("type", "(A)type", Cost::One, |a| Ok(Val::Type(a[0].type_name().into()))),
    ("getFullYear", PART, Cost::One, |a| part(a, |z| z.year().into())),
    ("getMonth", PART, Cost::One, |a| part(a, |z| i64::from(z.month()) - 1)),
    ("getDayOfYear", PART, Cost::One, |a| part(a, |z| i64::from(z.day_of_year()) - 1)),
    ("getDayOfMonth", PART, Cost::One, |a| part(a, |z| i64::from(z.day()) - 1)),
    ("getDate", PART, Cost::One, |a| part(a, |z| z.day().into())),
    ("getDayOfWeek", PART, Cost::One, |a| part(a, |z| z.weekday().to_sunday_zero_offset().into())),
    ("getHours", PART_OR_TOTAL, Cost::One, |a| total(a, 3_600_000_000_000, |z| z.hour().into())),
    ("getMinutes", PART_OR_TOTAL, Cost::One, |a| total(a, 60_000_000_000, |z| z.minute().into())),
    ("getSeconds", PART_OR_TOTAL, Cost::One, |a| total(a, 1_000_000_000, |z| z.second().into())),
    ("getMilliseconds", PART_OR_TOTAL, Cost::One, |a| match a {
        [Val::Duration(nanos)] => Ok(Val::Int(nanos / 1_000_000 % 1000)),
        _ => part(a, |z| z.millisecond().into()),
    }),
    ("optional.none", "()optional(A)", Cost::One, |_| Ok(Val::Optional(None))),
    ("optional.of", "(A)optional(A)", Cost::One, |a| Ok(a[0].clone().some())),
    ("optional.ofNonZeroValue", "(A)optional(A)", Cost::One, |a| {
        Ok(if zero(&a[0]) { Val::Optional(None) } else { a[0].clone().some() })
    }),
    ("hasValue", "optional(A).()bool", Cost::One, |a| match a {
        [Val::Optional(inner)] => Ok(Val::Bool(inner.is_some())),
        _ => none(),
    }),
    ("value", "optional(A).()A", Cost::One, |a| match a {
        [Val::Optional(Some(inner))] => Ok((**inner).clone()),
        [Val::Optional(None)] => runtime("optional.none() dereference"),
        _ => none(),
    }),
    ("or", "optional(A).(optional(A))optional(A)", Cost::One, |a| match a {
        [Val::Optional(None), other] => Ok(other.clone()),
        [given @ Val::Optional(_), _] => Ok(given.clone()),
        _ => none(),
    }),
    ("orValue", "optional(A).(A)A", Cost::One, |a| match a {
        [Val::Optional(Some(inner)), _] => Ok((**inner).clone()),
        [Val::Optional(None), other] => Ok(other.clone()),
        _ => none(),
    }),
];

fn overflow() -> Error {
    Error::Runtime("integer overflow".to_owned())
}

fn ordered<'a>(a: &[Val<'a>], wanted: &[Ordering]) -> Outcome<'a> {
    match a[0].compare(&a[1]) {
        Some(order) => Ok(Val::Bool(wanted.contains(&order))),
        // Not a number is in no order with any.
        None if a[0].float().is_some() && a[1].float().is_some() => Ok(Val::Bool(false)),
        None => none(),
    }
}

fn moved<'a>(time: Timestamp, nanos: i64) -> Outcome<'a> {
    time.checked_add(SignedDuration::from_nanos(nanos)).map(Val::Timestamp).map_err(|_| overflow())
}

fn add<'a>(a: &[Val<'a>]) -> Outcome<'a> {
    match a {
        [Val::Int(x), Val::Int(y)] => x.checked_add(*y).map(Val::Int).ok_or_else(overflow),
        [Val::Uint(x), Val::Uint(y)] => x.checked_add(*y).map(Val::Uint).ok_or_else(overflow),
        [Val::Double(x), Val::Double(y)] => Ok(Val::Double(x + y)),
        [Val::Str(x), Val::Str(y)] => Ok(Val::string(format!("{}{}", &**x, &**y))),
        [Val::Bytes(x), Val::Bytes(y)] => Ok(Val::Bytes([&**x, &**y].concat().into())),
        [Val::Duration(x), Val::Duration(y)] => x.checked_add(*y).map(Val::Duration).ok_or_else(overflow),
        [Val::Timestamp(time), Val::Duration(nanos)] | [Val::Duration(nanos), Val::Timestamp(time)] => {
            moved(*time, *nanos)
        }
        [x, y] => match (x.items(), y.items()) {
            (Some(mut x), Some(y)) => {
                x.extend(y);
                Ok(Val::list(x))
            }
            _ => none(),
        },
        _ => none(),
    }
}

fn subtract<'a>(a: &[Val<'a>]) -> Outcome<'a> {
    match a {
        [Val::Int(x), Val::Int(y)] => x.checked_sub(*y).map(Val::Int).ok_or_else(overflow),
        [Val::Uint(x), Val::Uint(y)] => x.checked_sub(*y).map(Val::Uint).ok_or_else(overflow),
        [Val::Double(x), Val::Double(y)] => Ok(Val::Double(x - y)),
        [Val::Duration(x), Val::Duration(y)] => x.checked_sub(*y).map(Val::Duration).ok_or_else(overflow),
        [Val::Timestamp(time), Val::Duration(nanos)] => moved(*time, nanos.checked_neg().ok_or_else(overflow)?),
        [Val::Timestamp(x), Val::Timestamp(y)] => {
            let nanos = x.as_nanosecond() - y.as_nanosecond();
            i64::try_from(nanos).map(Val::Duration).map_err(|_| overflow())
        }
        _ => none(),
    }
}

/// The whole part of a double in `[low, high)`.
#[allow(clippy::cast_possible_truncation)]
fn whole(double: f64, low: f64, high: f64) -> Result<i128, Error> {
    if double >= low && double < high { Ok(double as i128) } else { Err(overflow()) }
}

fn to_int<'a>(a: &[Val<'a>]) -> Outcome<'a> {
    let wide = match &a[0] {
        Val::Int(x) => return Ok(Val::Int(*x)),
        Val::Duration(x) => return Ok(Val::Int(*x)),
        Val::Uint(x) => i128::from(*x),
        Val::Double(x) => whole(*x, -9.223_372_036_854_776e18, 9.223_372_036_854_776e18)?,
        Val::Timestamp(time) => i128::from(time.as_second()),
        Val::Str(text) => {
            return text.parse().map(Val::Int).or_else(|_| runtime("type conversion error from 'string' to 'int'"));
        }
        _ => return none(),
    };
    i64::try_from(wide).map(Val::Int).map_err(|_| overflow())
}

fn to_uint<'a>(a: &[Val<'a>]) -> Outcome<'a> {
    let wide = match &a[0] {
        Val::Uint(x) => return Ok(Val::Uint(*x)),
        Val::Int(x) => i128::from(*x),
        Val::Double(x) => whole(*x, 0.0, 1.844_674_407_370_955_2e19)?,
        Val::Str(text) => {
            return text.parse().map(Val::Uint).or_else(|_| runtime("type conversion error from 'string' to 'uint'"));
        }
        _ => return none(),
    };
    u64::try_from(wide).map(Val::Uint).map_err(|_| overflow())
}

pub(super) fn to_string<'a>(val: &Val<'a>) -> Outcome<'a> {
    Ok(match val {
        Val::Str(_) => val.clone(),
        Val::Bool(x) => Val::string(x.to_string()),
        Val::Int(x) => Val::string(x.to_string()),
        Val::Uint(x) => Val::string(x.to_string()),
        Val::Double(x) => Val::string(x.to_string()),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Val::string(text),
            Err(_) => return runtime("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Val::Duration(nanos) => Val::string(seconds(*nanos)),
        Val::Timestamp(time) => Val::string(time.to_string()),
        Val::Opaque(opaque) => match opaque.text() {
            Some(text) => Val::string(text),
            None => return none(),
        },
        _ => return none(),
    })
}

/// A duration as protobuf writes it: `3600s`, `0.5s`.
fn seconds(nanos: i64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let (sign, all) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let fraction = format!("{:09}", all % SECOND);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{dot}{fraction}s", all / SECOND)
}

/// A part of a moment, in UTC or the zone given (a name of the zone database or `±hh:mm`).
fn part<'a>(a: &[Val<'a>], of: fn(&Zoned) -> i64) -> Outcome<'a> {
    let (time, zone) = match a {
        [Val::Timestamp(time)] => (time, TimeZone::UTC),
        [Val::Timestamp(time), Val::Str(name)] => (time, zone(name)?),
        _ => return none(),
    };
    Ok(Val::Int(of(&time.to_zoned(zone))))
}

fn zone(name: &str) -> Result<TimeZone, Error> {
    let unknown = || Error::Runtime(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else {
        return TimeZone::get(name).map_err(|_| unknown());
    };
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['+', '-']).parse().map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    let seconds = hours.checked_mul(3600).and_then(|h| h.checked_add(minutes.checked_mul(60)?)).ok_or_else(unknown)?;
    let offset = Offset::from_seconds(if negative { -seconds } else { seconds }).map_err(|_| unknown())?;
    Ok(TimeZone::fixed(offset))
}

/// Whole units of a duration, or a part of a moment.
fn total<'a>(a: &[Val<'a>], unit: i64, of: fn(&Zoned) -> i64) -> Outcome<'a> {
    match a {
        [Val::Duration(nanos)] => Ok(Val::Int(nanos / unit)),
        _ => part(a, of),
    }
}

fn zero(val: &Val<'_>) -> bool {
    match val {
        Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Duration(0) | Val::Optional(None) => true,
        Val::Double(x) => *x == 0.0,
        _ => val.len() == Some(0),
    }
}
