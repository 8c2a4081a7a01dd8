//! The launcher's own process: takes requests, forks a supervisor for each, and answers.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bitzel_launcher::{LaunchAnswer, LaunchReport, LaunchRequest, LauncherSetup, Network, WatchedBound};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, waitid,
};

use crate::control::Control;
use crate::disk_watch::DiskWatch;
use crate::failure::{Failure, InStep as _};
use crate::image_root::mount_image_root;
use crate::limits::UserLimits;
use crate::raw_calls::{Fork, fork_into};
use crate::supervisor::{self, SupervisorHandles};
use crate::system_calls::SystemCallFilters;
use crate::{limits, namespaces, network, shared_file_system};

/// Namespaces that each command has for itself. The user namespace follows when they are set up, see
/// [`crate::confinement::drop_privileges`].
const NAMESPACES_OF_A_COMMAND: libc::c_int = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;

/// Takes requests until the worker closes its end, or until one of them makes this launcher unfit for the next.
pub(crate) fn serve() -> Result<(), Failure> {
    let mut control = Control::open()?;
    let Some(setup) = control.receive::<LauncherSetup>()? else {
        return Ok(());
    };
    let mut handles = SupervisorHandles {
        launcher: pidfd_open(getpid(), PidfdFlags::empty()).in_step("refer to this process")?,
        report: memfd_create("report", MemfdFlags::CLOEXEC)
            .map(File::from)
            .in_step("create a file in memory")?,
        filters: SystemCallFilters::new()?,
        bounds: setup.bounds,
    };
    let network = setup.network.clone();
    let mut setup = Some(setup);
    while let Some(request) = control.receive::<LaunchRequest>()? {
        // Not before the first request, because a failure is an answer to that.
        if let Some(setup) = setup.take() {
            prepare(&setup)?;
        }
        let Some((report, peak_disk_bytes)) = launch(&request, &mut handles, &control)? else {
            return Ok(());
        };
        let reusable = match network {
            Network::Loopback => network::has_no_sockets().in_step("look at the network")?,
            // pasta remembers what the command sent, and would deliver late answers to the next one.
            Network::Isolated(_) => false,
            Network::Host => true,
        };
        control
            .send(&LaunchAnswer {
                report,
                reusable,
                peak_disk_bytes,
            })
            .in_step("answer the worker")?;
        if !reusable {
            return Ok(());
        }
    }
    Ok(())
}

/// Makes what all commands share.
fn prepare(setup: &LauncherSetup) -> Result<(), Failure> {
    limits::prefer_as_victim();
    let user_limits = UserLimits::read();
    namespaces::enter(&setup.network)?;
    user_limits.share()?;
    if let Some(image_root) = &setup.image_root {
        mount_image_root(image_root)?;
    }
    shared_file_system::enter(&setup.bubblewrap, &setup.files)?;
    limits::limit_resources(&setup.bounds).in_step("limit the resources of commands")?;
    if setup.network == Network::Host {
        network::restrict_abstract_sockets().in_step("restrict abstract Unix sockets")?;
    }
    Ok(())
}

/// Runs one command to its end, and to that of all its processes. `None` if the worker has closed its end, or if
/// somebody killed the supervisor. With the report comes the most space on disk that was found.
fn launch(
    request: &LaunchRequest,
    handles: &mut SupervisorHandles,
    control: &Control,
) -> Result<Option<(LaunchReport, u64)>, Failure> {
    match fork_into(NAMESPACES_OF_A_COMMAND).in_step("start a process in new namespaces")? {
        Fork::Child => supervisor::main(request, handles),
        Fork::Parent(supervisor) => {
            let mut watch = DiskWatch::start(request, &handles.bounds);
            let ended = wait_for(&supervisor, control, &mut watch).in_step("wait for the command")?;
            // What the supervisor reports is older than the kill of this process.
            let report = handles.take_report().in_step("read the supervisor's report")?;
            let report = match ended {
                Ended::OfItself => report,
                Ended::Killed => None,
                Ended::Exceeded(bound, used) => Some(LaunchReport::BoundReached { bound, used }),
            };
            Ok(report.map(|report| (report, watch.peak_bytes())))
        }
    }
}

/// End of a supervisor.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    OfItself,
    /// By this process, because the worker has closed its end, or by somebody else.
    Killed,
    /// By this process, because the command exceeded a bound.
    Exceeded(WatchedBound, u64),
}

/// Waits for a process. Kills it when the worker closes its end, or when the command exceeds a bound.
fn wait_for(process: &OwnedFd, control: &Control, watch: &mut DiskWatch<'_>) -> io::Result<Ended> {
    let mut exceeded = None;
    while !is_ready(process, control, watch.pause())? {
        exceeded = watch.look(|| is_ready(process, control, Some(Duration::ZERO)).unwrap_or(true));
        if exceeded.is_some() {
            break;
        }
    }
    // It fails if the process has ended meanwhile.
    let has_ended = poll(
        &mut [PollFd::new(process, PollFlags::IN)],
        Some(&timespec(Duration::ZERO)),
    )? > 0;
    if !has_ended {
        pidfd_send_signal(process, Signal::KILL)?;
    }
    loop {
        match waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            Ok(status) => {
                return Ok(match exceeded {
                    Some((bound, used)) => Ended::Exceeded(bound, used),
                    None if status.is_some_and(|status| status.exit_status() == Some(0)) => Ended::OfItself,
                    None => Ended::Killed,
                });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits, at most for `timeout`, until a process has ended or the worker has closed its end.
fn is_ready(process: &OwnedFd, control: &Control, timeout: Option<Duration>) -> io::Result<bool> {
    let mut descriptors = [
        PollFd::new(process, PollFlags::IN),
        PollFd::from_borrowed_fd(control.as_fd(), PollFlags::RDHUP),
    ];
    match poll(&mut descriptors, timeout.map(timespec).as_ref()) {
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
        Ok(ready) => Ok(ready > 0),
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
