//! Launchers that wait for their next command.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::bubblewrap::HostFileSystem;
use crate::error::Error;
use crate::launcher::{LaunchAnswer, LaunchRequest, LauncherSetup};
use crate::worker_directories::WorkerDirectories;

/// Starts launchers, and keeps those that are idle. There are never more than commands ran at the same time.
#[derive(Debug)]
pub(super) struct Launchers {
    /// A program and its arguments.
    command: Vec<OsString>,
    /// Launchers start in its root: requests have paths relative to that.
    scratch: Arc<WorkerDirectories>,
    /// What their commands see.
    host: HostFileSystem,
    idle: Mutex<Vec<Launcher>>,
}

/// One launcher. Dropping it kills what it runs and ends it, without waiting for that.
#[derive(Debug)]
pub(super) struct Launcher {
    process: Child,
    control: BufReader<UnixStream>,
    /// What goes before the first request.
    unsent: Vec<u8>,
    network: bool,
}

impl Launchers {
    pub(super) fn new(command: Vec<OsString>, scratch: Arc<WorkerDirectories>, host: HostFileSystem) -> Self {
        Self {
            command,
            scratch,
            host,
            idle: Mutex::default(),
        }
    }

    /// An idle launcher for commands with or without this machine's network, or a new one. Nobody else has it.
    pub(super) fn take(&self, network: bool) -> Result<Launcher, Error> {
        while let Some(mut launcher) = self.take_idle(network) {
            // One that somebody killed is no failure of the next command.
            if let Ok(None) = launcher.process.try_wait() {
                return Ok(launcher);
            }
        }
        self.start(network)
    }

    fn take_idle(&self, network: bool) -> Option<Launcher> {
        let mut idle = self.idle.lock();
        let index = idle.iter().rposition(|launcher| launcher.network == network)?;
        Some(idle.swap_remove(index))
    }

    /// Keeps a launcher that said that it can be used again.
    pub(super) fn put_back(&self, launcher: Launcher) {
        self.idle.lock().push(launcher);
    }

    fn start(&self, network: bool) -> Result<Launcher, Error> {
        let socket = || Error::io("make a socket pair");
        let (ours, theirs) = StdUnixStream::pair().map_err(socket())?;
        let mut setup = serde_json::to_vec(&LauncherSetup {
            bubblewrap: self.host.bubblewrap_arguments(network),
            network,
        })
        .map_err(|error| Error::Sandbox(format!("encode the setup: {error}")))?;
        setup.push(b'\n');
        ours.set_nonblocking(true).map_err(socket())?;
        let ours = UnixStream::from_std(ours).map_err(socket())?;
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| Error::Sandbox("no sandbox launcher is configured".into()))?;
        let _alone = self.scratch.process_start_guard();
        let process = Command::new(program)
            .args(arguments)
            .current_dir(self.scratch.cache())
            // What else the worker has in its environment, such as tokens, is nothing that a sandbox needs.
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Ctrl-C in a terminal is the worker's to handle.
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
            .map_err(|error| {
                Error::Sandbox(format!(
                    "start the sandbox launcher {}: {error}",
                    program.to_string_lossy()
                ))
            })?;
        Ok(Launcher {
            process,
            control: BufReader::new(ours),
            unsent: setup,
            network,
        })
    }
}

impl Launcher {
    /// Runs a command. The error says why there is no answer; the launcher is of no use then.
    pub(super) async fn launch(&mut self, request: &LaunchRequest) -> Result<LaunchAnswer, String> {
        let mut line = std::mem::take(&mut self.unsent);
        serde_json::to_writer(&mut line, request).map_err(|error| format!("encode the request: {error}"))?;
        line.push(b'\n');
        let mut answer = String::new();
        let talk = async {
            self.control.write_all(&line).await?;
            self.control.read_line(&mut answer).await
        };
        talk.await
            .map_err(|error| format!("talk to the sandbox launcher: {error}"))?;
        serde_json::from_str(&answer).map_err(|_| "the sandbox launcher ended without an answer".into())
    }

    /// Ends it and waits until it and all processes of the sandbox are gone.
    pub(super) async fn end(self) -> Result<(), Error> {
        let Self {
            mut process, control, ..
        } = self;
        // The launcher kills the sandbox when this end closes, and itself ends after the last process.
        drop(control);
        process
            .wait()
            .await
            .map(drop)
            .map_err(Error::io("wait for the sandbox launcher"))
    }
}
