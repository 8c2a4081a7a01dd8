//! The process between the worker and the commands.
//!
//! A mount namespace can only be entered by a process with one thread, so the worker starts itself again as this
//! launcher. Its standard input is a socket: one [`LauncherSetup`], then a [`LaunchRequest`] for each command, each
//! answered with a [`LaunchAnswer`]. What all commands see alike is made once, with the first request: namespaces for
//! user, mounts, host name, cgroups and a network with nothing but loopback, and the read-only file system that
//! bubblewrap builds ([`root`]). What a command must have for itself is made for each of them ([`confinement`]). Why
//! one command cannot see the one before is in `docs/decisions/0023-launchers-are-reused.md` and
//! `docs/decisions/0025-one-bubblewrap-for-many-actions.md`.
//!
//! A launcher answers only when no process of the command is left: the first process of a process-id namespace ends
//! after all others in it. That process works in the launcher's memory, and the launcher stands still meanwhile. When
//! the worker's end of the socket closes, because the worker cancels or dies, that first process ends, with it all
//! others, and then the launcher. When the launcher is killed itself, that process dies with it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod clone;
mod command;
mod confinement;
mod keyring;
mod network;
mod root;
mod system_calls;

use clone::Stack;
use command::Outside;
use confinement::MemorySettings;
use system_calls::SystemCallFilters;

/// What all commands of a launcher have in common.
#[derive(Debug, Serialize, Deserialize)]
pub struct LauncherSetup {
    /// Arguments of bubblewrap that build the file system, without a command. The launcher's working directory, the
    /// worker's directory, is at [`WORK`] in it.
    pub bubblewrap: Vec<String>,
    /// Whether the commands see this machine's network.
    pub network: bool,
}

/// Where the input root is for a command. For the launcher, which has no overlay there, the worker's directory.
pub const WORK: &str = "/work";

/// What to run. Paths are relative to the worker's directory, so that many layers fit into the 4,096 bytes that the
/// kernel takes as options of a mount.
#[derive(Debug, Serialize, Deserialize)]
pub struct LaunchRequest {
    /// Lower layers of the overlay, uppermost first. Without any there is no overlay: the command sees `upper` itself.
    pub lower: Vec<String>,
    /// Upper directory of the overlay.
    pub upper: String,
    /// Empty directory for overlayfs itself, on the same file system as `upper`.
    pub work: String,
    /// Program and arguments; at least the program.
    pub command: Vec<String>,
    /// The whole environment. The last of equal names counts.
    pub environment: Vec<(String, String)>,
    /// Where the command starts, absolute.
    pub working_directory: String,
    /// Whether the command may make user namespaces of its own.
    pub user_namespaces: bool,
    /// File for standard output. It is made if it is not there.
    pub stdout: String,
    /// File for standard error. It is made if it is not there.
    pub stderr: String,
}

/// The answer to a request.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchAnswer {
    /// How it went.
    pub report: LaunchReport,
    /// Whether the launcher takes another request. It ends otherwise.
    pub reusable: bool,
}

/// How it went.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaunchReport {
    /// The command ran and ended with this code; 128 and the signal's number if a signal ended it.
    Exited(i32),
    /// Everything is set up, but the command itself cannot be executed.
    CommandNotStarted(
        /// Its name and the system's reason.
        String,
    ),
    /// A step before the command failed.
    Failed {
        /// Which step.
        step: String,
        /// The system's reason.
        reason: String,
    },
}

struct Failure {
    step: String,
    source: io::Error,
}

impl From<Failure> for LaunchReport {
    fn from(failure: Failure) -> Self {
        Self::Failed {
            step: failure.step,
            reason: failure.source.to_string(),
        }
    }
}

fn step<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let step = step.into();
    move |source| Failure {
        step,
        source: source.into(),
    }
}

/// Runs the launcher. To be called at the very start of a process, before any thread is started. It takes no
/// arguments; `arguments` are there to complain about.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let reason = arguments.into_iter().next().map(|argument| Failure {
        step: "read the arguments".into(),
        source: io::Error::other(format!(
            "unexpected argument {}; the sandbox launcher is started by the worker",
            argument.display()
        )),
    });
    match reason.map_or_else(serve, Err) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // When nobody listens any more, that is all.
            let _ = send(&LaunchAnswer {
                report: failure.into(),
                reusable: false,
            });
            ExitCode::FAILURE
        }
    }
}

fn control() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn send(answer: &LaunchAnswer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    control()?.write_all(&line)
}

/// The next message of the worker; `None` when it wants no more.
fn receive<T: DeserializeOwned>(messages: &mut impl BufRead) -> Result<Option<T>, Failure> {
    let mut line = String::new();
    if messages.read_line(&mut line).map_err(step("read the request"))? == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line)
        .map(Some)
        .map_err(step("read the request"))
}

/// Takes requests until the worker wants no more.
fn serve() -> Result<(), Failure> {
    close_inherited().map_err(step("close inherited file descriptors"))?;
    let control = control().map_err(step(
        "open the control socket; the worker starts the sandbox launcher",
    ))?;
    let launcher = pidfd_open(getpid(), PidfdFlags::empty()).map_err(step("refer to this process"))?;
    let outside = Outside {
        worker: control.try_clone().map_err(step("open the control socket"))?,
        launcher,
        memory: MemorySettings::of_this_process(),
        filters: SystemCallFilters::new()?,
    };
    let mut messages = BufReader::new(control);
    let Some(setup) = receive::<LauncherSetup>(&mut messages)? else {
        return Ok(());
    };
    let mut stack = Stack::new().map_err(step("make a stack"))?;
    let mut ready = false;
    while let Some(request) = receive::<LaunchRequest>(&mut messages)? {
        // With the first request, so that somebody waits for the answer if it fails.
        if !ready {
            enter_namespaces(setup.network)?;
            root::enter(&setup.bubblewrap)?;
            if setup.network {
                network::leave_sockets_of_others().map_err(step("restrict abstract Unix sockets"))?;
            }
            ready = true;
        }
        let Some(report) = launch(&outside, &request, &mut stack)? else {
            // Nobody listens any more.
            return Ok(());
        };
        let reusable = setup.network || network::is_unused().map_err(step("look at the network"))?;
        send(&LaunchAnswer { report, reusable }).map_err(step("answer the worker"))?;
        if !reusable {
            return Ok(());
        }
    }
    Ok(())
}

/// Runs one command to its end, and to that of all its processes. `None` when the worker lost interest.
fn launch(
    outside: &Outside,
    request: &LaunchRequest,
    stack: &mut Stack,
) -> Result<Option<LaunchReport>, Failure> {
    clone::in_new_namespaces(stack, || command::run(request, outside))
        .map_err(step("start a process in new namespaces"))
}

/// Closes what some ancestor of the worker left open: it is none of the command's business.
fn close_inherited() -> io::Result<()> {
    let mut descriptors: Vec<i32> = vec![];
    for entry in fs::read_dir("/proc/self/fd")? {
        descriptors.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok()),
        );
    }
    for descriptor in descriptors.into_iter().filter(|descriptor| *descriptor > 2) {
        // The one that the listing itself used is closed by now.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// New user and mount namespaces in which this process is root over what belongs to the worker's user, and unless the
/// commands are to see the machine's `network`, one with loopback alone.
fn enter_namespaces(network: bool) -> Result<(), Failure> {
    let (uid, gid) = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(step("unshare user and mount namespaces"))?;
    let write = |path: &str, text: String| fs::write(path, text).map_err(step(format!("write {path}")));
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    let none: Option<&str> = None;
    // Slaves: what the machine mounts and unmounts later happens here too, and nothing from here happens there.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(step("make the mounts of the new namespace private"))?;
    if !network {
        unshare(CloneFlags::CLONE_NEWNET).map_err(step("unshare the network namespace"))?;
        network::raise_loopback().map_err(step("set up loopback"))?;
    }
    // Older kernels lack it, and some machines forbid it.
    let _ = unshare(CloneFlags::CLONE_NEWCGROUP);
    // With one of its own a command could mount the worker's cgroup, and change it if that belongs to the worker's user.
    match fs::write("/proc/sys/user/max_cgroup_namespaces", "0") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(step("forbid further cgroup namespaces")(error))
        }
        _ => Ok(()),
    }
}
