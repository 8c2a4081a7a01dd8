//! The first process of a sandbox: confines itself, runs the command and outlives all its processes.

use std::env;
use std::ffi::OsStr;
use std::io::{self, PipeWriter};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};

use super::confinement::{die_with_launcher, drop_privileges, log, mount_writable};
use super::{Failure, LaunchReport, LaunchRequest, step};

/// Runs the command and writes a [`LaunchReport`].
pub(super) fn run(request: &LaunchRequest, mut report: PipeWriter) {
    let outcome = confined(request, &report).unwrap_or_else(LaunchReport::from);
    // Nobody reads it when the launcher has ended.
    let _ = serde_json::to_writer(&mut report, &outcome);
}

fn confined(request: &LaunchRequest, report: &PipeWriter) -> Result<LaunchReport, Failure> {
    let (stdout, stderr) = (log(&request.stdout)?, log(&request.stderr)?);
    mount_writable(request)?;
    drop_privileges()?;
    die_with_launcher()?;
    if is_abandoned(report).map_err(step("look for the launcher"))? {
        return Err(step("look for the launcher")(io::Error::other("it has ended")));
    }
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
        Ok(child) => wait_for(&child).map(LaunchReport::Exited),
        Err(error) => Ok(LaunchReport::CommandNotStarted(format!("{name}: {error}"))),
    }
}

/// Whether the launcher ended before this process was bound to it: nobody can read the report then.
fn is_abandoned(report: &PipeWriter) -> io::Result<bool> {
    let mut descriptors = [PollFd::new(report, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut descriptors, Some(&now))?;
    Ok(descriptors[0].revents().contains(PollFlags::ERR))
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

/// Takes leave of processes without parents until the command ends, and gives its exit code.
fn wait_for(command: &Child) -> Result<i32, Failure> {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(process, code)) if is(command, process) => return Ok(code),
            Ok(WaitStatus::Signaled(process, signal, _)) if is(command, process) => {
                return Ok(128 + signal as i32);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(step("wait for the command")(error)),
        }
    }
}

fn is(command: &Child, process: nix::unistd::Pid) -> bool {
    i32::try_from(command.id()) == Ok(process.as_raw())
}
