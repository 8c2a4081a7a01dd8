//! Filter of an isolated network: nothing to groups (multicast) or to all stations (broadcast) leaves it.
//!
//! Routes would not do: the kernel asks none for a group if the socket has an interface or a source address. So the
//! launcher makes the TAP interface before pasta does, with a filter of addresses that the kernel keeps with the
//! interface: a frame goes to pasta only if it is for the one station that the interface knows. The interface asks
//! nobody for Ethernet addresses (`IFF_NOARP`); it sends each packet to its own address, which pasta does not look at.
//! Frames to groups have other addresses, which only sockets of the family `AF_PACKET` could choose, and those are refused.
//! The interface persists, and pasta opens it by its name, see `Documentation/networking/tuntap.rst` of Linux.
//!
//! A packet filter (`TUNATTACHFILTER`) would not do either: it belongs to the process that set it, and is gone with that.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Operations of `linux/if_tun.h`.
const TUNSETIFF: Opcode = 0x4004_54ca;
const TUNSETPERSIST: Opcode = 0x4004_54cb;
const TUNSETTXFILTER: Opcode = 0x4004_54d1;
/// Operations of `linux/sockios.h`.
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCGIFHWADDR: Opcode = 0x8927;

/// Length of an Ethernet address.
const ADDRESS_BYTES: usize = 6;

/// `struct ifreq` of netdevice(7).
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    value: InterfaceValue,
}

/// The union in `struct ifreq`: flags, or a `struct sockaddr` with its family and an Ethernet address.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct InterfaceValue {
    flags_or_family: libc::c_short,
    address: [u8; ADDRESS_BYTES],
    padding: [u8; 16],
}

/// `struct tun_filter` with one address.
#[repr(C)]
struct TransmitFilter {
    flags: u16,
    count: u16,
    address: [u8; ADDRESS_BYTES],
}

/// Makes the TAP interface `name` with the filter in this network namespace, and leaves it for pasta.
pub(crate) fn create_interface(name: &str) -> io::Result<()> {
    let tap = open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // Any socket serves as the kernel's network configuration.
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        value: InterfaceValue::default(),
    };
    // The last byte stays 0.
    for (place, byte) in request.name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    configure(&tap, &socket, &mut request)
}

#[expect(
    unsafe_code,
    reason = "each operation reads and writes values of the types that the kernel expects"
)]
fn configure(tap: &OwnedFd, socket: &OwnedFd, request: &mut InterfaceRequest) -> io::Result<()> {
    let flags = |flags| InterfaceValue {
        flags_or_family: flags,
        ..InterfaceValue::default()
    };
    let short = |flags| libc::c_short::try_from(flags).map_err(io::Error::other);
    request.value = flags(short(libc::IFF_TAP | libc::IFF_NO_PI)?);
    unsafe { ioctl(tap, Updater::<TUNSETIFF, _>::new(&mut *request))? };
    request.value = InterfaceValue::default();
    unsafe { ioctl(socket, Updater::<SIOCGIFHWADDR, _>::new(&mut *request))? };
    let filter = TransmitFilter {
        flags: 0,
        count: 1,
        address: request.value.address,
    };
    // The kernel keeps the kind of the interface. pasta switches it on.
    request.value = flags(short(libc::IFF_NOARP | libc::IFF_MULTICAST)?);
    unsafe {
        ioctl(socket, Updater::<SIOCSIFFLAGS, _>::new(&mut *request))?;
        ioctl(tap, Setter::<TUNSETTXFILTER, _>::new(filter))?;
        ioctl(tap, IntegerSetter::<TUNSETPERSIST>::new_usize(1))?;
    }
    Ok(())
}
