//! The file system that all commands of a launcher have in common: built by bubblewrap, entered by the launcher.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use rustix::fs::{MemfdFlags, memfd_create, statvfs};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;

use super::{Failure, WORK, step};

/// Lets bubblewrap build the file system that its `arguments` describe, and makes it this process's. Afterwards the
/// working directory is [`WORK`].
pub(super) fn enter(arguments: &[String]) -> Result<(), Failure> {
    let failed = || step("build the sandbox with bubblewrap");
    let (status, writer) = io::pipe().map_err(failed())?;
    let arguments = arguments_file(arguments).map_err(step("pass arguments to bubblewrap"))?;
    for descriptor in [writer.as_fd(), arguments.as_fd()] {
        // No thread but this one runs, so nothing else can inherit them by accident.
        fcntl_setfd(descriptor, FdFlags::empty()).map_err(step("pass files to bubblewrap"))?;
    }
    // Something that says when it runs, because then all is built, and that waits for its input to end.
    let mut bubblewrap = Command::new("bwrap")
        .arg("--json-status-fd")
        .arg(writer.as_raw_fd().to_string())
        .arg("--args")
        .arg(arguments.as_raw_fd().to_string())
        .args(["--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(step("start bubblewrap"))?;
    drop((writer, arguments));
    if !echoes(&mut bubblewrap).map_err(failed())? {
        let mut reason = String::new();
        if let Some(mut stderr) = bubblewrap.stderr.take() {
            stderr.read_to_string(&mut reason).map_err(failed())?;
        }
        return Err(failed()(io::Error::other(reason.trim().to_owned())));
    }
    join(&status).map_err(step("enter the sandbox that bubblewrap built"))?;
    drop(bubblewrap.stdin.take());
    let exit = bubblewrap.wait().map_err(failed())?;
    if !exit.success() {
        return Err(failed()(io::Error::other(format!(
            "bubblewrap ended with {exit}"
        ))));
    }
    std::env::set_current_dir(WORK).map_err(step(format!("enter {WORK}")))?;
    protect().map_err(step("protect the machine's /dev and /proc"))
}

/// Keeps commands from what is the machine's own, not a copy.
///
/// The device nodes are: if the worker is root, a command could change their modes. Writing to a device does not
/// take a mount that can be written to. And what the machine mounts below /proc later (`binfmt_misc`, when somebody
/// first looks at it) would arrive here with all the rights that it has there.
fn protect() -> io::Result<()> {
    let none: Option<&str> = None;
    mount(none, "/proc", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for entry in std::fs::read_dir("/dev")? {
        let path = entry?.path();
        // Not what the directory says: that is of what the device is mounted on.
        if !std::fs::symlink_metadata(&path)?.file_type().is_char_device() {
            continue;
        }
        // Flags that came from the machine are locked: without them, the kernel refuses.
        let locked = MsFlags::from_bits_truncate(statvfs(&path)?.f_flag.bits())
            & (MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(none, &path, none, read_only | locked, none)?;
    }
    Ok(())
}

/// Whether `cat` runs. It does not when bubblewrap ends before it comes to it.
fn echoes(process: &mut Child) -> io::Result<bool> {
    let (Some(stdin), Some(stdout)) = (&mut process.stdin, &mut process.stdout) else {
        return Ok(false);
    };
    match stdin.write_all(b"\n") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
        other => other?,
    }
    Ok(stdout.read(&mut [0])? == 1)
}

/// Enters the mount and UTS namespaces of the process that bubblewrap's `status` names.
fn join(status: &io::PipeReader) -> io::Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Status {
        child_pid: i32,
    }
    let mut line = String::new();
    BufReader::new(status).read_line(&mut line)?;
    let Status { child_pid } = serde_json::from_str(&line)?;
    let process = Pid::from_raw(child_pid).ok_or(io::ErrorKind::InvalidData)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    setns(process, CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
    Ok(())
}

/// A file in memory with NUL-terminated arguments, which has no limit in size as an argument list has.
fn arguments_file(arguments: &[String]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("bubblewrap-arguments", MemfdFlags::CLOEXEC)?);
    for argument in arguments {
        file.write_all(argument.as_bytes())?;
        file.write_all(b"\0")?;
    }
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}
