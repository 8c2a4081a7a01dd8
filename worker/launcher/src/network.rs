//! Network of commands: loopback and nothing else, or the machine's without its abstract Unix sockets. The third kind is
//! in `isolated_network`.

use std::fs;
use std::io;

use landlock::{Ruleset, RulesetAttr, RulesetError, Scope};
use rustix::ioctl::{Opcode, Setter, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Forbids connections to abstract Unix sockets that were not made in this launcher's sandboxes. Names of such sockets
/// belong to a network namespace, so in the machine's a command would reach services of the machine that trust whoever
/// connects, and could hand its open files to another Action, where they would outlive it.
///
/// Linux before 6.12 cannot do that, and nothing happens there. What may be done with the files of an Action that used
/// the machine's network is limited therefore, see `worker::sandboxed_action_executor`.
pub(crate) fn restrict_abstract_sockets() -> io::Result<()> {
    let restrict = || -> Result<_, RulesetError> {
        let rules = Ruleset::default().scope(Scope::AbstractUnixSocket)?.create()?;
        rules.restrict_self()
    };
    restrict().map(drop).map_err(io::Error::other)
}

/// Operation of `linux/sockios.h`.
const SIOCSIFFLAGS: Opcode = 0x8914;

/// `struct ifreq` of netdevice(7) as `SIOCSIFFLAGS` reads it.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    /// The rest of the union that `flags` is part of; the kernel copies all of it.
    padding: [u8; 22],
}

/// Switches the loopback interface on, as `ip link set lo up` does.
pub(crate) fn bring_loopback_up() -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    name[..2].copy_from_slice(b"lo");
    let request = InterfaceFlags {
        name,
        // The kernel keeps the flags that tell the kind of the interface.
        flags: libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?,
        padding: [0; 22],
    };
    // Any socket serves as the kernel's network configuration.
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    #[expect(
        unsafe_code,
        reason = "the kernel reads as many bytes as `struct ifreq` has, and writes none"
    )]
    unsafe {
        let request = Setter::<SIOCSIFFLAGS, _>::new(request);
        Ok(ioctl(&socket, request)?)
    }
}

/// True if no socket of a command is left in this network namespace. A connection that TCP still remembers for a while
/// (`TIME_WAIT`) keeps its port from the next command.
pub(crate) fn has_no_sockets() -> io::Result<bool> {
    let (v4, v6) = (
        fs::read_to_string("/proc/self/net/sockstat")?,
        // Not there on a machine without IPv6.
        fs::read_to_string("/proc/self/net/sockstat6").unwrap_or_default(),
    );
    Ok(v4.lines().chain(v6.lines()).all(counts_no_sockets))
}

/// True if a line of `sockstat`, such as `TCP: inuse 0 orphan 0 tw 0 alloc 5 mem 1`, counts none: `inuse` and `tw` count
/// those of this network namespace, the others those of the machine.
fn counts_no_sockets(line: &str) -> bool {
    let Some((protocol, counts)) = line.split_once(": ") else {
        return true;
    };
    // `sockets: used 5` counts those of other kinds too, which end with their processes.
    let mut words = counts.split_whitespace();
    let mut none = true;
    while let (Some(name), Some(count)) = (words.next(), words.next()) {
        if protocol != "sockets" && matches!(name, "inuse" | "tw") {
            none &= count == "0";
        }
    }
    none
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_open_sockets_and_remembered_connections() {
        assert!(counts_no_sockets("TCP: inuse 0 orphan 3 tw 0 alloc 12 mem 4"));
        assert!(counts_no_sockets("sockets: used 7"));
        assert!(!counts_no_sockets("TCP: inuse 0 orphan 0 tw 1 alloc 12 mem 4"));
        assert!(!counts_no_sockets("UDP6: inuse 1"));
    }
}
