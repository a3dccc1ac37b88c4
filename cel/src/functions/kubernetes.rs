//! Kubernetes' own values: quantities, semantic versions and named formats.

use std::cmp::Ordering;
use std::fmt;

use apimachinery::quantity::Quantity;
use apimachinery::validation as names;
use base64::Engine as _;

use super::{Cost, Error, Opaque, Outcome, Row, none, opaque, runtime};
use crate::value::Val;

const ORDER: &str = "Quantity.(Quantity)bool|Semver.(Semver)bool";

pub(super) const ROWS: &[Row] = &[
    ("isQuantity", "(string)bool", Cost::Scan, |a| text(a, |text| Ok(Val::Bool(Quantity::parse(text).is_ok())))),
    ("quantity", "(string)Quantity", Cost::Scan, |a| {
        text(a, |text| Quantity::parse(text).map_or_else(|error| runtime(error.to_string()), |q| Ok(quantity(q))))
    }),
    ("sign", "Quantity.()int", Cost::One, |a| Ok(Val::Int(own(a, 0)?.sign().into()))),
    ("isInteger", "Quantity.()bool", Cost::One, |a| Ok(Val::Bool(integer(own(a, 0)?).is_some()))),
    ("asInteger", "Quantity.()int", Cost::One, |a| {
        integer(own(a, 0)?).map_or_else(|| runtime("cannot convert value to integer"), |int| Ok(Val::Int(int)))
    }),
    ("asApproximateFloat", "Quantity.()double", Cost::One, |a| Ok(Val::Double(approximate(own(a, 0)?)))),
    ("add", "Quantity.(Quantity)Quantity|Quantity.(int)Quantity", Cost::One, |a| Ok(quantity(own(a, 0)? + own(a, 1)?))),
    ("sub", "Quantity.(Quantity)Quantity|Quantity.(int)Quantity", Cost::One, |a| Ok(quantity(own(a, 0)? - own(a, 1)?))),
    ("isLessThan", ORDER, Cost::One, |a| Ok(Val::Bool(order(a)? == Ordering::Less))),
    ("isGreaterThan", ORDER, Cost::One, |a| Ok(Val::Bool(order(a)? == Ordering::Greater))),
    ("compareTo", "Quantity.(Quantity)int|Semver.(Semver)int", Cost::One, |a| Ok(Val::Int(order(a)? as i64))),
    ("isSemver", "(string)bool|(string,bool)bool", Cost::Scan, |a| match Semver::of(a)? {
        Some(_) => Ok(Val::Bool(true)),
        None => Ok(Val::Bool(false)),
    }),
    ("semver", "(string)Semver|(string,bool)Semver", Cost::Scan, |a| match Semver::of(a)? {
        Some(version) => Ok(opaque(Opaque::Semver(version))),
        None => runtime("Invalid character(s) found in version"),
    }),
    ("major", "Semver.()int", Cost::One, |a| part(a, 0)),
    ("minor", "Semver.()int", Cost::One, |a| part(a, 1)),
    ("patch", "Semver.()int", Cost::One, |a| part(a, 2)),
    ("format.named", "(string)optional(Format)", Cost::One, |a| {
        text(a, |name| {
            Ok(Format::find(name).map_or(Val::Optional(None), |format| opaque(Opaque::Format(format)).some()))
        })
    }),
    ("format.dns1123Label", "()Format", Cost::One, |_| named("dns1123Label")),
    ("format.dns1123Subdomain", "()Format", Cost::One, |_| named("dns1123Subdomain")),
    ("format.dns1035Label", "()Format", Cost::One, |_| named("dns1035Label")),
    ("format.qualifiedName", "()Format", Cost::One, |_| named("qualifiedName")),
    ("format.dns1123LabelPrefix", "()Format", Cost::One, |_| named("dns1123LabelPrefix")),
    ("format.dns1123SubdomainPrefix", "()Format", Cost::One, |_| named("dns1123SubdomainPrefix")),
    ("format.dns1035LabelPrefix", "()Format", Cost::One, |_| named("dns1035LabelPrefix")),
    ("format.labelValue", "()Format", Cost::One, |_| named("labelValue")),
    ("format.uri", "()Format", Cost::One, |_| named("uri")),
    ("format.uuid", "()Format", Cost::One, |_| named("uuid")),
    ("format.byte", "()Format", Cost::One, |_| named("byte")),
    ("format.date", "()Format", Cost::One, |_| named("date")),
    ("format.datetime", "()Format", Cost::One, |_| named("datetime")),
    ("validate", "Format.(string)optional(list(string))", Cost::Scan2, |a| match a {
        [Val::Opaque(own), Val::Str(text)] => match &**own {
            Opaque::Format(format) => {
                let found = (format.validate)(text);
                let found: Vec<Val<'_>> = found.into_iter().map(Val::string).collect();
                Ok(if found.is_empty() { Val::Optional(None) } else { Val::list(found).some() })
            }
            _ => none(),
        },
        _ => none(),
    }),
];

fn text<'a>(a: &[Val<'a>], of: impl Fn(&str) -> Outcome<'a>) -> Outcome<'a> {
    match a {
        [Val::Str(text)] => of(text),
        _ => none(),
    }
}

fn quantity<'a>(quantity: Quantity) -> Val<'a> {
    opaque(Opaque::Quantity(quantity))
}

fn own(a: &[Val<'_>], at: usize) -> Result<Quantity, Error> {
    match a.get(at) {
        Some(Val::Opaque(own)) => match &**own {
            Opaque::Quantity(quantity) => Ok(*quantity),
            _ => Err(Error::no_overload("quantity")),
        },
        Some(Val::Int(int)) => Ok(Quantity::from_value(*int, apimachinery::quantity::Format::DecimalSi)),
        _ => Err(Error::no_overload("quantity")),
    }
}

fn integer(quantity: Quantity) -> Option<i64> {
    let value = quantity.value();
    (Quantity::from_value(value, quantity.format()) == quantity).then_some(value)
}

#[allow(clippy::cast_precision_loss)]
fn approximate(quantity: Quantity) -> f64 {
    integer(quantity).map_or_else(|| quantity.milli() as f64 / 1000.0, |value| value as f64)
}

fn order(a: &[Val<'_>]) -> Result<Ordering, Error> {
    match a {
        [Val::Opaque(x), Val::Opaque(y)] => match (&**x, &**y) {
            (Opaque::Quantity(x), Opaque::Quantity(y)) => Ok(x.cmp(y)),
            (Opaque::Semver(x), Opaque::Semver(y)) => Ok(x.compare(y)),
            _ => Err(Error::no_overload("compareTo")),
        },
        _ => Err(Error::no_overload("compareTo")),
    }
}

/// A semantic version (2.0.0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
}

impl Semver {
    /// Of `text` or `text, normalize`; `None` when malformed.
    fn of(a: &[Val<'_>]) -> Result<Option<Self>, Error> {
        match a {
            [Val::Str(text)] => Ok(Self::parse(text)),
            [Val::Str(text), Val::Bool(normalize)] => {
                Ok(Self::parse(&if *normalize { normal(text) } else { text.to_string() }))
            }
            _ => Err(Error::no_overload("semver")),
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let identifiers = |text: &str| -> Option<Vec<String>> {
            let plain = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            let parts: Vec<&str> = text.split('.').collect();
            parts.iter().all(plain).then(|| parts.into_iter().map(str::to_owned).collect())
        };
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        if let Some(build) = build {
            identifiers(build)?;
        }
        let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
        let pre = pre.map_or(Some(Vec::new()), identifiers)?;
        let zero_led = |part: &str| part.len() > 1 && part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit());
        let mut numbers = [0; 3];
        let mut parts = core.split('.');
        for number in &mut numbers {
            let part = parts.next().filter(|part| !zero_led(part) && part.bytes().all(|b| b.is_ascii_digit()))?;
            *number = part.parse().ok()?;
        }
        (parts.next().is_none() && !pre.iter().any(|part| zero_led(part))).then_some(Self { numbers, pre })
    }

    fn compare(&self, other: &Self) -> Ordering {
        let release = |version: &Self| version.pre.is_empty();
        let numbers = self.numbers.cmp(&other.numbers).then(release(self).cmp(&release(other)));
        let each = self.pre.iter().zip(&other.pre).map(|(a, b)| match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            _ => a.cmp(b),
        });
        each.fold(numbers, Ordering::then).then(self.pre.len().cmp(&other.pre.len()))
    }
}

/// Without a leading `v` and leading zeros, and with the missing parts.
fn normal(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(end);
    let mut parts: Vec<&str> = core.split('.').collect();
    for part in &mut parts {
        let shorter = part.trim_start_matches('0');
        *part = if shorter.is_empty() && !part.is_empty() { "0" } else { shorter };
    }
    while parts.len() < 3 {
        parts.push("0");
    }
    format!("{}{rest}", parts.join("."))
}

fn part<'a>(a: &[Val<'a>], at: usize) -> Outcome<'a> {
    match a {
        [Val::Opaque(own)] => match &**own {
            Opaque::Semver(version) => Ok(Val::Int(i64::try_from(version.numbers[at]).unwrap_or(i64::MAX))),
            _ => none(),
        },
        _ => none(),
    }
}

/// A named form of text.
pub(crate) struct Format {
    pub(super) name: &'static str,
    validate: fn(&str) -> Vec<String>,
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What a prefix of a name may be: a trailing dash is completed by what follows.
fn prefix(text: &str, rule: fn(&str) -> Vec<String>) -> Vec<String> {
    match text.strip_suffix('-') {
        Some(before) if text.len() > 1 => rule(&format!("{before}a")),
        _ => rule(text),
    }
}

fn unless(good: bool, what: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![what.to_owned()] }
}

fn uuid(text: &str) -> bool {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let dashes = [8, 13, 18, 23].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    let placed = text.len() == 32 || text.len() == 36 && dashes;
    placed && hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", validate: names::dns1123_label },
    Format { name: "dns1123Subdomain", validate: names::dns1123_subdomain },
    Format { name: "dns1035Label", validate: names::dns1035_label },
    Format { name: "qualifiedName", validate: names::qualified_name },
    Format { name: "dns1123LabelPrefix", validate: |text| prefix(text, names::dns1123_label) },
    Format { name: "dns1123SubdomainPrefix", validate: |text| prefix(text, names::dns1123_subdomain) },
    Format { name: "dns1035LabelPrefix", validate: |text| prefix(text, names::dns1035_label) },
    Format { name: "labelValue", validate: names::label_value },
    Format { name: "uri", validate: |text| unless(super::network::url(text).is_some(), "invalid URI for request") },
    Format { name: "uuid", validate: |text| unless(uuid(text), "does not match the UUID format") },
    Format {
        name: "byte",
        validate: |text| unless(base64::engine::general_purpose::STANDARD.decode(text).is_ok(), "invalid base64"),
    },
    Format {
        name: "date",
        validate: |text| unless(text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(), "invalid date"),
    },
    Format { name: "datetime", validate: |text| unless(text.parse::<jiff::Timestamp>().is_ok(), "invalid datetime") },
];

impl Format {
    fn find(name: &str) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.name == name)
    }
}

fn named<'a>(name: &str) -> Outcome<'a> {
    Format::find(name).map_or_else(none, |format| Ok(opaque(Opaque::Format(format))))
}
