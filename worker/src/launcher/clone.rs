//! Starting a process in new namespaces.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use rustix::process::{Signal, getpid, kill_process};

/// Room for the calls of a process that it starts: enough for encoding, paths and starting a program.
const STACK_BYTES: NonZeroUsize = NonZeroUsize::new(256 << 10).unwrap();
/// What is below the stack and may not be touched; at least one page on any machine.
const GUARD_BYTES: usize = 64 << 10;

/// The stack of the process, used again for the next one. It stays as long as this process lives.
pub(super) struct Stack(NonNull<c_void>);

impl Stack {
    pub(super) fn new() -> io::Result<Self> {
        let length = STACK_BYTES.saturating_add(GUARD_BYTES);
        #[expect(unsafe_code, reason = "new memory, whose lowest part nobody uses yet")]
        let bottom = unsafe {
            let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_STACK;
            let bottom = mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags)?;
            mprotect(bottom, GUARD_BYTES, ProtFlags::PROT_NONE)?;
            bottom
        };
        Ok(Self(bottom))
    }

    /// Stacks grow downwards.
    fn top(&mut self) -> *mut c_void {
        self.0.as_ptr().wrapping_byte_add(GUARD_BYTES + STACK_BYTES.get())
    }
}

struct Call<W, T> {
    work: Option<W>,
    result: Option<T>,
}

extern "C" fn call<W: FnOnce() -> T, T>(argument: *mut c_void) -> c_int {
    #[expect(
        unsafe_code,
        reason = "it is what `in_new_namespaces` passes, which waits meanwhile"
    )]
    let call = unsafe { &mut *argument.cast::<Call<W, T>>() };
    call.result = call.work.take().map(|work| work());
    0
}

/// Runs `work` in the first process of a new process-id namespace, with mounts and IPC objects of its own, and gives
/// what `work` gave when that process and all others in its namespace are gone. If it is killed, so is this one.
///
/// The process works in this one's memory, because copying that, and taking the copy apart, would be a tenth of what a
/// small Action costs. This process waits meanwhile, so to the program it is as if `work` was called. Not as for
/// vfork(2), in whose wait a process counts as one that works: the machine's load would tell commands to do less. The
/// process dies with this one only if it asks for that.
pub(super) fn in_new_namespaces<W: FnOnce() -> T, T>(stack: &mut Stack, work: W) -> io::Result<T> {
    const FLAGS: c_int =
        libc::CLONE_VM | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::SIGCHLD;
    // Not to be dropped if the process ends in the middle of it.
    let mut argument = ManuallyDrop::new(Call {
        work: Some(work),
        result: None,
    });
    let pointer = (&raw mut *argument).cast::<c_void>();
    let mut status = 0;
    #[expect(
        unsafe_code,
        reason = "std has no such call: memory is shared, but this process, which has one thread, does nothing there \
                  until the other has ended, which has a stack of its own; `argument` outlives that; a panic ends at \
                  `call`"
    )]
    unsafe {
        let child = libc::clone(call::<W, T>, stack.top(), FLAGS, pointer);
        if child == -1 {
            return Err(io::Error::last_os_error());
        }
        // It ends after all others of its process-id namespace.
        while libc::waitpid(child, &raw mut status, 0) == -1 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINTR) {
                return Err(error);
            }
        }
    }
    match ManuallyDrop::into_inner(argument).result {
        Some(result) if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 => Ok(result),
        half_made => {
            // Killed, and not by the worker. Whatever it held is held for ever, such as the allocator's lock.
            std::mem::forget(half_made);
            let _ = kill_process(getpid(), Signal::KILL);
            std::process::abort()
        }
    }
}
