//! The process between the worker and bubblewrap.
//!
//! A mount namespace can only be entered by a process with one thread, so the worker starts itself again as this
//! launcher. It reads a [`LaunchRequest`] from its standard input (a socket), stacks the overlay, runs bubblewrap and
//! answers with a [`LaunchAnswer`] on the same socket; then it waits for the next request. The namespaces that it
//! enters with the first request (user, mount, and a network with nothing but loopback) serve all the following ones,
//! one after the other: making and destroying them is most of what a small Action costs. What makes that safe is in
//! `docs/decisions/0023-launchers-are-reused.md`.
//!
//! A launcher answers only when no process of the sandbox is left: it is the reaper of orphans. When the worker's end
//! of the socket closes, because the worker cancels or dies, it kills the sandbox, waits until all of it is gone, and
//! ends. When the launcher is killed itself, bubblewrap dies with it (`--die-with-parent`), and with bubblewrap the
//! process-id namespace of the command.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_child_subreaper;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, wait as wait_for_any};
use serde::{Deserialize, Serialize};

mod network;

/// What to run. Paths are relative to the launcher's working directory, so that many layers fit into the 4,096 bytes
/// that the kernel takes as options of a mount.
#[derive(Debug, Serialize, Deserialize)]
pub struct LaunchRequest {
    /// Lower layers of the overlay, uppermost first; at least one.
    pub lower: Vec<String>,
    /// Upper directory of the overlay.
    pub upper: String,
    /// Empty directory for overlayfs itself, on the same file system as `upper`.
    pub work: String,
    /// Empty directory where the overlay is mounted.
    pub merged: String,
    /// Arguments of bubblewrap without the command.
    pub bubblewrap: Vec<String>,
    /// The command that bubblewrap runs.
    pub command: Vec<String>,
    /// File for standard output. It exists.
    pub stdout: String,
    /// File for standard error, the command's and bubblewrap's. It exists.
    pub stderr: String,
    /// Whether the command sees this machine's network. The same in all requests to a launcher.
    pub network: bool,
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
    /// Everything is set up, but the command itself cannot be executed. The reason is in standard error.
    CommandNotStarted,
    /// bubblewrap ended before it came to the command. The reason is in standard error.
    BubblewrapFailed,
    /// A step before bubblewrap failed.
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
                report: LaunchReport::Failed {
                    step: failure.step,
                    reason: failure.source.to_string(),
                },
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

/// Takes requests until the worker wants no more.
fn serve() -> Result<(), Failure> {
    close_inherited().map_err(step("close inherited file descriptors"))?;
    let control = control().map_err(step(
        "open the control socket; the worker starts the sandbox launcher",
    ))?;
    let mut requests = BufReader::new(&control);
    let mut entered = None;
    loop {
        let mut line = String::new();
        if requests.read_line(&mut line).map_err(step("read the request"))? == 0 {
            return Ok(());
        }
        let request: LaunchRequest = serde_json::from_str(&line).map_err(step("read the request"))?;
        match entered {
            None => enter_namespaces(request.network)?,
            Some(network) if network == request.network => {}
            Some(_) => {
                return Err(step("choose a network")(io::Error::other(
                    "a launcher cannot change its network",
                )));
            }
        }
        entered = Some(request.network);
        let Some(report) = launch(&control, &request)? else {
            // Nobody listens any more.
            return Ok(());
        };
        let reusable = request.network || network::is_unused().map_err(step("look at the network"))?;
        send(&LaunchAnswer { report, reusable }).map_err(step("answer the worker"))?;
        if !reusable {
            return Ok(());
        }
    }
}

/// Runs one command to its end, and to that of all its processes. `None` when the worker lost interest.
fn launch(control: &UnixStream, request: &LaunchRequest) -> Result<Option<LaunchReport>, Failure> {
    mount_overlay(request)?;
    let (mut child, status) = start(request)?;
    let finished = wait(control, &child).map_err(step("wait for bubblewrap"))?;
    if !finished {
        child.kill().map_err(step("kill bubblewrap"))?;
    }
    let exit = child.wait().map_err(step("wait for bubblewrap"))?;
    reap_orphans().map_err(step("end the processes of the sandbox"))?;
    // No process is left that could have something open there: anything but success means that this is not so.
    umount2(request.merged.as_str(), MntFlags::UMOUNT_NOFOLLOW).map_err(step("unmount the overlay"))?;
    if !finished {
        return Ok(None);
    }
    read_status(status, exit.success()).map(Some)
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
    // After the change of identity, which would undo it. Orphans of sandboxes come to this process.
    set_child_subreaper(true).map_err(step("become the reaper of the sandbox"))
}

fn mount_overlay(request: &LaunchRequest) -> Result<(), Failure> {
    // `userxattr`: without privileges over the machine, overlayfs keeps its notes in user.* attributes.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr",
        request.lower.join(":"),
        request.upper,
        request.work
    );
    mount(
        Some("overlay"),
        request.merged.as_str(),
        Some("overlay"),
        MsFlags::MS_NODEV | MsFlags::MS_NOSUID,
        Some(options.as_str()),
    )
    .map_err(step(format!(
        "mount an overlay of {} layers",
        request.lower.len()
    )))
}

/// Starts bubblewrap. The other end of the returned pipe carries its status messages.
fn start(request: &LaunchRequest) -> Result<(Child, io::PipeReader), Failure> {
    let failed = || step("start bubblewrap");
    let (reader, writer) = io::pipe().map_err(failed())?;
    let arguments = arguments_file(&request.bubblewrap).map_err(step("pass arguments to bubblewrap"))?;
    for descriptor in [writer.as_fd(), arguments.as_fd()] {
        // No thread but this one runs, so nothing else can inherit them by accident.
        fcntl_setfd(descriptor, FdFlags::empty()).map_err(step("start bubblewrap"))?;
    }
    let open = |path: &str| {
        let file = fs::OpenOptions::new().append(true).open(path);
        file.map_err(step(format!("open {path}")))
    };
    let child = Command::new("bwrap")
        .arg("--json-status-fd")
        .arg(writer.as_raw_fd().to_string())
        .arg("--args")
        .arg(arguments.as_raw_fd().to_string())
        .arg("--")
        .args(&request.command)
        .stdin(Stdio::null())
        .stdout(open(&request.stdout)?)
        .stderr(open(&request.stderr)?)
        .spawn()
        .map_err(failed())?;
    Ok((child, reader))
}

/// A file in memory with NUL-terminated arguments, which has no limit in size as an argument list has.
fn arguments_file(arguments: &[String]) -> io::Result<OwnedFd> {
    let file = memfd_create("bubblewrap-arguments", MemfdFlags::CLOEXEC)?;
    let mut file = fs::File::from(file);
    for argument in arguments {
        file.write_all(argument.as_bytes())?;
        file.write_all(b"\0")?;
    }
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// Waits for the end of bubblewrap (`true`) or of the worker's interest (`false`).
fn wait(control: &UnixStream, child: &Child) -> io::Result<bool> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let mut descriptors = [
            PollFd::new(&ended, PollFlags::IN),
            PollFd::new(control, PollFlags::IN | PollFlags::RDHUP),
        ];
        match poll(&mut descriptors, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        if !descriptors[0].revents().is_empty() {
            return Ok(true);
        }
        if !descriptors[1].revents().is_empty() {
            return Ok(false);
        }
    }
}

/// Ends what is left of the sandbox when bubblewrap has ended, and waits until nothing is.
///
/// Mostly that is nothing. But bubblewrap that is killed while it sets up leaves a process that does not yet die with
/// its parent, and waits for a word from it.
fn reap_orphans() -> io::Result<()> {
    loop {
        match wait_for_any(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => {
                for child in children()? {
                    // One that has just ended cannot be killed any more; its number is taken until it is waited for.
                    let _ = kill_process(child, Signal::KILL);
                }
                // The first process of a namespace ends after all the others in it.
                let _ = wait_for_any(WaitOptions::empty());
            }
            Err(Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The processes whose parent this process is, born or adopted.
fn children() -> io::Result<Vec<Pid>> {
    let parent = std::process::id().to_string();
    let mut children = vec![];
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw)
        else {
            continue;
        };
        // `pid (name) state parent …`; the name may contain anything. A process may end meanwhile.
        let status = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        let status = String::from_utf8_lossy(&status);
        let after_name = status.rsplit_once(')').map_or("", |(_, rest)| rest);
        if after_name.split_whitespace().nth(1) == Some(&parent) {
            children.push(pid);
        }
    }
    Ok(children)
}

fn read_status(mut status: io::PipeReader, success: bool) -> Result<LaunchReport, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Status {
        child_pid: Option<i64>,
        exit_code: Option<i32>,
    }
    let mut text = String::new();
    status
        .read_to_string(&mut text)
        .map_err(step("read the status of bubblewrap"))?;
    let mut started = false;
    for document in serde_json::Deserializer::from_str(&text).into_iter::<Status>() {
        let document = document.map_err(step("read the status of bubblewrap"))?;
        if let Some(code) = document.exit_code {
            return Ok(LaunchReport::Exited(code));
        }
        started |= document.child_pid.is_some();
    }
    Ok(if started && !success {
        LaunchReport::CommandNotStarted
    } else {
        LaunchReport::BubblewrapFailed
    })
}
