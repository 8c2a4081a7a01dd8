//! System calls that are refused to commands.
//!
//! They reach parts of the kernel that no build needs and that namespaces do not cover: what `io_uring` started goes on
//! when its process has ended, keys count for the worker's user, leases stop whoever opens a file, and a user namespace
//! gives capabilities over networks and mounts of its own, where most holes of the kernel are found. What programs try
//! first and do without is answered as by a kernel that lacks it, so that they fall back.
//!
//! Programs of the processor's 32-bit mode run under the same rules, with the numbers that calls have there. x32, the
//! third way on x86-64, is not there for commands. See `docs/decisions/0031-system-calls-are-filtered.md`.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

use super::{Failure, step};

/// Rules for some calls: for each number, when it is refused; always if there is no condition.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Compiled<T> = Result<T, seccompiler::BackendError>;

/// Numbers of calls since Linux 5.1, alike on all processors.
const IO_URING: [i64; 3] = [425, 426, 427];
const CLONE3: i64 = 435;

/// Numbers of calls in one of the processor's modes.
struct Numbers {
    /// Refused whatever the arguments are.
    always: &'static [i64],
    /// `socket` with the family as first argument.
    socket: i64,
    /// One call for all that concerns sockets, with its arguments in memory, where no filter looks.
    socketcall: Option<i64>,
    fcntl: &'static [i64],
    clone: i64,
    unshare: i64,
}

/// The mode that this program runs in.
const NATIVE: Numbers = Numbers {
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
const COMPATIBLE: Numbers = Numbers {
    always: &[286, 287, 288, 374, 357, 336, 342, 338, 283, 128, 350],
    socket: 359,
    socketcall: Some(102),
    fcntl: &[55, 221],
    clone: 120,
    unshare: 310,
};
/// As the kernel tells filters about it, `AUDIT_ARCH_I386`.
#[cfg(target_arch = "x86_64")]
const COMPATIBLE_ARCH: u32 = 0x4000_0003;

/// 32-bit ARM, in the order of [`NATIVE`].
#[cfg(not(target_arch = "x86_64"))]
const COMPATIBLE: Numbers = Numbers {
    always: &[309, 310, 311, 388, 386, 364, 371, 367, 347, 401, 128, 379],
    socket: 281,
    socketcall: None,
    fcntl: &[55, 221],
    clone: 120,
    unshare: 337,
};
/// As the kernel tells filters about it, `AUDIT_ARCH_ARM`.
#[cfg(not(target_arch = "x86_64"))]
const COMPATIBLE_ARCH: u32 = 0x4000_0028;

/// Families of sockets that are not bound to the network namespace, or see all of it.
const SOCKET_FAMILIES: [libc::c_int; 2] = [libc::AF_VSOCK, libc::AF_PACKET];
/// The first argument of `socketcall` for `socket`.
const SOCKETCALL_SOCKET: u64 = 1;
/// `F_SETLEASE` of fcntl(2).
const F_SETLEASE: u64 = 1024;
/// Bit in the numbers of x32.
const X32: u32 = 0x4000_0000;

/// Both sets of filters, ready for use.
pub(super) struct SystemCallFilters {
    usual: Vec<BpfProgram>,
    with_user_namespaces: Vec<BpfProgram>,
}

impl SystemCallFilters {
    pub(super) fn new() -> Result<Self, Failure> {
        let filters =
            |user_namespaces| filters(user_namespaces).map_err(step("make a filter of system calls"));
        Ok(Self {
            usual: filters(false)?,
            with_user_namespaces: filters(true)?,
        })
    }

    /// Filters what this process calls from now on, and all that it starts.
    pub(super) fn apply(&self, user_namespaces: bool) -> Result<(), Failure> {
        let filters = if user_namespaces {
            &self.with_user_namespaces
        } else {
            &self.usual
        };
        filters
            .iter()
            .try_for_each(|filter| apply_filter(filter))
            .map_err(|error| step("filter system calls")(io::Error::other(error)))
    }
}

/// The filters. Of several answers of the kernel takes the strictest, so each is for one mode or one answer.
fn filters(user_namespaces: bool) -> io::Result<Vec<BpfProgram>> {
    let mut missing: Rules = IO_URING.iter().map(|call| (*call, vec![])).collect();
    if !user_namespaces {
        // Its flags are in memory, where no filter looks. C libraries then take `clone`.
        missing.insert(CLONE3, vec![]);
    }
    let (_, missing) = compiled(missing, libc::ENOSYS)?;
    let refused = |numbers| {
        let rules = refused(numbers, user_namespaces).map_err(io::Error::other)?;
        compiled(rules, libc::EPERM)
    };
    let (native_arch, native) = refused(&NATIVE)?;
    let (_, compatible) = refused(&COMPATIBLE)?;
    Ok(vec![
        [no_x32(), missing].concat(),
        [only_in(native_arch), native].concat(),
        [only_in(COMPATIBLE_ARCH), compatible].concat(),
    ])
}

fn refused(numbers: &Numbers, user_namespaces: bool) -> Compiled<Rules> {
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

/// The kernel looks at the lower half of all of these arguments.
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

/// A program that answers `errno` where `rules` say so, in whatever mode, and what the kernel tells filters about the
/// mode of this one. That stands before what the compiler makes, and kills all programs of other modes.
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

/// The start of a program that is for one mode.
fn only_in(arch: u32) -> BpfProgram {
    vec![
        instruction(LOAD, MODE, [0, 0]),
        instruction(JUMP_IF_EQUAL, arch, [1, 0]),
        instruction(RETURN, libc::SECCOMP_RET_ALLOW, [0, 0]),
    ]
}

/// The start of a program for all modes but x32. No call has such a number elsewhere.
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
