//! The kernel's IPVS over generic netlink. Blocks.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;

use super::plan::{Server, State};
use crate::core::Protocol;
use crate::netlink::{ACK, DUMP, Message, Socket, attribute, bytes_of, family_of, ip_of, u16_of, u32_of};

const NEW_SERVICE: u8 = 1;
const SET_SERVICE: u8 = 2;
const DELETE_SERVICE: u8 = 3;
const GET_SERVICE: u8 = 4;
const NEW_DESTINATION: u8 = 5;
const SET_DESTINATION: u8 = 6;
const DELETE_DESTINATION: u8 = 7;
const GET_DESTINATION: u8 = 8;
const SET_CONFIG: u8 = 12;
const FLUSH: u8 = 17;

const SERVICE: u16 = 1;
const DESTINATION: u16 = 2;
const PERSISTENT: u32 = 1;
const SOURCE_HASH: u32 = 0x10;

/// An endpoint that the kernel has.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Where.
    pub endpoint: SocketAddr,
    /// Zero takes no new connections.
    pub weight: u32,
    /// Connections, also those that are about to end.
    pub connections: u32,
}

/// The connection to the kernel's IPVS.
#[derive(Debug)]
pub struct Ipvs {
    socket: Socket,
    kind: u16,
}

impl Ipvs {
    /// Loads the module where there is one.
    ///
    /// # Errors
    /// `NotFound` when the kernel has no IPVS.
    pub fn open() -> io::Result<Self> {
        let (socket, kind) = Socket::generic("IPVS")?;
        Ok(Self { socket, kind })
    }

    fn call(&mut self, command: u8, flags: u16, attributes: &Message) -> io::Result<Vec<Vec<u8>>> {
        self.socket.request(self.kind, flags, &attributes.after(&[command, 1, 0, 0]))
    }

    /// All virtual servers with their schedulers and affinity.
    ///
    /// # Errors
    /// The kernel's.
    pub fn servers(&mut self) -> io::Result<Vec<(Server, String, Option<u32>)>> {
        let answers = self.call(GET_SERVICE, DUMP, &Message::default())?;
        Ok(answers.iter().filter_map(|answer| parse_server(answer)).collect())
    }

    /// The endpoints of a virtual server.
    ///
    /// # Errors
    /// The kernel's.
    pub fn destinations(&mut self, server: &Server) -> io::Result<Vec<Destination>> {
        let message = Message::default().nested(SERVICE, &name_of(server));
        let answers = self.call(GET_DESTINATION, DUMP, &message)?;
        let v6 = server.address.is_ipv6();
        Ok(answers.iter().filter_map(|answer| parse_destination(answer, v6)).collect())
    }

    /// Makes or changes a virtual server.
    ///
    /// # Errors
    /// The kernel's; it may not have the scheduler.
    pub fn set_server(&mut self, server: &Server, scheduler: &str, affinity: Option<u32>, new: bool) -> io::Result<()> {
        let mut flags = affinity.map_or(0, |_| PERSISTENT);
        if scheduler == "mh" {
            flags |= SOURCE_HASH;
        }
        let netmask = if server.address.is_ipv4() { u32::MAX } else { 128 };
        let service = name_of(server)
            .text(6, scheduler)
            .bytes(7, &[flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat())
            .u32(8, affinity.unwrap_or(0))
            .u32(9, netmask);
        let command = if new { NEW_SERVICE } else { SET_SERVICE };
        self.call(command, ACK, &Message::default().nested(SERVICE, &service)).map(drop)
    }

    /// Deletes a virtual server with its endpoints.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_server(&mut self, server: &Server) -> io::Result<()> {
        let message = Message::default().nested(SERVICE, &name_of(server));
        unless(Errno::SRCH, self.call(DELETE_SERVICE, ACK, &message))
    }

    /// Makes an endpoint or changes its weight.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_destination(&mut self, server: &Server, endpoint: SocketAddr, weight: u32) -> io::Result<()> {
        let destination = destination_of(endpoint).u32(3, 0).u32(4, weight).u32(5, 0).u32(6, 0);
        let message = Message::default().nested(SERVICE, &name_of(server)).nested(DESTINATION, &destination);
        let first = if weight == 0 { SET_DESTINATION } else { NEW_DESTINATION };
        match self.call(first, ACK, &message) {
            Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {
                self.call(SET_DESTINATION, ACK, &message).map(drop)
            }
            other => unless(if weight == 0 { Errno::NOENT } else { Errno::EXIST }, other),
        }
    }

    /// Deletes an endpoint.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_destination(&mut self, server: &Server, endpoint: SocketAddr) -> io::Result<()> {
        let message =
            Message::default().nested(SERVICE, &name_of(server)).nested(DESTINATION, &destination_of(endpoint));
        unless(Errno::NOENT, self.call(DELETE_DESTINATION, ACK, &message))
    }

    /// Sets how long idle connections are remembered; the kernel keeps what is zero.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_timeouts(&mut self, tcp: Duration, tcp_fin: Duration, udp: Duration) -> io::Result<()> {
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        let message = Message::default().u32(4, seconds(tcp)).u32(5, seconds(tcp_fin)).u32(6, seconds(udp));
        self.call(SET_CONFIG, ACK, &message).map(drop)
    }

    /// Deletes all virtual servers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.call(FLUSH, ACK, &Message::default()).map(drop)
    }

    /// A virtual server as it is, endpoints without weight left out, and those.
    ///
    /// # Errors
    /// The kernel's.
    pub fn state(&mut self, server: &Server, affinity: Option<u32>) -> io::Result<(State, Vec<SocketAddr>)> {
        let destinations = self.destinations(server)?;
        let (idle, used): (Vec<_>, Vec<_>) = destinations.into_iter().partition(|d| d.weight == 0);
        let endpoints: BTreeSet<SocketAddr> = used.into_iter().map(|d| d.endpoint).collect();
        Ok((State { affinity_seconds: affinity, endpoints }, idle.into_iter().map(|d| d.endpoint).collect()))
    }
}

fn unless<T>(fine: Errno, result: io::Result<T>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() != Some(fine.raw_os_error()) => Err(error),
        _ => Ok(()),
    }
}

fn name_of(server: &Server) -> Message {
    let (ip, port) = (server.address.ip(), server.address.port());
    Message::default()
        .u16(1, family_of(ip).into())
        .u16(2, server.protocol.number().into())
        .bytes(3, &padded(ip))
        .bytes(4, &port.to_be_bytes())
}

fn destination_of(endpoint: SocketAddr) -> Message {
    Message::default()
        .bytes(1, &padded(endpoint.ip()))
        .bytes(2, &endpoint.port().to_be_bytes())
        .u16(11, family_of(endpoint.ip()).into())
}

/// Addresses of both families take as much room here.
fn padded(ip: IpAddr) -> Vec<u8> {
    let mut bytes = bytes_of(ip);
    bytes.resize(16, 0);
    bytes
}

fn address_of(bytes: &[u8], v6: bool, port: &[u8]) -> Option<SocketAddr> {
    let ip = ip_of(bytes.get(..if v6 { 16 } else { 4 })?)?;
    Some(SocketAddr::new(ip, u16::from_be_bytes(port.try_into().ok()?)))
}

fn parse_server(answer: &[u8]) -> Option<(Server, String, Option<u32>)> {
    let service = attribute(answer.get(4..)?, SERVICE)?;
    let v6 = u16_of(attribute(service, 1)?) == 10;
    let protocol = match u16_of(attribute(service, 2)?) {
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    // servers by firewall mark have no address; they are other people's
    let address = address_of(attribute(service, 3)?, v6, attribute(service, 4)?)?;
    let scheduler = String::from_utf8_lossy(attribute(service, 6)?).trim_end_matches('\0').to_owned();
    let persistent = u32_of(attribute(service, 7)?) & PERSISTENT != 0;
    let affinity = persistent.then(|| attribute(service, 8).map(u32_of)).flatten();
    Some((Server { protocol, address }, scheduler, affinity))
}

fn parse_destination(answer: &[u8], v6: bool) -> Option<Destination> {
    let destination = attribute(answer.get(4..)?, DESTINATION)?;
    let number = |kind| attribute(destination, kind).map_or(0, u32_of);
    Some(Destination {
        endpoint: address_of(attribute(destination, 1)?, v6, attribute(destination, 2)?)?,
        weight: number(4),
        connections: number(7).saturating_add(number(8)),
    })
}
