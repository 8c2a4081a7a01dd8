//! The first process of a sandbox: confines itself, runs the command and outlives all its processes.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};
use rustix::process::{WaitOptions, wait};

use super::confinement::{MemorySettings, die_with_launcher, drop_privileges, log, mount_writable, own_proc};
use super::system_calls::SystemCallFilters;
use super::{Failure, LaunchReport, LaunchRequest, step};

/// What is outside of a sandbox, and its first process has to know of.
pub(super) struct Outside {
    /// The socket whose other end the worker has.
    pub worker: UnixStream,
    /// The launcher.
    pub launcher: OwnedFd,
    /// What its memory is to be like at the start of each command.
    pub memory: MemorySettings,
    /// What a command may not call.
    pub filters: SystemCallFilters,
}

/// Runs the command. `None` when the worker lost interest.
pub(super) fn run(request: &LaunchRequest, outside: &Outside) -> Option<LaunchReport> {
    confined(request, outside).unwrap_or_else(|failure| Some(failure.into()))
}

fn confined(request: &LaunchRequest, outside: &Outside) -> Result<Option<LaunchReport>, Failure> {
    own_proc()?;
    let (stdout, stderr) = (log(&request.stdout)?, log(&request.stderr)?);
    mount_writable(request)?;
    outside.memory.restore()?;
    drop_privileges()?;
    die_with_launcher()?;
    if has_ended(&outside.launcher).map_err(step("look for the launcher"))? {
        return Err(step("look for the launcher")(io::Error::other("it has ended")));
    }
    outside.filters.apply(request.user_namespaces)?;
    env::set_current_dir(&request.working_directory)
        .map_err(step(format!("enter {}", request.working_directory)))?;
    let Some((name, arguments)) = request.command.split_first() else {
        return Err(step("start the command")(io::Error::other("it has no name")));
    };
    let path = request.environment.iter().rfind(|(name, _)| name == "PATH");
    let path = path.map_or("", |(_, path)| path);
    let command = |mut command: Command| {
        command
            .args(arguments)
            .env_clear()
            .envs(request.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()
    };
    let started = find(name, path).and_then(|program| {
        let mut direct = Command::new(&program);
        direct.arg0(name);
        match command(direct) {
            // As execvp(3) does: a script without a line that names its interpreter.
            Err(error) if error.raw_os_error() == Some(Errno::ENOEXEC as i32) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg(&program);
                command(shell)
            }
            other => other,
        }
    });
    match started {
        Ok(child) => {
            let code = wait_for(&child, &outside.worker).map_err(step("wait for the command"))?;
            Ok(code.map(LaunchReport::Exited))
        }
        Err(error) => {
            let reason = format!("{name}: {error}");
            Ok(Some(LaunchReport::CommandNotStarted(reason)))
        }
    }
}

/// Whether a process has ended: the launcher may have before this process was bound to it.
fn has_ended(process: &OwnedFd) -> io::Result<bool> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now))? > 0)
}

/// The program of a name, sought in the command's own `PATH` as execvp(3) does.
fn find(name: &str, path: &str) -> io::Result<PathBuf> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let mut reason = Errno::ENOENT;
    for directory in env::split_paths(OsStr::new(path)) {
        let program = if directory.as_os_str().is_empty() {
            PathBuf::from(".").join(name)
        } else {
            directory.join(name)
        };
        if program.is_file() {
            if access(&program, Access::EXEC_OK).is_ok() {
                return Ok(program);
            }
            reason = Errno::EACCES;
        }
    }
    Err(reason.into())
}

/// Takes leave of processes without parents until the command ends, and gives its exit code; `None` when the `worker`
/// lost interest before.
fn wait_for(command: &Child, worker: &UnixStream) -> io::Result<Option<i32>> {
    // Only now, as the command would inherit it.
    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    ended.thread_block()?;
    let signals = SignalFd::with_flags(&ended, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    loop {
        // One signal stands for all that ended meanwhile, orphans too.
        while let Some((process, status)) = wait(WaitOptions::NOHANG)? {
            if i32::try_from(command.id()) == Ok(process.as_raw_pid()) {
                let code = status.exit_status();
                return Ok(code.or_else(|| status.terminating_signal().map(|signal| 128 + signal)));
            }
        }
        let mut descriptors = [
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(worker, PollFlags::IN | PollFlags::RDHUP),
        ];
        match poll(&mut descriptors, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if !descriptors[1].revents().is_empty() {
            return Ok(None);
        }
        while signals.read_signal()?.is_some() {}
    }
}
