//! Supervisor of a command: the first process of its process-id namespace. Confines itself, runs the command and reaps
//! all its processes.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bitzel_launcher::{LaunchReport, LaunchRequest, WatchedBounds};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use crate::confinement::{die_with_launcher, drop_privileges, enter_input_root, mount_writable, open_log};
use crate::failure::{Failure, InStep as _};
use crate::process_watch::{ProcessWatch, left_processes};
use crate::raw_calls;
use crate::system_calls::SystemCallFilters;

/// Nice value of a command above that of its supervisor, which cannot lower its own. It counts on kernels that do not
/// share out processors among sessions.
const NICE_OF_COMMANDS: i32 = 5;

/// File descriptors and settings that a supervisor inherits from the launcher.
pub(crate) struct SupervisorHandles {
    /// Refers to the launcher's process.
    pub launcher: OwnedFd,
    /// File in memory that the supervisor's report goes through. A pipe could be full, and a report names paths and
    /// programs of any length.
    pub report: File,
    /// Filters for the command's system calls.
    pub filters: SystemCallFilters,
    /// Bounds of each command.
    pub bounds: WatchedBounds,
}

impl SupervisorHandles {
    /// The report of the supervisor that has ended, for the launcher; `None` if it left none.
    pub(crate) fn take_report(&mut self) -> io::Result<Option<LaunchReport>> {
        let mut report = vec![];
        self.report.rewind()?;
        self.report.read_to_end(&mut report)?;
        // The offset belongs to the next supervisor, too.
        self.report.rewind()?;
        self.report.set_len(0)?;
        if report.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&report)?))
    }
}

/// Runs the command, writes the report and exits.
pub(crate) fn main(request: &LaunchRequest, handles: &SupervisorHandles) -> ! {
    let report = run(request, handles).unwrap_or_else(LaunchReport::from);
    let written = serde_json::to_writer(&handles.report, &report);
    raw_calls::exit(i32::from(written.is_err()))
}

fn run(request: &LaunchRequest, handles: &SupervisorHandles) -> Result<LaunchReport, Failure> {
    let (stdout, stderr) = (open_log(&request.stdout)?, open_log(&request.stderr)?);
    mount_writable(request)?;
    if request.in_input_root {
        enter_input_root()?;
    }
    drop_privileges()?;
    die_with_launcher()?;
    // The launcher may have ended before this process asked to die with it.
    if has_ended(&handles.launcher).in_step("look for the launcher")? {
        return Err(Failure::new("look for the launcher", "it has ended"));
    }
    handles.filters.apply(request.user_namespaces)?;
    env::set_current_dir(&request.working_directory)
        .in_step(format_args!("enter {}", request.working_directory))?;
    let Some((name, arguments)) = request.command.split_first() else {
        return Err(Failure::new("start the command", "it has no name"));
    };
    match start(name, arguments, &request.environment, &stdout, &stderr) {
        Ok(child) => {
            let watch = ProcessWatch::start(&handles.bounds);
            let report = wait_for(&child, watch).in_step("wait for the command")?;
            let is_failure = matches!(report, LaunchReport::Exited(code) if code != 0);
            let left = if is_failure {
                left_processes(&handles.bounds).in_step("look at the processes of the command")?
            } else {
                None
            };
            Ok(left.map_or(report, |(bound, used)| LaunchReport::BoundReached { bound, used }))
        }
        // Not the command's fault.
        Err(error) if is_exhaustion(&error) => Err(error).in_step("start the command"),
        Err(error) => Ok(LaunchReport::CommandNotStarted(format!("{name}: {error}"))),
    }
}

fn has_ended(process: &OwnedFd) -> io::Result<bool> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now))? > 0)
}

fn start(
    name: &str,
    arguments: &[String],
    environment: &[(String, String)],
    stdout: &File,
    stderr: &File,
) -> io::Result<Child> {
    let spawn = |mut command: Command| {
        raw_calls::start_session_of_its_own(&mut command, NICE_OF_COMMANDS);
        command
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()
    };
    let path = environment.iter().rfind(|(name, _)| name == "PATH");
    let program = find(name, path.map_or("", |(_, path)| path))?;
    let mut direct = Command::new(&program);
    direct.arg0(name);
    match spawn(direct) {
        // As execvp(3) does: a script without a line that names its interpreter.
        Err(error) if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
            let mut shell = Command::new("/bin/sh");
            shell.arg(&program);
            spawn(shell)
        }
        other => other,
    }
}

/// The program of a name, looked up in the command's own `PATH` as execvp(3) does.
fn find(name: &str, path: &str) -> io::Result<PathBuf> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let mut reason = Errno::NOENT;
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
            reason = Errno::ACCESS;
        }
    }
    Err(reason.into())
}

/// True if the machine, or the worker's user, had too few resources for a process.
fn is_exhaustion(error: &io::Error) -> bool {
    let exhausted = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE];
    Errno::from_io_error(error).is_some_and(|error| exhausted.contains(&error))
}

/// Reaps processes, orphans too, until the command ends or exceeds a bound. This process ends then, and with it all
/// others in its process-id namespace.
fn wait_for(command: &Child, mut watch: ProcessWatch) -> io::Result<LaunchReport> {
    raw_calls::block_child_signal()?;
    loop {
        // All that have ended: several ends may give one signal.
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((process, status))) if i32::try_from(command.id()) == Ok(process.as_raw_pid()) => {
                    let signal = status.terminating_signal();
                    if let Some(code) = status.exit_status().or(signal.map(|signal| 128 + signal)) {
                        return Ok(LaunchReport::Exited(code));
                    }
                }
                Ok(None) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        raw_calls::wait_for_child_signal(watch.pause())?;
        if let Some((bound, used)) = watch.look()? {
            return Ok(LaunchReport::BoundReached { bound, used });
        }
    }
}
