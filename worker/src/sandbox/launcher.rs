//! One sandbox launcher, as the worker sees it.

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;
use bitzel_launcher::{LaunchAnswer, LaunchRequest, LauncherSetup, Network};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::launcher_program::LauncherProgram;
use super::usage_meter::UsageMeter;
use crate::cgroup::{Cgroup, CgroupEvents};
use crate::error::{Error, is_exhaustion};
use crate::image_root::ImageRoot;

/// One launcher process. Dropping it kills what it runs and ends it, without waiting for that.
#[derive(Debug)]
pub(super) struct Launcher {
    process: Child,
    control: BufReader<UnixStream>,
    /// Encoded setup, which is sent together with the first request.
    pending_setup: Vec<u8>,
    /// True if its commands have a network beside loopback.
    network: bool,
    /// Root file system of its commands, which stays in place while the launcher exists. `None` for that of this machine.
    image_root: Option<Arc<ImageRoot>>,
    /// Control group of the launcher and its commands.
    cgroup: Option<Cgroup>,
}

impl Launcher {
    /// Starts a launcher in the worker's `directory`: requests have paths relative to that.
    pub(super) fn start(
        program: &LauncherProgram,
        directory: &Path,
        setup: &LauncherSetup,
        image_root: Option<Arc<ImageRoot>>,
        cgroup: Option<Cgroup>,
    ) -> Result<Self, Error> {
        let socket = || Error::io("make a socket pair");
        let (ours, theirs) = StdUnixStream::pair().map_err(socket())?;
        ours.set_nonblocking(true).map_err(socket())?;
        let ours = UnixStream::from_std(ours).map_err(socket())?;
        let mut pending_setup = vec![];
        encode(setup, &mut pending_setup).map_err(Error::Sandbox)?;
        let process = Command::new(program.path())
            .arg0("bitzel-launcher")
            .current_dir(directory)
            // The rest of the worker's environment may have secrets, such as tokens, and a sandbox needs none of it.
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Ctrl-C in a terminal is the worker's to handle.
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
            .map_err(|error| failed("start the sandbox launcher", &error, error.raw_os_error()))?;
        if let (Some(cgroup), Some(process)) = (&cgroup, process.id()) {
            // Before the first request, so all that it starts is in the group.
            cgroup
                .admit(process)
                .map_err(Error::io("move the sandbox launcher to its control group"))?;
        }
        Ok(Self {
            process,
            control: BufReader::new(ours),
            pending_setup,
            network: setup.network != Network::Loopback,
            image_root,
            cgroup,
        })
    }

    /// True if its commands have or have not a `network` beside loopback, and run in this root file system.
    pub(super) fn serves(&self, network: bool, image_root: Option<&Arc<ImageRoot>>) -> bool {
        let digest = |root: Option<&Arc<ImageRoot>>| root.map(|root| root.digest());
        self.network == network && digest(self.image_root.as_ref()) == digest(image_root)
    }

    /// True if its commands run in an image root.
    pub(super) fn has_image_root(&self) -> bool {
        self.image_root.is_some()
    }

    /// How often its control group has reached its limits.
    pub(super) fn events(&self) -> CgroupEvents {
        self.cgroup.as_ref().map(Cgroup::events).unwrap_or_default()
    }

    /// Starts the measurement of its next command.
    pub(super) fn meter(&self) -> Option<UsageMeter> {
        UsageMeter::start(self.cgroup.as_ref().map(Cgroup::files), self.process.id())
    }

    /// True if the process has not ended.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Runs a command. After an error, which says why there is no answer, the launcher cannot be used again.
    pub(super) async fn launch(&mut self, request: &LaunchRequest) -> Result<LaunchAnswer, String> {
        let mut messages = std::mem::take(&mut self.pending_setup);
        encode(request, &mut messages)?;
        let mut answer = String::new();
        let exchange = async {
            self.control.write_all(&messages).await?;
            self.control.read_line(&mut answer).await
        };
        exchange
            .await
            .map_err(|error| format!("talk to the sandbox launcher: {error}"))?;
        serde_json::from_str(&answer).map_err(|_| "the sandbox launcher ended without an answer".into())
    }

    /// Ends it and waits until it and all processes of the sandbox have ended.
    pub(super) async fn end(self) -> Result<(), Error> {
        let Self {
            mut process,
            control,
            cgroup,
            image_root,
            ..
        } = self;
        // When this end closes, the launcher kills the sandbox and exits after the last process.
        drop(control);
        let ended = process.wait().await;
        // Not before its mounts are gone.
        drop(image_root);
        if let Some(cgroup) = cgroup {
            run_blocking(move || cgroup.end()).await;
        }
        ended
            .map(drop)
            .map_err(Error::io("wait for the sandbox launcher"))
    }
}

/// A step that failed on the way to a command, with the number of the system's error if there is one.
pub(super) fn failed(step: &str, reason: &dyn Display, errno: Option<i32>) -> Error {
    let reason = format!("{step}: {reason}");
    match errno {
        Some(errno) if is_exhaustion(errno) => Error::Exhausted(reason),
        _ => Error::Sandbox(reason),
    }
}

/// Appends a message of the protocol.
fn encode(message: &impl serde::Serialize, bytes: &mut Vec<u8>) -> Result<(), String> {
    serde_json::to_writer(&mut *bytes, message)
        .map_err(|error| format!("encode a message to the sandbox launcher: {error}"))?;
    bytes.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_used_up_resources_from_other_failures() {
        let (no_more_files, no_more_keys, denied) = (24, 122, 13);
        for errno in [no_more_files, no_more_keys] {
            let error = failed("make a sandbox", &"reason", Some(errno));
            assert!(
                matches!(&error, Error::Exhausted(text) if text == "make a sandbox: reason"),
                "{error}"
            );
        }
        for errno in [Some(denied), None] {
            let error = failed("make a sandbox", &"reason", errno);
            assert!(matches!(error, Error::Sandbox(_)), "{error}");
        }
    }
}
