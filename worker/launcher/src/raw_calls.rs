//! System calls that rustix does not have, or only as unsafe functions. No other module calls the kernel by number.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::process::setsid;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `KEYCTL_JOIN_SESSION_KEYRING` of `linux/keyctl.h`.
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;

/// Which of the two processes returns from [`fork_into`].
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The calling process, with a descriptor that refers to the child.
    Parent(OwnedFd),
}

/// Forks a process whose new `namespaces` (`CLONE_NEW…`) are its own. It ends when all others in its process-id
/// namespace have ended.
///
/// fork(2) has no argument for namespaces, and unshare(2) makes a process-id namespace for children only once in the
/// life of a process.
pub(crate) fn fork_into(namespaces: libc::c_int) -> io::Result<Fork> {
    let flags = libc::c_long::from(namespaces | libc::CLONE_PIDFD | libc::SIGCHLD);
    let (no_stack, mut child): (libc::c_long, libc::c_int) = (0, -1);
    #[expect(
        unsafe_code,
        reason = "clone(2) without a stack and without CLONE_VM copies this process as fork(2) does; it has one \
                  thread, so no lock is held in the copy; the descriptor belongs to nobody else"
    )]
    unsafe {
        // Processors differ in the order of the arguments behind the third; those are not used.
        match libc::syscall(libc::SYS_clone, flags, no_stack, &raw mut child, 0, 0) {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(Fork::Child),
            _ => Ok(Fork::Parent(OwnedFd::from_raw_fd(child))),
        }
    }
}

/// Ends a forked process. std's exit runs handlers first, which are the launcher's, and for which the kernel would have
/// to copy ten pages.
pub(crate) fn exit(code: libc::c_int) -> ! {
    #[expect(unsafe_code, reason = "it does not return, and has no other condition")]
    unsafe {
        libc::_exit(code)
    }
}

/// Lets a command start a session of its own, with this nice value above that of this process.
///
/// Linux shares out processors among sessions first (`CONFIG_SCHED_AUTOGROUP`), so all processes of a command together
/// weigh as much as the supervisor, which has to stop them.
pub(crate) fn start_session_of_its_own(command: &mut Command, nice: i32) {
    #[expect(
        unsafe_code,
        reason = "between fork and exec it makes two system calls and touches no memory; this process has one thread"
    )]
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            rustix::process::nice(nice)?;
            Ok(())
        });
    }
}

/// Moves this process into new namespaces.
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    #[expect(
        unsafe_code,
        reason = "unsafe only with FILES and several threads; this process has one thread"
    )]
    unsafe {
        Ok(unshare_unsafe(namespaces)?)
    }
}

/// True if the kernel started this program with the dynamic linker that it names, false if it is linked statically.
pub(crate) fn has_program_interpreter() -> bool {
    #[expect(
        unsafe_code,
        reason = "it reads what the kernel told this process at its start"
    )]
    let base = unsafe { libc::getauxval(libc::AT_BASE) };
    base != 0
}

/// Closes all file descriptors from `first` on.
pub(crate) fn close_from(first: libc::c_uint) -> io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "called at the start, when no value of this program owns such a descriptor"
    )]
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    result(closed)
}

/// Holds back `SIGCHLD` from now on, for [`wait_for_child_signal`].
pub(crate) fn block_child_signal() -> io::Result<()> {
    let signals = child_signal();
    #[expect(
        unsafe_code,
        reason = "it reads the set and writes none; this process has one thread"
    )]
    let blocked = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut()) };
    result(blocked.into())
}

/// Waits for `SIGCHLD`, at most for `timeout`. The signal has to be blocked; one that came before counts.
pub(crate) fn wait_for_child_signal(timeout: Option<Duration>) -> io::Result<()> {
    let signals = child_signal();
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    #[expect(
        unsafe_code,
        reason = "it reads the set and the time, which live until it returns, and writes nothing"
    )]
    let waited = unsafe { libc::sigtimedwait(&raw const signals, std::ptr::null_mut(), timeout) };
    match result(waited.into()) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(()),
        other => other,
    }
}

/// The set of signals that has `SIGCHLD` alone.
fn child_signal() -> libc::sigset_t {
    let mut signals = std::mem::MaybeUninit::uninit();
    #[expect(unsafe_code, reason = "sigemptyset(3) writes the whole set")]
    unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGCHLD);
        signals.assume_init()
    }
}

/// Replaces the session keyring by a new, empty one without a name.
pub(crate) fn join_new_session_keyring() -> io::Result<()> {
    let no_name = std::ptr::null::<libc::c_char>();
    #[expect(unsafe_code, reason = "a null pointer stands for a keyring without a name")]
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, no_name) };
    result(joined)
}

fn result(returned: libc::c_long) -> io::Result<()> {
    if returned == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
