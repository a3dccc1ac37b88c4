//! Talking to the kernel over netlink: just what is needed of routing, connection tracking and IPVS.
//!
//! Requests are answered at once by the kernel itself, so the calls block; long lists of them belong on a blocking thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::core::Family;

/// Wants an answer that says whether it worked.
pub const ACK: u16 = 0x5;
/// Wants all objects.
pub const DUMP: u16 = 0x301;
/// Makes; fails when it is there.
pub const CREATE: u16 = 0x605;

const HEADER_BYTES: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The kernel sends up to 32 KiB at a time.
const BUFFER_BYTES: usize = 64 * 1024;
const GENERIC_CONTROL: u16 = 0x10;

/// A conversation with one part of the kernel.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Socket {
    /// Interfaces and addresses.
    ///
    /// # Errors
    /// The kernel's.
    pub fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// Connection tracking.
    ///
    /// # Errors
    /// The kernel's.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    /// A part of the kernel with a name; returns its message type too.
    ///
    /// # Errors
    /// `NotFound` when the kernel has no such part.
    pub fn generic(name: &str) -> io::Result<(Self, u16)> {
        let mut socket = Self::open(Some(netlink::GENERIC))?;
        let body = Message::new(&[3, 1, 0, 0]).text(2, name);
        let answer = socket.request(GENERIC_CONTROL, ACK, &body)?;
        let id = answer.first().and_then(|payload| attribute(payload.get(4..)?, 1).map(u16_of));
        Ok((socket, id.ok_or(Errno::NOENT)?))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Self { fd, buffer: vec![0; BUFFER_BYTES], sequence: 0 })
    }

    /// Sends a request and returns the payloads of its answers.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn request(&mut self, kind: u16, flags: u16, message: &Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER_BYTES + message.0.len()).map_err(|_| Errno::MSGSIZE)?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(&message.0);
        send(&self.fd, &request, SendFlags::empty())?;
        let mut answers = Vec::new();
        loop {
            let (_, count) = recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = self.buffer.get(..count).unwrap_or_default();
            while rest.len() >= HEADER_BYTES {
                let length = (u32_of(rest) as usize).clamp(HEADER_BYTES, rest.len());
                let (message, next) = rest.split_at(length);
                rest = next.get(length.next_multiple_of(4) - length..).unwrap_or_default();
                if u32_of(&message[8..]) != self.sequence {
                    continue;
                }
                let payload = &message[HEADER_BYTES..];
                match u16_of(&message[4..]) {
                    ERROR | DONE => {
                        let code = u32_of(payload).cast_signed();
                        return if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(answers) };
                    }
                    _ => answers.push(payload.to_vec()),
                }
            }
        }
    }
}

/// The body of a request: a fixed part, then attributes.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// With its fixed part.
    pub fn new(fixed: &[u8]) -> Self {
        Self(fixed.to_vec())
    }

    /// These attributes after a fixed part.
    #[must_use]
    pub fn after(&self, fixed: &[u8]) -> Self {
        Self([fixed, &self.0].concat())
    }

    /// Adds an attribute.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // all values are a few bytes long
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn u16(self, kind: u16, value: u16) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a number.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a text that ends with zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds attributes in an attribute.
    #[must_use]
    pub fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | 0x8000, &inner.0)
    }
}

/// An attribute's value.
pub fn attribute(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    while rest.len() >= 4 {
        let length = usize::from(u16_of(rest)).clamp(4, rest.len());
        if u16_of(&rest[2..]) & 0x3fff == wanted {
            return Some(&rest[4..length]);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// The first two bytes as a number; absent ones are zero.
pub fn u16_of(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0)))
}

/// The first four bytes as a number; absent ones are zero.
pub fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0)))
}

/// An address of its 4 or 16 bytes.
pub fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let four = || Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into());
    four().or_else(|| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()))
}

/// The 4 or 16 bytes of an address.
pub fn bytes_of(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The kernel's number of an address's family.
pub fn family_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 2 } else { 10 }
}

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const IFNAME: u16 = 3;

/// The number of an interface; none when there is no such one.
///
/// # Errors
/// The kernel's.
pub fn interface(socket: &mut Socket, name: &str) -> io::Result<Option<u32>> {
    match socket.request(GET_LINK, ACK, &Message::new(&[0; 16]).text(IFNAME, name)) {
        Ok(answers) => Ok(answers.first().and_then(|answer| answer.get(4..)).map(u32_of)),
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a dummy interface that is there to hold addresses.
///
/// # Errors
/// The kernel's; it may have none.
pub fn add_dummy(socket: &mut Socket, name: &str) -> io::Result<()> {
    let info = Message::default().text(1, "dummy");
    let link = Message::new(&[0; 16]).text(IFNAME, name).nested(18, &info);
    socket.request(NEW_LINK, CREATE, &link).map(drop)
}

/// Deletes an interface.
///
/// # Errors
/// The kernel's.
pub fn delete_interface(socket: &mut Socket, name: &str) -> io::Result<()> {
    socket.request(DELETE_LINK, ACK, &Message::new(&[0; 16]).text(IFNAME, name)).map(drop)
}

/// All addresses of this machine, with the number of the interface.
///
/// # Errors
/// The kernel's.
pub fn addresses(socket: &mut Socket) -> io::Result<Vec<(u32, IpAddr)>> {
    let answers = socket.request(GET_ADDRESS, DUMP, &Message::new(&[0; 8]))?;
    let parse = |answer: Vec<u8>| {
        let attributes = answer.get(8..)?;
        // of a link between two machines the local end
        let bytes = attribute(attributes, 2).or_else(|| attribute(attributes, 1))?;
        Some((u32_of(&answer[4..]), ip_of(bytes)?))
    };
    Ok(answers.into_iter().filter_map(parse).collect())
}

/// Adds an address to an interface, or takes it away; it is no error when that was done before.
///
/// # Errors
/// The kernel's.
pub fn set_address(socket: &mut Socket, interface: u32, ip: IpAddr, present: bool) -> io::Result<()> {
    let bytes = bytes_of(ip);
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    let fixed = [&[family_of(ip), bits, 0, 0][..], &interface.to_ne_bytes()].concat();
    let message = Message::new(&fixed).bytes(2, &bytes).bytes(1, &bytes);
    let (kind, flags, fine) =
        if present { (NEW_ADDRESS, CREATE, Errno::EXIST) } else { (DELETE_ADDRESS, ACK, Errno::ADDRNOTAVAIL) };
    match socket.request(kind, flags, &message) {
        Err(error) if error.raw_os_error() != Some(fine.raw_os_error()) => Err(error),
        _ => Ok(()),
    }
}

const GET_RULE: u16 = 0x0a07;

/// Number of rules in a chain of nftables.
///
/// # Errors
/// The kernel's; there may be no such chain.
pub fn count_rules(family: Family, table: &str, chain: &str) -> io::Result<usize> {
    let fixed = [if family == Family::V4 { 2 } else { 10 }, 0, 0, 0];
    let message = Message::new(&fixed).text(1, table).text(2, chain);
    Socket::netfilter().and_then(|mut socket| socket.request(GET_RULE, DUMP, &message)).map(|rules| rules.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_truncated_ones_do_no_harm() {
        let inner = Message::default().u16(7, 99).text(1, "abc");
        let message = Message::default().u32(1, 5).nested(2, &inner).bytes(3, &[10, 0, 0, 1]);
        let found = attribute(&message.0, 2).unwrap();
        assert_eq!((attribute(found, 7).map(u16_of), attribute(found, 1)), (Some(99), Some(&b"abc\0"[..])));
        assert_eq!(attribute(&message.0, 3).and_then(ip_of), Some("10.0.0.1".parse().unwrap()));
        for end in 0..message.0.len() {
            let _ = attribute(&message.0[..end], 3);
        }
        assert_eq!(attribute(&[0, 0, 9, 0, 0], 3), None);
    }

    #[test]
    fn the_kernel_tells_its_loopback_address() {
        let mut socket = Socket::route().unwrap();
        let loopback = interface(&mut socket, "lo").unwrap().unwrap();
        assert!(addresses(&mut socket).unwrap().iter().all(|(at, ip)| *at != loopback || ip.is_loopback()));
        assert_eq!(interface(&mut socket, "hw-none").unwrap(), None);
    }
}
