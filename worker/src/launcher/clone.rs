//! Starting a process in new namespaces.

use std::io;

use nix::sched::{CloneFlags, clone};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

/// Room for the calls of a process that it starts: enough for encoding, paths and starting a program.
pub(super) const STACK_BYTES: usize = 256 << 10;

/// Runs `work` in the first process of a new process-id namespace, with mounts and IPC objects of its own, and gives
/// what `work` gave when that process and all others in its namespace are gone. `None` if it was killed: it may have
/// held locks, such as that of the allocator, so the caller must end without taking any.
///
/// The process works in this one's memory (`vfork(2)`), because copying that, and taking the copy apart, would be a
/// tenth of what a small Action costs. This process stands still meanwhile, so it is as if `work` was called. The
/// process dies with this one only if it asks for that. `stack` is its stack, of [`STACK_BYTES`].
pub(super) fn in_new_namespaces<T>(stack: &mut [u8], work: impl FnOnce() -> T) -> io::Result<Option<T>> {
    // While `CLONE_VFORK` holds, Linux does not pass on to this process what is set of that one's memory
    // (`oom_score_adj`).
    let flags = CloneFlags::CLONE_VM
        | CloneFlags::CLONE_VFORK
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC;
    let (mut work, mut result) = (Some(work), None);
    let call = Box::new(|| {
        result = work.take().map(|work| work());
        0
    });
    #[expect(
        unsafe_code,
        reason = "std has no vfork: memory is shared, but only one of both processes runs, on a stack of its own, and \
                  no other thread exists in a launcher; a panic does not unwind out of the call, it aborts"
    )]
    let child = unsafe { clone(call, stack, flags, Some(nix::libc::SIGCHLD)) }?;
    let child = Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::InvalidData)?;
    loop {
        // It ends after all others of its process-id namespace.
        match waitpid(Some(child), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(status) => {
                let ended = status.is_some_and(|(_, status)| status.exit_status() == Some(0));
                return Ok(if ended { result } else { None });
            }
        }
    }
}
