//! The network of commands: loopback and nothing else, or the machine's without the Unix sockets in it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use landlock::{Ruleset, RulesetAttr, RulesetError, Scope};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Forbids to connect to abstract Unix sockets that were not made in this launcher's sandboxes. Names of such sockets
/// belong to a network, so in the machine's a command would reach services of the machine that trust whoever
/// connects, and could hand its open files to another Action, where they would outlive it.
///
/// Linux before 6.12 cannot do that, and nothing happens there. What may be done with the files of an Action that used
/// the machine's network is limited therefore, see `worker::sandboxed_action_executor`.
pub(super) fn leave_sockets_of_others() -> io::Result<()> {
    let restrict = || -> Result<_, RulesetError> {
        let rules = Ruleset::default().scope(Scope::AbstractUnixSocket)?.create()?;
        rules.restrict_self()
    };
    restrict().map(drop).map_err(io::Error::other)
}

/// Message types and flags of rtnetlink(7).
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
/// The first interface of every network namespace.
const LOOPBACK: u32 = 1;
const IFF_UP: u32 = 1;

/// Switches the loopback interface on, as `ip link set lo up` does.
pub(super) fn raise_loopback() -> io::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    sendto(
        socket.as_raw_fd(),
        &request(),
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 128];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let field = |range: std::ops::Range<usize>| answer[..length].get(range).unwrap_or_default();
    // nlmsghdr, then a negative number of an error, or 0.
    match (field(4..6).try_into(), field(16..20).try_into()) {
        (Ok(kind), Ok(code)) if u16::from_ne_bytes(kind) == NLMSG_ERROR => match i32::from_ne_bytes(code) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `struct nlmsghdr` and `struct ifinfomsg`.
fn request() -> Vec<u8> {
    const LENGTH: u32 = 32;
    let mut message = vec![];
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // Sequence number and port.
    message.extend([0; 8]);
    // Family, padding and device type: any.
    message.extend([0; 4]);
    message.extend(LOOPBACK.to_ne_bytes());
    // The flags, and which of them change.
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message
}

/// Whether no socket of a command is left in this network: a connection that TCP still remembers for a while
/// (`TIME_WAIT`) keeps its port from the next command.
pub(super) fn is_unused() -> io::Result<bool> {
    let (v4, v6) = (
        fs::read_to_string("/proc/self/net/sockstat")?,
        // Not there on a machine without IPv6.
        fs::read_to_string("/proc/self/net/sockstat6").unwrap_or_default(),
    );
    Ok(v4.lines().chain(v6.lines()).all(is_quiet))
}

/// `TCP: inuse 0 orphan 0 tw 0 alloc 5 mem 1`: `inuse` and `tw` are of this network; the others are of the machine.
fn is_quiet(line: &str) -> bool {
    let Some((protocol, counts)) = line.split_once(": ") else {
        return true;
    };
    // `sockets: used 5` counts those of other kinds too, which end with their processes.
    let mut words = counts.split_whitespace();
    let mut quiet = true;
    while let (Some(name), Some(count)) = (words.next(), words.next()) {
        if protocol != "sockets" && matches!(name, "inuse" | "tw") {
            quiet &= count == "0";
        }
    }
    quiet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_connections_and_open_sockets_are_seen() {
        assert!(is_quiet("TCP: inuse 0 orphan 3 tw 0 alloc 12 mem 4"));
        assert!(is_quiet("sockets: used 7"));
        assert!(!is_quiet("TCP: inuse 0 orphan 0 tw 1 alloc 12 mem 4"));
        assert!(!is_quiet("UDP6: inuse 1"));
    }
}
