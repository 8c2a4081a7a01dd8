//! One sandbox launcher, as the worker sees it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Stdio;

use bitzel_launcher::{LaunchAnswer, LaunchRequest, LauncherSetup};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::launcher_program::LauncherProgram;
use crate::error::Error;

/// One launcher process. Dropping it kills what it runs and ends it, without waiting for that.
#[derive(Debug)]
pub(super) struct Launcher {
    process: Child,
    control: BufReader<UnixStream>,
    /// Encoded setup, which is sent together with the first request.
    pending_setup: Vec<u8>,
    /// True if its commands have access to this machine's network.
    network: bool,
}

impl Launcher {
    /// Starts a launcher in the worker's `directory`: requests have paths relative to that.
    pub(super) fn start(
        program: &LauncherProgram,
        directory: &Path,
        setup: &LauncherSetup,
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
            .map_err(|error| Error::Sandbox(format!("start the sandbox launcher: {error}")))?;
        Ok(Self {
            process,
            control: BufReader::new(ours),
            pending_setup,
            network: setup.network,
        })
    }

    /// True if its commands have access to this machine's network.
    pub(super) fn has_network(&self) -> bool {
        self.network
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
            mut process, control, ..
        } = self;
        // When this end closes, the launcher kills the sandbox and exits after the last process.
        drop(control);
        process
            .wait()
            .await
            .map(drop)
            .map_err(Error::io("wait for the sandbox launcher"))
    }
}

/// Appends a message of the protocol.
fn encode(message: &impl serde::Serialize, bytes: &mut Vec<u8>) -> Result<(), String> {
    serde_json::to_writer(&mut *bytes, message)
        .map_err(|error| format!("encode a message to the sandbox launcher: {error}"))?;
    bytes.push(b'\n');
    Ok(())
}
