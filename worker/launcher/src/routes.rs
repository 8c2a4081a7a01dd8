//! Addresses that an isolated network does not reach.
//!
//! They become addresses of the namespace itself: nobody answers there but the command. Routes of the type `unreachable`
//! would not do. A command can bind a socket to an interface, and the kernel then sends to an address without a route as
//! if it were next to that interface. So the local routes are on the interface that leads out, and count for sockets that
//! are bound to it as well as for others.

use std::fs;
use std::io;
use std::net::IpAddr;

use bitzel_launcher::UNREACHABLE_NETWORKS;
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// Constants of `linux/netlink.h` and `linux/rtnetlink.h`.
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
/// Beside routes to the same network: that of 127.0.0.0/8 over loopback stays.
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
/// Bytes of the headers `nlmsghdr` and `rtmsg`.
const HEADER_BYTES: usize = 16;

/// Makes the [`UNREACHABLE_NETWORKS`] local ones of this network namespace.
pub(crate) fn keep_local(interface: &str) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // `NETLINK_ROUTE`.
        None,
    )?;
    let index = name_to_index(&socket, interface)?;
    let has_ipv6 = has_ipv6(interface);
    let networks = UNREACHABLE_NETWORKS.iter();
    for (address, prefix) in networks.filter(|(address, _)| has_ipv6 || address.is_ipv4()) {
        send(&socket, &new_route(*address, *prefix, index), SendFlags::empty())?;
        let mut answer = [0; 512];
        let (_, length) = recv(&socket, &mut answer, RecvFlags::empty())?;
        acknowledged(&answer[..length.min(answer.len())])
            .map_err(|error| io::Error::new(error.kind(), format!("{address}/{prefix}: {error}")))?;
    }
    Ok(())
}

/// True if the interface has an IPv6 address. Without one it sends nothing by IPv6, and the kernel takes no route.
fn has_ipv6(interface: &str) -> bool {
    let addresses = fs::read_to_string("/proc/self/net/if_inet6").unwrap_or_default();
    addresses
        .lines()
        .any(|line| line.split_whitespace().next_back() == Some(interface))
}

/// Request for `ip route append local ADDRESS/PREFIX dev INTERFACE table local`.
fn new_route(address: IpAddr, prefix: u8, interface: u32) -> Vec<u8> {
    let (family, destination) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let mut body = vec![
        u8::try_from(family).unwrap_or_default(),
        prefix,
        // Any source, any type of service.
        0,
        0,
        RT_TABLE_LOCAL,
        RTPROT_STATIC,
        RT_SCOPE_HOST,
        RTN_LOCAL,
    ];
    // No flags of the route.
    body.extend(0_u32.to_ne_bytes());
    attribute(&mut body, RTA_DST, &destination);
    attribute(&mut body, RTA_OIF, &interface.to_ne_bytes());
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
    let mut message = vec![];
    message.extend(length(HEADER_BYTES + body.len()).to_ne_bytes());
    message.extend(RTM_NEWROUTE.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port: there is one message at a time, and the kernel knows the socket.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Appends an attribute, whose content has a multiple of 4 bytes.
fn attribute(message: &mut Vec<u8>, kind: u16, content: &[u8]) {
    let length = u16::try_from(4 + content.len()).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(content);
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Reads an acknowledgement: a message of the type `NLMSG_ERROR` with the number 0.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    let number = answer
        .get(HEADER_BYTES..HEADER_BYTES + 4)
        .and_then(|bytes| bytes.try_into().ok());
    match (kind.map(u16::from_ne_bytes), number.map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(number)) => Err(Errno::from_raw_os_error(number.saturating_neg()).into()),
        _ => Err(malformed()),
    }
}
