//! Runs one command in namespaces of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use crate::blocking;
use crate::error::Error;
use crate::launcher::{LaunchReport, LaunchRequest};
use crate::scratch::{ActionDirectory, Scratch};

mod advice;
mod bubblewrap;
mod launchers;

use bubblewrap::HostFileSystem;
use launchers::Launchers;

/// Starts sandboxes.
#[derive(Debug)]
pub struct Sandbox {
    scratch: Arc<Scratch>,
    launchers: Launchers,
    host: HostFileSystem,
}

/// A command and what it may see.
#[derive(Debug, Clone, Default)]
pub struct SandboxedCommand {
    /// Lower layers of the tree at /work, uppermost first, relative to the worker's directory.
    pub lower: Vec<String>,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// Environment: exactly this, and `PATH` and `HOME` where it does not set them.
    pub environment: Vec<(String, String)>,
    /// Where it starts, relative to /work.
    pub working_directory: String,
    /// Whether it sees this machine's network.
    pub network: bool,
}

impl Sandbox {
    /// Prepares sandboxes and runs `true` in one. [`Error::SandboxUnavailable`] says what this machine lacks; there
    /// is no way to run commands without isolation.
    pub async fn open(
        scratch: Arc<Scratch>,
        launcher: Vec<OsString>,
        host_directories: &[PathBuf],
    ) -> Result<Self, Error> {
        let host = {
            let (scratch, host_directories) = (Arc::clone(&scratch), host_directories.to_vec());
            blocking::run(move || HostFileSystem::find(&scratch, &host_directories)).await?
        };
        let sandbox = Self {
            launchers: Launchers::new(launcher, scratch.root()),
            scratch,
            host,
        };
        sandbox.check().await?;
        Ok(sandbox)
    }

    async fn check(&self) -> Result<(), Error> {
        let scratch = Arc::clone(&self.scratch);
        let directory = blocking::run(move || scratch.action_directory()).await?;
        let command = SandboxedCommand {
            lower: vec![directory.relative("lower")],
            arguments: vec!["true".into()],
            ..SandboxedCommand::default()
        };
        let reason = match self.run(&command, &directory).await {
            Ok(0) => None,
            Ok(code) => Some(format!("`true` ended with code {code} in a sandbox")),
            Err(Error::Sandbox(reason) | Error::CommandNotStarted(reason)) => Some(reason),
            Err(error) => return Err(error),
        };
        blocking::run(move || directory.remove()).await?;
        match reason {
            None => Ok(()),
            Some(reason) => Err(Error::SandboxUnavailable {
                advice: blocking::run(|| Ok(advice::advice())).await?,
                reason,
            }),
        }
    }

    /// Runs a command on an overlay in `directory` and gives its exit code, 128 and the signal's number if a signal
    /// ended it. Standard output and error go to the files `stdout` and `stderr` of the directory, what the command
    /// changes in its tree to the directory `upper`.
    ///
    /// Dropping the future kills all of the command's processes, without waiting for their end; see
    /// [`Sandbox::run_until`].
    async fn run(&self, command: &SandboxedCommand, directory: &ActionDirectory) -> Result<i32, Error> {
        self.run_until(command, directory, std::future::pending())
            .await?
            .ok_or(Error::Cancelled)
    }

    /// Like a plain run, but ends early when `stop` is ready: all processes of the sandbox are killed, and `None`
    /// comes back when the last of them is gone.
    pub async fn run_until(
        &self,
        command: &SandboxedCommand,
        directory: &ActionDirectory,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<i32>, Error> {
        let request = LaunchRequest {
            lower: command.lower.clone(),
            upper: directory.relative("upper"),
            work: directory.relative("work"),
            merged: directory.relative("merged"),
            bubblewrap: self.host.bubblewrap_arguments(command, &directory.path("merged")),
            command: command.arguments.clone(),
            stdout: directory.relative("stdout"),
            stderr: directory.relative("stderr"),
            network: command.network,
        };
        let paths = [directory.path("stdout"), directory.path("stderr")];
        blocking::run(move || {
            for path in paths {
                File::create(&path).map_err(Error::io(format!("create {}", path.display())))?;
            }
            Ok(())
        })
        .await?;
        let mut launcher = self.launchers.take(command.network)?;
        let answer = tokio::select! {
            answer = launcher.launch(&request) => answer,
            () = stop => {
                launcher.end().await?;
                return Ok(None);
            }
        };
        let stderr = directory.path("stderr");
        let answer = match answer {
            Ok(answer) => answer,
            Err(reason) => {
                launcher.end().await?;
                let said = blocking::run(move || Ok(last_line(&stderr))).await?;
                return Err(Error::Sandbox(format!("{reason}: {said}")));
            }
        };
        if answer.reusable {
            self.launchers.put_back(launcher);
        } else {
            launcher.end().await?;
        }
        match answer.report {
            LaunchReport::Exited(code) => Ok(Some(code)),
            LaunchReport::CommandNotStarted => Err(Error::CommandNotStarted(
                blocking::run(move || Ok(last_line(&stderr))).await?,
            )),
            LaunchReport::BubblewrapFailed => Err(Error::Sandbox(
                blocking::run(move || Ok(last_line(&stderr))).await?,
            )),
            LaunchReport::Failed { step, reason } => Err(Error::Sandbox(format!("{step}: {reason}"))),
        }
    }
}

/// The last line of a file of error messages.
fn last_line(path: &std::path::Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no message")
        .chars()
        .take(1_000)
        .collect()
}
