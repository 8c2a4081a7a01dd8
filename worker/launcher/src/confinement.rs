//! Confinement of a command beyond the namespaces that its supervisor was forked into: file systems that it can write
//! to, a user without capabilities, and nothing of the launcher's.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;

use bitzel_launcher::{INPUT_ROOT, LaunchRequest, MOUNTED_IN_INPUT_ROOT};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_move, unmount};
use rustix::param::page_size;
use rustix::process::{
    DumpableBehavior, Signal, pivot_root, set_dumpable_behavior, set_parent_process_death_signal, setsid,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use crate::failure::{Failure, InStep as _};
use crate::keyring;
use crate::raw_calls::unshare;

/// Number of pseudo-terminals of one command.
const MAX_TERMINALS: u32 = 256;
/// Parts of /proc that concern the whole machine or outlive the command, and that files' modes alone would let the
/// worker's user write to. bubblewrap protects the same ones.
const SHARED_PROC: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "mtrr"];

/// Mounts the file systems that the command can write to over those that all commands share.
///
/// What they cover, such as the worker's directory, stays covered: the command has no capability in the user namespace
/// that owns these mounts, and in a copy of them that it makes in a user namespace of its own the kernel locks them.
pub(crate) fn mount_writable(request: &LaunchRequest) -> Result<(), Failure> {
    if request.lower_directories.is_empty() {
        // `nosuid` and `nodev` as bubblewrap mounted the worker's directory: a further mount keeps that.
        mount_bind(&*request.upper_directory, INPUT_ROOT)
            .in_step(format_args!("mount {}", request.upper_directory))?;
    } else {
        mount_overlay(request)?;
    }
    let private = MountFlags::NOSUID | MountFlags::NODEV;
    for target in ["/tmp", "/dev/shm"] {
        mount("tmpfs", target, "tmpfs", private, c"mode=1777").in_step(format_args!("mount {target}"))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    // The kernel has some thousands for the whole machine.
    let options = CString::new(format!("newinstance,ptmxmode=0666,mode=620,max={MAX_TERMINALS}"))
        .in_step("mount /dev/pts")?;
    mount("devpts", "/dev/pts", "devpts", flags, &*options).in_step("mount /dev/pts")?;
    mount_proc(private | MountFlags::NOEXEC)
}

/// Makes the input root the root file system, with the devices, processes and temporary files of the sandbox in it. Nothing
/// of the root before is in reach afterwards.
pub(crate) fn enter_input_root() -> Result<(), Failure> {
    for directory in MOUNTED_IN_INPUT_ROOT {
        mount_move(format!("/{directory}"), format!("{INPUT_ROOT}/{directory}"))
            .in_step(format_args!("move /{directory} to the input root"))?;
    }
    let step = "make the input root the root file system";
    std::env::set_current_dir(INPUT_ROOT).in_step(step)?;
    // The old root is mounted over the new one, at the same place, and leaves it.
    pivot_root(".", ".").in_step(step)?;
    unmount(".", UnmountFlags::DETACH).in_step(step)
}

fn mount_overlay(request: &LaunchRequest) -> Result<(), Failure> {
    // `userxattr`: without privileges over the machine, overlayfs keeps its notes in user.* attributes.
    // `volatile`: otherwise each unmount, and each fsync of a command, writes back all of the file system below. What
    // a crash of the machine leaves of a running Action is removed.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr,volatile",
        request.lower_directories.join(":"),
        request.upper_directory,
        request.overlay_work_directory
    );
    let step = format_args!("mount an overlay of {} layers", request.lower_directories.len());
    let options = CString::new(options).in_step(step)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    mount("overlay", INPUT_ROOT, "overlay", flags, &*options).in_step(step)
}

/// Mounts a /proc of this process-id namespace, with the [`SHARED_PROC`] of the launcher's /proc, which is read-only.
fn mount_proc(flags: MountFlags) -> Result<(), Failure> {
    let mut shared = vec![];
    for name in SHARED_PROC {
        let path = format!("/proc/{name}");
        match open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(descriptor) => shared.push((path, descriptor)),
            // Not every kernel has all of them.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error).in_step(format_args!("open {path}")),
        }
    }
    mount("proc", "/proc", "proc", flags, None).in_step("mount /proc")?;
    for (path, descriptor) in shared {
        let source = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        mount_bind_recursive(source, &*path).in_step(format_args!("make {path} read-only"))?;
    }
    Ok(())
}

/// Becomes a user without capabilities in a user namespace below the one that owns the mounts, the processes, the IPC
/// objects and the network of the sandbox.
pub(crate) fn drop_privileges() -> Result<(), Failure> {
    unshare(UnshareFlags::NEWUSER).in_step("unshare the user namespace")?;
    // setgroups(2) is forbidden in the one above, and so in this.
    for path in ["/proc/self/uid_map", "/proc/self/gid_map"] {
        fs::write(path, "1000 0 1").in_step(format_args!("write {path}"))?;
    }
    setsid().in_step("start a session")?;
    keyring::leave_workers_keyring().in_step("leave the worker's keyring")?;
    for capability in CapabilitySet::all() {
        match remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error).in_step("drop capabilities"),
        }
    }
    let nothing = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, nothing).in_step("drop capabilities")?;
    set_no_new_privs(true).in_step("forbid new privileges")?;
    // Before Linux 6.4, rustix reads the page size from /proc/self/auxv, once, and cannot after the next step.
    page_size();
    // The command may not read or trace this process, whose memory is a copy of the launcher's.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).in_step("protect this process's memory")
}

/// Asks to be killed when the launcher ends. A change of user undoes that.
pub(crate) fn die_with_launcher() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).in_step("bind to the launcher")
}

/// Opens a file for the command's output.
pub(crate) fn open_log(path: &str) -> Result<File, Failure> {
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .in_step(format_args!("open {path}"))
}
