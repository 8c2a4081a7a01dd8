//! Harmless system calls that tell if a seccomp profile refuses the ones that sandboxes need.

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Path that exists on no machine. The kernel looks paths up before it asks for privileges, so a call that reaches the
/// kernel fails with `ENOENT`.
const NO_PATH: &str = "/proc/self/bitzel-check";

/// Names of the system calls that never reach the kernel. `pivot_root` cannot be told apart this way.
pub(super) fn refused_system_calls() -> Vec<&'static str> {
    #[expect(
        unsafe_code,
        reason = "unsafe only with flags, and this call has none: it changes nothing"
    )]
    let unshared = unsafe { unshare_unsafe(UnshareFlags::empty()) };
    let mounted = mount("none", NO_PATH, "tmpfs", MountFlags::empty(), None);
    let unmounted = unmount(NO_PATH, UnmountFlags::DETACH);
    let calls = [
        ("unshare", unshared.is_err()),
        ("mount", mounted != Err(Errno::NOENT)),
        ("umount2", unmounted != Err(Errno::NOENT)),
    ];
    calls
        .into_iter()
        .filter_map(|(name, refused)| refused.then_some(name))
        .collect()
}
