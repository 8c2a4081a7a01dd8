//! What a command has for itself besides the namespaces that it was started in: file systems that it can write to, a
//! user without power over anything, and nothing of the launcher's.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal, setsid,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::{Failure, LaunchRequest, WORK, keyring, step};

/// Parts of /proc that concern the whole machine or outlive the command, and that files' modes alone would let the
/// worker's user write to. bubblewrap protects the same ones.
const SHARED_PROC: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "mtrr"];
const NONE: Option<&str> = None;

/// Mounts what the command can write to over what all commands have in common.
///
/// What it covers, such as the worker's directory, stays covered: the command has no capability in the user namespace
/// that owns these mounts, and in a copy of them that it makes in a user namespace of its own the kernel locks them.
pub(super) fn mount_writable(request: &LaunchRequest) -> Result<(), Failure> {
    let private = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if request.lower.is_empty() {
        // `nosuid` and `nodev` as bubblewrap mounted the worker's directory: a further mount keeps that.
        let upper = Some(request.upper.as_str());
        mount(upper, WORK, NONE, MsFlags::MS_BIND, NONE).map_err(step(format!("mount {}", request.upper)))?;
    } else {
        mount_overlay(request)?;
    }
    let file_system = |name: &str, target: &str, flags: MsFlags, options: Option<&str>| {
        mount(Some(name), target, Some(name), flags, options).map_err(step(format!("mount {target}")))
    };
    file_system("tmpfs", "/tmp", private, Some("mode=1777"))?;
    file_system("tmpfs", "/dev/shm", private, Some("mode=1777"))?;
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = "newinstance,ptmxmode=0666,mode=620";
    file_system("devpts", "/dev/pts", terminals, Some(options))?;
    mount_proc(private | MsFlags::MS_NOEXEC)
}

fn mount_overlay(request: &LaunchRequest) -> Result<(), Failure> {
    // `userxattr`: without privileges over the machine, overlayfs keeps its notes in user.* attributes.
    // `volatile`: otherwise each unmount, and each fsync of a command, writes back all of the file system below. What
    // a crash of the machine leaves of a running Action is removed.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr,volatile",
        request.lower.join(":"),
        request.upper,
        request.work
    );
    mount(
        Some("overlay"),
        WORK,
        Some("overlay"),
        MsFlags::MS_NODEV | MsFlags::MS_NOSUID,
        Some(options.as_str()),
    )
    .map_err(step(format!(
        "mount an overlay of {} layers",
        request.lower.len()
    )))
}

/// The processes of this namespace, and the rest of /proc from the launcher's, which is read-only.
fn mount_proc(flags: MsFlags) -> Result<(), Failure> {
    let mut shared = vec![];
    for name in SHARED_PROC {
        let path = format!("/proc/{name}");
        match open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(descriptor) => shared.push((path, descriptor)),
            // Not every kernel has all of them.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(step(format!("open {path}"))(error)),
        }
    }
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE).map_err(step("mount /proc"))?;
    for (path, descriptor) in shared {
        let source = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        mount(
            Some(source.as_str()),
            path.as_str(),
            NONE,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            NONE,
        )
        .map_err(step(format!("make {path} read-only")))?;
    }
    Ok(())
}

/// Gets back what the last command took of the memory that they have in common: with memory that is protected, a
/// process's own files in /proc belong to the machine's root.
pub(super) fn own_proc() -> Result<(), Failure> {
    set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(step("open this process's memory"))
}

/// Settings of a process that are kept with its memory, which the first processes of all commands have in common with
/// the launcher. If the worker is root, the files are the commands' as well.
pub(super) struct MemorySettings(Vec<(&'static str, String)>);

impl MemorySettings {
    pub(super) fn of_this_process() -> Self {
        // Not every kernel has both. The first is a decimal number, the second a hexadecimal one.
        let files = [
            ("/proc/self/oom_score_adj", ""),
            ("/proc/self/coredump_filter", "0x"),
        ];
        let read = |(path, prefix)| {
            let text = fs::read_to_string(path).ok()?;
            Some((path, format!("{prefix}{}", text.trim())))
        };
        Self(files.into_iter().filter_map(read).collect())
    }

    /// Makes them what they were. A command can have made it likelier only that it is killed, which can be undone.
    pub(super) fn restore(&self) -> Result<(), Failure> {
        self.0
            .iter()
            .try_for_each(|(path, text)| fs::write(path, text).map_err(step(format!("write {path}"))))
    }
}

/// Becomes a user without capabilities in a user namespace below the one that owns the mounts, the processes, the IPC
/// objects and the network of the sandbox.
pub(super) fn drop_privileges() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(step("unshare the user namespace"))?;
    // setgroups(2) is forbidden in the one above, and so in this.
    for path in ["/proc/self/uid_map", "/proc/self/gid_map"] {
        fs::write(path, "1000 0 1").map_err(step(format!("write {path}")))?;
    }
    setsid().map_err(step("start a session"))?;
    keyring::leave().map_err(step("leave the worker's keyring"))?;
    for capability in CapabilitySet::all() {
        match remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(step("drop capabilities")(error)),
        }
    }
    let nothing = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, nothing).map_err(step("drop capabilities"))?;
    set_no_new_privs(true).map_err(step("forbid new privileges"))?;
    // The command may not look into this process, whose memory is the launcher's.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(step("protect this process's memory"))
}

/// Asks to be killed when the launcher ends. A change of user undoes that.
pub(super) fn die_with_launcher() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(step("bind to the launcher"))
}

/// Opens a log.
pub(super) fn log(path: &str) -> Result<File, Failure> {
    let file: io::Result<File> = fs::OpenOptions::new().create(true).append(true).open(path);
    file.map_err(step(format!("open {path}")))
}
