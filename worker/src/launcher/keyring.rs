//! The kernel's store of keys, see keyrings(7).

use nix::errno::Errno;
use nix::libc;

/// `KEYCTL_JOIN_SESSION_KEYRING` of `linux/keyctl.h`.
const JOIN_SESSION_KEYRING: libc::c_ulong = 1;

/// Leaves the session keyring for a new, empty one. Otherwise a command would have that in which the worker was started:
/// it could use the keys that are there, and leave some to the next command.
pub(super) fn leave() -> Result<(), Errno> {
    #[expect(
        unsafe_code,
        reason = "std has no such call; a null pointer stands for a keyring without a name"
    )]
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
    match Errno::result(joined) {
        // No keys on this machine, or nobody in this container may use them: the command neither.
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(error) => Err(error),
    }
}
