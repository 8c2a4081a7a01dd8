//! Sandbox of a portable Action: the namespaces of the launcher, without bubblewrap.

use std::fs::File;
use std::path::Path;

use bitzel_launcher::portable::PortableRequest;
use bitzel_launcher::{INPUT_ROOT, LaunchReport, LaunchRequest, Network, WatchedBounds};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, waitid};
use rustix::system::sethostname;
use rustix::thread::UnshareFlags;
use std::os::fd::{AsFd as _, OwnedFd};

use super::root_mounts;
use crate::confinement::die_with_launcher;
use crate::failure::{Failure, InStep as _};
use crate::namespaces;
use crate::raw_calls::{self, Fork, fork_into, unshare};
use crate::supervisor::{self, SupervisorHandles};
use crate::system_calls::SystemCallFilters;

/// Namespaces that the command has for itself, as on workers of bitzel.
const NAMESPACES_OF_THE_COMMAND: libc::c_int = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;
const HOST_NAME: &[u8] = b"bitzel";

/// Runs the command of the request on `scratch/tree`, with its logs beside that, and waits for the end of its processes.
///
/// Another process enters the namespaces: this one goes on to see the whole directory of the Action.
pub(super) fn run_in_sandbox(
    request: &PortableRequest,
    scratch: &Path,
    image_root: Option<&Path>,
) -> Result<LaunchReport, Failure> {
    let mut handles = SupervisorHandles {
        launcher: pidfd_open(getpid(), PidfdFlags::empty()).in_step("refer to this process")?,
        report: memfd_create("report", MemfdFlags::CLOEXEC)
            .map(File::from)
            .in_step("create a file in memory")?,
        filters: SystemCallFilters::new()?,
        bounds: WatchedBounds::default(),
    };
    match fork_into(0).in_step("start a process")? {
        Fork::Child => {
            let report = enter_and_run(request, scratch, image_root, &mut handles);
            let report = report.unwrap_or_else(|failure| Some(failure.into()));
            let written = report.map(|report| serde_json::to_writer(&handles.report, &report));
            raw_calls::exit(i32::from(matches!(written, Some(Err(_)))))
        }
        Fork::Parent(process) => {
            wait(&process).in_step("wait for the sandbox")?;
            let report = handles.take_report().in_step("read the supervisor's report")?;
            report.ok_or_else(|| Failure::new("run the command", "its sandbox was killed"))
        }
    }
}

/// Enters the namespaces and runs the command. `None` if the supervisor has written the report.
fn enter_and_run(
    request: &PortableRequest,
    scratch: &Path,
    image_root: Option<&Path>,
    handles: &mut SupervisorHandles,
) -> Result<Option<LaunchReport>, Failure> {
    let network = if request.network {
        Network::Host
    } else {
        Network::Loopback
    };
    namespaces::enter(&network)?;
    unshare(UnshareFlags::NEWUTS).in_step("unshare the UTS namespace")?;
    sethostname(HOST_NAME).in_step("set the host name")?;
    root_mounts::enter(scratch, image_root, request.network)?;
    die_with_launcher()?;
    handles.launcher = pidfd_open(getpid(), PidfdFlags::empty()).in_step("refer to this process")?;
    let working_directory = match request.working_directory.as_str() {
        "" => INPUT_ROOT.to_owned(),
        relative => format!("{INPUT_ROOT}/{relative}"),
    };
    let request = LaunchRequest {
        lower_directories: vec![],
        upper_directory: "tree".into(),
        overlay_work_directory: String::new(),
        command: request.command.clone(),
        environment: request.environment.clone(),
        working_directory,
        user_namespaces: request.user_namespaces,
        in_input_root: false,
        stdout: "stdout".into(),
        stderr: "stderr".into(),
    };
    match fork_into(NAMESPACES_OF_THE_COMMAND).in_step("start a process in new namespaces")? {
        Fork::Child => supervisor::main(&request, handles),
        Fork::Parent(supervisor) => {
            wait(&supervisor).in_step("wait for the command")?;
            Ok(None)
        }
    }
}

fn wait(process: &OwnedFd) -> std::io::Result<()> {
    loop {
        match waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}
