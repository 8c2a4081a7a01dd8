//! File system that all commands of a launcher share: built by bubblewrap, entered by the launcher.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::process::{Child, Command, Stdio};

use bitzel_launcher::{INPUT_ROOT, SandboxFile};
use rustix::fs::{MemfdFlags, Mode, OFlags, StatVfsMountFlags, memfd_create, open, statvfs};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_change, mount_remount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use serde::Deserialize;

use crate::failure::{Failure, InStep as _};
use crate::holder;

/// Name of the step that bubblewrap's own messages belong to.
const BUILD: &str = "build the sandbox with bubblewrap";

/// Lets bubblewrap build the file system that its `arguments` describe, with `files` in it, and enters it. Afterwards the
/// working directory is [`INPUT_ROOT`].
pub(crate) fn enter(arguments: &[String], files: &[SandboxFile]) -> Result<(), Failure> {
    let (status, writer) = io::pipe().in_step(BUILD)?;
    let contents = files.iter().map(|file| memory_file(&[&file.content]));
    let contents: Vec<OwnedFd> = contents
        .collect::<io::Result<_>>()
        .in_step("pass files to bubblewrap")?;
    // First, because the last argument makes the root read-only.
    let mut all = vec![];
    for (file, content) in files.iter().zip(&contents) {
        all.extend([
            "--file".to_owned(),
            content.as_raw_fd().to_string(),
            file.path.clone(),
        ]);
    }
    all.extend_from_slice(arguments);
    // Unlike an argument list, a file has no limit in size.
    let all: Vec<&str> = all
        .iter()
        .flat_map(|argument| [argument.as_str(), "\0"])
        .collect();
    let arguments = memory_file(&all).in_step("pass arguments to bubblewrap")?;
    // Open before the root changes, and not by a path in it.
    let program = open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let program = program.in_step("open this program for bubblewrap")?;
    let descriptors = contents.iter().map(AsFd::as_fd);
    for descriptor in descriptors.chain([writer.as_fd(), arguments.as_fd(), program.as_fd()]) {
        // No thread but this one runs, so nothing else can inherit them by accident.
        fcntl_setfd(descriptor, FdFlags::empty()).in_step("pass files to bubblewrap")?;
    }
    // The holder answers as soon as all is built, and keeps the namespaces until its input ends. It is this program, not
    // one of the new root, which may be a client's: nothing of that runs before a command is confined.
    let mut bubblewrap = Command::new("bwrap")
        .arg("--json-status-fd")
        .arg(writer.as_raw_fd().to_string())
        .arg("--args")
        .arg(arguments.as_raw_fd().to_string())
        .arg("--")
        .arg(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg(holder::ARGUMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .in_step("start bubblewrap")?;
    drop((writer, arguments, contents, program));
    if !answers(&mut bubblewrap).in_step(BUILD)? {
        let mut reason = String::new();
        if let Some(mut stderr) = bubblewrap.stderr.take() {
            stderr.read_to_string(&mut reason).in_step(BUILD)?;
        }
        return Err(Failure::new(BUILD, reason.trim()));
    }
    enter_namespaces(&status).in_step("enter the sandbox that bubblewrap built")?;
    drop(bubblewrap.stdin.take());
    let exit = bubblewrap.wait().in_step(BUILD)?;
    if !exit.success() {
        return Err(Failure::new(BUILD, format!("bubblewrap ended with {exit}")));
    }
    std::env::set_current_dir(INPUT_ROOT).in_step(format_args!("enter {INPUT_ROOT}"))?;
    protect_machine().in_step("protect the machine's /dev and /proc")
}

/// Protects the parts of the file system that are the machine's own, not a copy.
///
/// The device nodes are: if the worker is root, a command could change their modes. Writing to a device does not
/// take a mount that can be written to. And what the machine mounts below /proc later (`binfmt_misc`, when somebody
/// first looks at it) would arrive here with all the rights that it has there.
fn protect_machine() -> io::Result<()> {
    mount_change(
        "/proc",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?;
    for entry in std::fs::read_dir("/dev")? {
        let path = entry?.path();
        // Not the type in the directory entry: that is of the file which the device is mounted on.
        if !std::fs::symlink_metadata(&path)?.file_type().is_char_device() {
            continue;
        }
        let mut flags = MountFlags::BIND | MountFlags::RDONLY;
        // Flags that came from the machine are locked: without them, the kernel refuses.
        let set = statvfs(&path)?.f_flag;
        flags.set(MountFlags::NOSUID, set.contains(StatVfsMountFlags::NOSUID));
        flags.set(MountFlags::NODEV, set.contains(StatVfsMountFlags::NODEV));
        flags.set(MountFlags::NOEXEC, set.contains(StatVfsMountFlags::NOEXEC));
        mount_remount(&path, flags, "")?;
    }
    Ok(())
}

/// Waits for the holder to run. False if bubblewrap ends before it comes to that.
fn answers(process: &mut Child) -> io::Result<bool> {
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
fn enter_namespaces(status: &io::PipeReader) -> io::Result<()> {
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
    let namespaces = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    Ok(move_into_thread_name_spaces(process.as_fd(), namespaces)?)
}

/// A file in memory for bubblewrap to read.
fn memory_file(parts: &[&str]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("for-bubblewrap", MemfdFlags::CLOEXEC)?);
    for part in parts {
        file.write_all(part.as_bytes())?;
    }
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}
