//! Seccomp filters: system calls that commands may not make.
//!
//! The refused calls reach parts of the kernel that no build needs and that namespaces do not cover: what `io_uring`
//! started goes on when its process has ended, keys count for the worker's user, leases stop whoever opens a file, and a
//! user namespace gives capabilities over networks and mounts of its own, where most holes of the kernel are found. Calls
//! that programs try first and do without are answered as by a kernel that lacks them, so that programs fall back.
//!
//! Programs of the processor's 32-bit mode run under the same rules, with the numbers that calls have there. x32, the
//! third mode of x86-64, is refused as a whole. See `docs/decisions/0031-system-calls-are-filtered.md`.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

use crate::failure::{Failure, InStep as _};

/// Conditions under which calls are refused, by number. Without a condition a call is always refused.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Compiled<T> = Result<T, seccompiler::BackendError>;

/// Numbers of calls since Linux 5.1, alike on all processors.
const IO_URING: [i64; 3] = [425, 426, 427];
const CLONE3: i64 = 435;

/// Numbers of the refused calls in one of the processor's modes.
struct CallNumbers {
    /// Calls that are refused whatever their arguments are.
    always: &'static [i64],
    /// `socket`, with the family as first argument.
    socket: i64,
    /// A single call for everything that concerns sockets, with its arguments in memory, which no filter can read.
    socketcall: Option<i64>,
    fcntl: &'static [i64],
    clone: i64,
    unshare: i64,
}

/// Mode that this program runs in.
const NATIVE: CallNumbers = CallNumbers {
    always: &[
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_userfaultfd,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_open_by_handle_at,
        libc::SYS_fanotify_init,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
    ],
    socket: libc::SYS_socket,
    socketcall: None,
    fcntl: &[libc::SYS_fcntl],
    clone: libc::SYS_clone,
    unshare: libc::SYS_unshare,
};

/// i386, in the order of [`NATIVE`]; there is no `kexec_file_load`.
#[cfg(target_arch = "x86_64")]
const COMPATIBLE: CallNumbers = CallNumbers {
    always: &[286, 287, 288, 374, 357, 336, 342, 338, 283, 128, 350],
    socket: 359,
    socketcall: Some(102),
    fcntl: &[55, 221],
    clone: 120,
    unshare: 310,
};
/// `AUDIT_ARCH_I386`, the kernel's name of that mode.
#[cfg(target_arch = "x86_64")]
const COMPATIBLE_ARCH: u32 = 0x4000_0003;

/// 32-bit ARM, in the order of [`NATIVE`].
#[cfg(not(target_arch = "x86_64"))]
const COMPATIBLE: CallNumbers = CallNumbers {
    always: &[309, 310, 311, 388, 386, 364, 371, 367, 347, 401, 128, 379],
    socket: 281,
    socketcall: None,
    fcntl: &[55, 221],
    clone: 120,
    unshare: 337,
};
/// `AUDIT_ARCH_ARM`, the kernel's name of that mode.
#[cfg(not(target_arch = "x86_64"))]
const COMPATIBLE_ARCH: u32 = 0x4000_0028;

/// Socket families that network namespaces do not confine, or that see all traffic of one.
const SOCKET_FAMILIES: [libc::c_int; 2] = [libc::AF_VSOCK, libc::AF_PACKET];
/// The first argument of `socketcall` for `socket`.
const SOCKETCALL_SOCKET: u64 = 1;
/// `F_SETLEASE` of fcntl(2).
const F_SETLEASE: u64 = 1024;
/// Bit in the numbers of x32.
const X32: u32 = 0x4000_0000;

/// Compiled filters for both kinds of commands.
pub(crate) struct SystemCallFilters {
    /// For commands that may not create user namespaces.
    default: Vec<BpfProgram>,
    /// For commands that may.
    with_user_namespaces: Vec<BpfProgram>,
}

impl SystemCallFilters {
    pub(crate) fn new() -> Result<Self, Failure> {
        let filters = |user_namespaces| filters(user_namespaces).in_step("compile the system call filters");
        Ok(Self {
            default: filters(false)?,
            with_user_namespaces: filters(true)?,
        })
    }

    /// Filters the calls of this process from now on, and of all processes that it starts.
    pub(crate) fn apply(&self, user_namespaces: bool) -> Result<(), Failure> {
        let filters = if user_namespaces {
            &self.with_user_namespaces
        } else {
            &self.default
        };
        filters
            .iter()
            .try_for_each(|filter| apply_filter(filter))
            .map_err(io::Error::other)
            .in_step("filter system calls")
    }
}

/// Filters, each for one mode or one answer: the kernel takes the strictest answer of all of them.
fn filters(user_namespaces: bool) -> io::Result<Vec<BpfProgram>> {
    let mut unimplemented: Rules = IO_URING.iter().map(|call| (*call, vec![])).collect();
    if !user_namespaces {
        // Its flags are in memory, which no filter can read. C libraries then take `clone`.
        unimplemented.insert(CLONE3, vec![]);
    }
    let (_, unimplemented) = compiled(unimplemented, libc::ENOSYS)?;
    let refused = |numbers| {
        let rules = refused(numbers, user_namespaces).map_err(io::Error::other)?;
        compiled(rules, libc::EPERM)
    };
    let (native_mode, native) = refused(&NATIVE)?;
    let (_, compatible) = refused(&COMPATIBLE)?;
    Ok(vec![
        [no_x32(), unimplemented].concat(),
        [only_in(native_mode), native].concat(),
        [only_in(COMPATIBLE_ARCH), compatible].concat(),
    ])
}

fn refused(numbers: &CallNumbers, user_namespaces: bool) -> Compiled<Rules> {
    let mut rules: Rules = numbers.always.iter().map(|call| (*call, vec![])).collect();
    let families = SOCKET_FAMILIES.map(|family| equal(0, u64::from(family.unsigned_abs())));
    rules.insert(numbers.socket, families.into_iter().collect::<Compiled<_>>()?);
    if let Some(socketcall) = numbers.socketcall {
        rules.insert(socketcall, vec![equal(0, SOCKETCALL_SOCKET)?]);
    }
    for call in numbers.fcntl {
        rules.insert(*call, vec![equal(1, F_SETLEASE)?]);
    }
    if !user_namespaces {
        for call in [numbers.clone, numbers.unshare] {
            let flag = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
            rules.insert(call, vec![argument(0, SeccompCmpOp::MaskedEq(flag), flag)?]);
        }
    }
    Ok(rules)
}

fn equal(index: u8, value: u64) -> Compiled<SeccompRule> {
    argument(index, SeccompCmpOp::Eq, value)
}

/// A condition on the lower half of an argument, which is all that the kernel uses of those that are compared here.
fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Compiled<SeccompRule> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?;
    SeccompRule::new(vec![condition])
}

/// Instructions of the kernel's packet filter machine, see `linux/bpf_common.h`.
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const MODE: u32 = 4;

fn instruction(code: u16, k: u32, [jt, jf]: [u8; 2]) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// A program that answers `errno` where `rules` say so, in any mode, and the kernel's name of this program's mode.
///
/// The compiler's output starts with a check of that mode, which kills programs of all other modes. It is cut off here.
fn compiled(rules: Rules, errno: libc::c_int) -> io::Result<(u32, BpfProgram)> {
    let arch = TargetArch::try_from(ARCH).map_err(io::Error::other)?;
    let answer = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).map_err(io::Error::other)?;
    let program = BpfProgram::try_from(filter).map_err(io::Error::other)?;
    match program.as_slice() {
        [load, compare, kill, rest @ ..]
            if (load.code, load.k) == (LOAD, MODE)
                && (compare.code, compare.jt, compare.jf) == (JUMP_IF_EQUAL, 1, 0)
                && (kill.code, kill.k) == (RETURN, libc::SECCOMP_RET_KILL_PROCESS) =>
        {
            Ok((compare.k, rest.to_vec()))
        }
        _ => Err(io::Error::other(
            "the filter does not start with the processor's mode",
        )),
    }
}

/// First instructions of a program that applies to one mode.
fn only_in(arch: u32) -> BpfProgram {
    vec![
        instruction(LOAD, MODE, [0, 0]),
        instruction(JUMP_IF_EQUAL, arch, [1, 0]),
        instruction(RETURN, libc::SECCOMP_RET_ALLOW, [0, 0]),
    ]
}

/// First instructions of a program that refuses x32. No other mode has calls with such numbers.
fn no_x32() -> BpfProgram {
    vec![
        instruction(LOAD, NUMBER, [0, 0]),
        instruction(JUMP_IF_AT_LEAST, X32, [0, 1]),
        instruction(
            RETURN,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(),
            [0, 0],
        ),
    ]
}
