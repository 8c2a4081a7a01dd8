//! Starting a process in new namespaces.

use std::io;

use nix::sched::{CloneFlags, clone};
use rustix::process::Pid;

/// Room for the calls of a process that it starts: enough for encoding, paths and starting a program.
pub(super) const STACK_BYTES: usize = 256 << 10;

/// Starts a copy of this process that runs `work` and ends: the first process of a new process-id namespace, with
/// mounts and IPC objects of its own. It dies with this process only if it asks for that. `stack` is its stack, of
/// [`STACK_BYTES`]; being a copy, it can be used again at once.
pub(super) fn in_new_namespaces(stack: &mut [u8], mut work: impl FnMut()) -> io::Result<Pid> {
    let flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    let work = Box::new(|| {
        work();
        0
    });
    #[expect(
        unsafe_code,
        reason = "std has no fork: as after any fork, memory is a copy, and no other thread that could have left a \
                  lock held exists in a launcher; nothing here runs on the stack that is passed"
    )]
    let child = unsafe { clone(work, stack, flags, Some(nix::libc::SIGCHLD)) }?;
    Pid::from_raw(child.as_raw()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
