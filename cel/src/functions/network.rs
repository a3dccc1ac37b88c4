//! URLs, addresses and networks.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use super::{Cost, Error, Opaque, Outcome, Row, none, opaque, runtime};
use crate::value::{Key, Text, Val};

pub(super) const ROWS: &[Row] = &[
    ("isURL", "(string)bool", Cost::Scan, |a| text(a, |text| Ok(Val::Bool(url(text).is_some())))),
    ("url", "(string)URL", Cost::Scan, |a| {
        text(a, |text| match url(text) {
            Some(url) => Ok(opaque(Opaque::Url(url))),
            None => runtime(format!(
                "URL parse error during conversion from string: parse {text:?}: invalid URI for request"
            )),
        })
    }),
    ("getScheme", "URL.()string", Cost::One, |a| of_url(a, |url| Val::string(url.scheme_str().unwrap_or_default()))),
    ("getHost", "URL.()string", Cost::One, |a| {
        of_url(a, |url| {
            Val::string(url.authority().map_or("", |all| all.as_str().rsplit('@').next().unwrap_or_default()))
        })
    }),
    ("getHostname", "URL.()string", Cost::One, |a| {
        of_url(a, |url| Val::string(url.host().unwrap_or_default().trim_matches(['[', ']'])))
    }),
    ("getPort", "URL.()string", Cost::One, |a| {
        of_url(a, |url| Val::string(url.port().map_or_else(String::new, |port| port.as_str().to_owned())))
    }),
    ("getEscapedPath", "URL.()string", Cost::One, |a| {
        of_url(a, |url| Val::string(if url.authority().is_some() && url.path() == "/" { "" } else { url.path() }))
    }),
    ("getQuery", "URL.()map(string,list(string))", Cost::One, |a| of_url(a, query)),
    ("isIP", "(string)bool", Cost::Scan, |a| text(a, |text| Ok(Val::Bool(address(text).is_ok())))),
    ("ip", "(string)IP|CIDR.()IP", Cost::Scan, |a| match a {
        [Val::Str(text)] => address(text).map(ip),
        [Val::Opaque(own)] => match &**own {
            Opaque::Cidr(cidr) => Ok(ip(cidr.address)),
            _ => none(),
        },
        _ => none(),
    }),
    ("ip.isCanonical", "(string)bool", Cost::Scan2, |a| {
        text(a, |text| address(text).map(|ip| Val::Bool(ip.to_string() == text)))
    }),
    ("family", "IP.()int", Cost::One, |a| of_ip(a, |ip| Val::Int(if ip.is_ipv4() { 4 } else { 6 }))),
    ("isUnspecified", "IP.()bool", Cost::One, |a| of_ip(a, |ip| Val::Bool(ip.is_unspecified()))),
    ("isLoopback", "IP.()bool", Cost::One, |a| of_ip(a, |ip| Val::Bool(ip.is_loopback()))),
    ("isLinkLocalMulticast", "IP.()bool", Cost::One, |a| {
        of_ip(a, |ip| {
            Val::Bool(match ip {
                IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
                IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
            })
        })
    }),
    ("isLinkLocalUnicast", "IP.()bool", Cost::One, |a| of_ip(a, |ip| Val::Bool(link_local(ip)))),
    ("isGlobalUnicast", "IP.()bool", Cost::One, |a| {
        of_ip(a, |ip| {
            let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
            Val::Bool(!(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local(ip) || broadcast))
        })
    }),
    ("isCIDR", "(string)bool", Cost::Scan, |a| text(a, |text| Ok(Val::Bool(Cidr::parse(text).is_ok())))),
    ("cidr", "(string)CIDR", Cost::Scan, |a| text(a, |text| Cidr::parse(text).map(|cidr| opaque(Opaque::Cidr(cidr))))),
    ("containsIP", "CIDR.(IP)bool|CIDR.(string)bool", Cost::Scan2, |a| {
        let (cidr, other) = cidr_and(a)?;
        let ip = match (other, own(a.get(1))) {
            (Val::Str(text), _) => address(text)?,
            (_, Ok(Opaque::Ip(ip))) => *ip,
            _ => return none(),
        };
        Ok(Val::Bool(cidr.contains(ip)))
    }),
    ("containsCIDR", "CIDR.(CIDR)bool|CIDR.(string)bool", Cost::Scan2, |a| {
        let (cidr, other) = cidr_and(a)?;
        let inner = match (other, own(a.get(1))) {
            (Val::Str(text), _) => Cidr::parse(text)?,
            (_, Ok(Opaque::Cidr(inner))) => *inner,
            _ => return none(),
        };
        Ok(Val::Bool(cidr.contains(inner.address) && cidr.length <= inner.length))
    }),
    ("masked", "CIDR.()CIDR", Cost::One, |a| of_cidr(a, |cidr| opaque(Opaque::Cidr(cidr.masked())))),
    ("prefixLength", "CIDR.()int", Cost::One, |a| of_cidr(a, |cidr| Val::Int(cidr.length.into()))),
];

/// A network as written: its address may have bits beyond the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    address: IpAddr,
    length: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Cidr {
    fn parse(text: &str) -> Result<Self, Error> {
        let bad = |_| Error::Runtime(format!("network address parse error during conversion from string: {text:?}"));
        let (ip, length) = text.split_once('/').ok_or(()).map_err(bad)?;
        let address = address(ip)?;
        let plain = length == "0" || length.bytes().all(|b| b.is_ascii_digit()) && !length.starts_with('0');
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.parse().ok().filter(|length| plain && *length <= most).ok_or(()).map_err(bad)?;
        Ok(Self { address, length })
    }

    fn masked(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        };
        Self { address, length: self.length }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.address.is_ipv4() && self.masked() == Self { address: ip, length: self.length }.masked()
    }
}

/// An address; IPv4 in IPv6 and zones are refused as upstream does.
fn address(text: &str) -> Result<IpAddr, Error> {
    let parsed = text.parse::<IpAddr>().ok();
    let mapped = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    parsed
        .filter(|ip| !mapped(ip))
        .ok_or_else(|| Error::Runtime(format!("IP Address {text:?} parse error during conversion from string")))
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn ip<'a>(ip: IpAddr) -> Val<'a> {
    opaque(Opaque::Ip(ip))
}

fn text<'a>(a: &[Val<'a>], of: impl Fn(&str) -> Outcome<'a>) -> Outcome<'a> {
    match a {
        [Val::Str(text)] => of(text),
        _ => none(),
    }
}

fn own<'r, 'a>(val: Option<&'r Val<'a>>) -> Result<&'r Opaque<'a>, Error> {
    match val {
        Some(Val::Opaque(own)) => Ok(own),
        _ => Err(Error::no_overload("")),
    }
}

fn of_ip<'a>(a: &[Val<'a>], of: fn(IpAddr) -> Val<'a>) -> Outcome<'a> {
    match own(a.first())? {
        Opaque::Ip(ip) => Ok(of(*ip)),
        _ => none(),
    }
}

fn of_cidr<'a>(a: &[Val<'a>], of: fn(&Cidr) -> Val<'a>) -> Outcome<'a> {
    match own(a.first())? {
        Opaque::Cidr(cidr) => Ok(of(cidr)),
        _ => none(),
    }
}

fn cidr_and<'r, 'a>(a: &'r [Val<'a>]) -> Result<(Cidr, &'r Val<'a>), Error> {
    match (own(a.first())?, a.get(1)) {
        (Opaque::Cidr(cidr), Some(other)) => Ok((*cidr, other)),
        _ => Err(Error::no_overload("")),
    }
}

fn of_url<'a>(a: &[Val<'a>], of: fn(&http::Uri) -> Val<'a>) -> Outcome<'a> {
    match own(a.first())? {
        Opaque::Url(url) => Ok(of(url)),
        _ => none(),
    }
}

/// An absolute URL or an absolute path.
pub(super) fn url(text: &str) -> Option<http::Uri> {
    if !text.starts_with('/') && !text.contains("://") {
        return None;
    }
    text.split('#').next().unwrap_or_default().parse().ok()
}

fn query<'a>(url: &http::Uri) -> Val<'a> {
    let mut found: BTreeMap<String, Vec<Val<'a>>> = BTreeMap::new();
    for pair in url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        found.entry(decoded(name)).or_default().push(Val::string(decoded(value)));
    }
    let entries = found.into_iter().map(|(name, values)| (Key::Str(Text::Shared(name.into())), Val::list(values)));
    Val::Map(Rc::new(entries.collect()))
}

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                bytes = ahead;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
