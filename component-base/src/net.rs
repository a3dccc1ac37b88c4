//! Address values of flags and configuration files: CIDRs and `host:port`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A network: an address and a prefix length. Host bits are cleared when parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix_bits: u8,
}

impl Cidr {
    /// The network of `addr` with a prefix of `prefix_bits`; `None` when longer than the address.
    pub fn new(addr: IpAddr, prefix_bits: u8) -> Option<Self> {
        let network = match addr {
            IpAddr::V4(a) if prefix_bits <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix_bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
            }
            IpAddr::V6(a) if prefix_bits <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix_bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
            }
            _ => return None,
        };
        Some(Self { network, prefix_bits })
    }

    /// First address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Prefix length in bits.
    pub fn prefix_bits(&self) -> u8 {
        self.prefix_bits
    }

    /// True for IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.network.is_ipv6()
    }

    /// Whether `addr` is in this network; an address of the other family never is.
    pub fn contains(&self, addr: IpAddr) -> bool {
        Self::new(addr, self.prefix_bits) == Some(*self)
    }

    /// Number of addresses, saturating.
    pub fn size(&self) -> u128 {
        let bits = if self.is_ipv6() { 128 } else { 32 } - u32::from(self.prefix_bits);
        1u128.checked_shl(bits).unwrap_or(u128::MAX)
    }

    /// The address at `offset` from the first; `None` outside the network.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        if offset >= self.size() {
            return None;
        }
        Some(match self.network {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(u32::from(a) + u32::try_from(offset).ok()?)),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a) + offset)),
        })
    }
}

impl FromStr for Cidr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a CIDR: write it like 10.200.0.0/16 or fd00::/64");
        let (addr, bits) = text.trim().split_once('/').ok_or_else(bad)?;
        Self::new(addr.parse().map_err(|_| bad())?, bits.parse().map_err(|_| bad())?).ok_or_else(bad)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_bits)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Parses `host:port` or a bare address with `default_port`; the host must be an address, as in upstream's `ipport` flags.
/// An empty text or a bare `0` means "do not listen" and gives `None`.
pub fn parse_ip_port(text: &str, default_port: u16) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let bare: Option<IpAddr> = text.trim_matches(['[', ']']).parse().ok();
    bare.map(|ip| SocketAddr::new(ip, default_port))
        .or_else(|| text.parse().ok())
        .map(Some)
        .ok_or_else(|| format!("{text:?} is not an address with a port: write it like 0.0.0.0:10256 or [::]:10256"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr() {
        let net: Cidr = "10.32.7.9/16".parse().unwrap();
        assert_eq!(net.to_string(), "10.32.0.0/16");
        assert!(net.contains("10.32.255.1".parse().unwrap()));
        assert!(!net.contains("10.33.0.1".parse().unwrap()));
        assert!(!net.contains("::1".parse().unwrap()));
        assert_eq!(net.nth(10).unwrap().to_string(), "10.32.0.10");
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert_eq!("fd00::5/64".parse::<Cidr>().unwrap().to_string(), "fd00::/64");
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
        assert!("10.0.0.0".parse::<Cidr>().is_err());
    }

    #[test]
    fn ip_port() {
        assert_eq!(parse_ip_port("0.0.0.0:1", 2), Ok(Some("0.0.0.0:1".parse().unwrap())));
        assert_eq!(parse_ip_port("127.0.0.1", 2), Ok(Some("127.0.0.1:2".parse().unwrap())));
        assert_eq!(parse_ip_port("::", 2), Ok(Some("[::]:2".parse().unwrap())));
        assert_eq!(parse_ip_port("", 2), Ok(None));
        assert!(parse_ip_port("localhost:1", 2).is_err());
    }
}
