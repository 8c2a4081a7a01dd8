//! The launcher's own process: takes requests, forks a supervisor for each, and answers.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bitzel_launcher::{LaunchAnswer, LaunchReport, LaunchRequest, LauncherSetup};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, waitid,
};

use crate::control::Control;
use crate::failure::{Failure, InStep as _};
use crate::raw_calls::{Fork, fork_into};
use crate::supervisor::{self, SupervisorHandles};
use crate::system_calls::SystemCallFilters;
use crate::{namespaces, network, shared_file_system};

/// Namespaces that each command has for itself. The user namespace follows when they are set up, see
/// [`crate::confinement::drop_privileges`].
const NAMESPACES_OF_A_COMMAND: libc::c_int = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;

/// Takes requests until the worker closes its end, or until one of them makes this launcher unfit for the next.
pub(crate) fn serve() -> Result<(), Failure> {
    let mut control = Control::open()?;
    let mut handles = SupervisorHandles {
        launcher: pidfd_open(getpid(), PidfdFlags::empty()).in_step("refer to this process")?,
        report: memfd_create("report", MemfdFlags::CLOEXEC)
            .map(File::from)
            .in_step("create a file in memory")?,
        filters: SystemCallFilters::new()?,
    };
    let Some(setup) = control.receive::<LauncherSetup>()? else {
        return Ok(());
    };
    let network = setup.network;
    let mut setup = Some(setup);
    while let Some(request) = control.receive::<LaunchRequest>()? {
        // Not before the first request, because a failure is an answer to that.
        if let Some(setup) = setup.take() {
            prepare(&setup)?;
        }
        let Some(report) = launch(&request, &mut handles, &control)? else {
            return Ok(());
        };
        let reusable = network || network::has_no_sockets().in_step("look at the network")?;
        control
            .send(&LaunchAnswer { report, reusable })
            .in_step("answer the worker")?;
        if !reusable {
            return Ok(());
        }
    }
    Ok(())
}

/// Makes what all commands share.
fn prepare(setup: &LauncherSetup) -> Result<(), Failure> {
    namespaces::enter(setup.network)?;
    shared_file_system::enter(&setup.bubblewrap)?;
    if setup.network {
        network::restrict_abstract_sockets().in_step("restrict abstract Unix sockets")?;
    }
    Ok(())
}

/// Runs one command to its end, and to that of all its processes. `None` if the worker has closed its end, or if
/// somebody killed the supervisor.
fn launch(
    request: &LaunchRequest,
    handles: &mut SupervisorHandles,
    control: &Control,
) -> Result<Option<LaunchReport>, Failure> {
    match fork_into(NAMESPACES_OF_A_COMMAND).in_step("start a process in new namespaces")? {
        Fork::Child => supervisor::main(request, handles),
        Fork::Parent(supervisor) => {
            let ended = wait_for(&supervisor, control).in_step("wait for the command")?;
            if ended == Ended::OfItself {
                handles.take_report().in_step("read the supervisor's report")
            } else {
                Ok(None)
            }
        }
    }
}

/// End of a supervisor.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    OfItself,
    Killed,
}

/// Waits for a process; kills it when the worker closes its end.
fn wait_for(process: &OwnedFd, control: &Control) -> io::Result<Ended> {
    let mut descriptors = [
        PollFd::new(process, PollFlags::IN),
        PollFd::from_borrowed_fd(control.as_fd(), PollFlags::RDHUP),
    ];
    while let Err(error) = poll(&mut descriptors, None) {
        if error != Errno::INTR {
            return Err(error.into());
        }
    }
    if descriptors[0].revents().is_empty() {
        pidfd_send_signal(process, Signal::KILL)?;
    }
    loop {
        match waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            Ok(Some(status)) if status.exit_status() == Some(0) => return Ok(Ended::OfItself),
            Ok(_) => return Ok(Ended::Killed),
            Err(error) => return Err(error.into()),
        }
    }
}
