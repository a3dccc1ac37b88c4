//! The formats of text that upstream's schemas know. Unknown ones say nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine as _;
use regex::Regex;

use crate::{time, validation};

/// Formats that a pattern decides.
static PATTERNS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let uuid = |version: &str, variant: &str| {
        format!("(?i)^[0-9a-f]{{8}}-?[0-9a-f]{{4}}-?{version}[0-9a-f]{{3}}-?{variant}[0-9a-f]{{3}}-?[0-9a-f]{{12}}$")
    };
    let rows = [
        ("bsonobjectid", "^[0-9a-fA-F]{24}$".to_owned()),
        ("creditcard", "^[0-9 -]{12,23}$".to_owned()),
        ("date", "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$".to_owned()),
        ("email", r"^[^\s@<>]+@[^\s@<>]+$".to_owned()),
        ("hexcolor", "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$".to_owned()),
        (
            "hostname",
            "^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$".to_owned(),
        ),
        ("isbn", "^([0-9][ -]?){9}[0-9Xx]$|^([0-9][ -]?){13}$".to_owned()),
        ("isbn10", "^([0-9][ -]?){9}[0-9Xx]$".to_owned()),
        ("isbn13", "^([0-9][ -]?){13}$".to_owned()),
        ("mac", "^([0-9A-Fa-f]{2}[:-]){5}([0-9A-Fa-f]{2})$|^([0-9A-Fa-f]{4}\\.){2}[0-9A-Fa-f]{4}$".to_owned()),
        ("rgbcolor", r"^rgb\(\s*[0-9]{1,3}\s*,\s*[0-9]{1,3}\s*,\s*[0-9]{1,3}\s*\)$".to_owned()),
        ("ssn", r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$".to_owned()),
        ("uri", r"^([A-Za-z][A-Za-z0-9+.-]*:[^\s]+|/[^\s]*)$".to_owned()),
        ("uuid", uuid("[0-9a-f]", "[0-9a-f]")),
        ("uuid3", uuid("3", "[0-9a-f]")),
        ("uuid4", uuid("4", "[89ab]")),
        ("uuid5", uuid("5", "[89ab]")),
    ];
    rows.into_iter().filter_map(|(name, pattern)| Some((name, Regex::new(&pattern).ok()?))).collect()
});

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let fits = |max: u8| bits.parse::<u8>().is_ok_and(|bits| bits <= max);
    (address.parse::<Ipv4Addr>().is_ok() && fits(32)) || (address.parse::<Ipv6Addr>().is_ok() && fits(128))
}

/// Formats that need no pattern.
const OTHERS: [&str; 11] = [
    "ipv4", "ipv6", "cidr", "byte", "datetime", "duration", "k8sshortname", "k8slongname", "hostname", "mac",
    "password",
];

/// Whether values of a type (empty: text) are checked against a format, which may be written with dashes anywhere.
pub fn is_known(ty: &str, format: &str) -> bool {
    match ty {
        "" | "string" => {
            let format = format.replace('-', "");
            OTHERS.contains(&&*format) || PATTERNS.iter().any(|(name, _)| *name == format)
        }
        "integer" => ["int32", "int64"].contains(&format),
        "number" => ["float", "double"].contains(&format),
        _ => false,
    }
}

/// Whether text is of a format.
pub(super) fn matches(format: &str, text: &str) -> bool {
    let format = &*format.replace('-', "");
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "k8sshortname" => validation::dns1123_label(text).is_empty(),
        "k8slongname" => validation::dns1123_subdomain(text).is_empty(),
        "datetime" => time::parse_time(text).is_some(),
        "duration" => time::parse_duration(text).is_some(),
        _ => PATTERNS.iter().find(|(name, _)| *name == format).is_none_or(|(_, pattern)| pattern.is_match(text)),
    }
}
