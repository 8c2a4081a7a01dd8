//! Runs one command in namespaces of its own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;

use crate::error::Error;
use crate::launcher::{LaunchReport, LaunchRequest, WORK};
use crate::worker_directories::{ActionDirectory, WorkerDirectories};

mod advice;
mod bubblewrap;
mod launchers;

use bubblewrap::HostFileSystem;
use launchers::Launchers;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_HOME: &str = "/tmp";

/// Starts sandboxes.
#[derive(Debug)]
pub struct Sandbox {
    scratch: Arc<WorkerDirectories>,
    launchers: Launchers,
}

/// A command and what it may see.
#[derive(Debug, Clone, Default)]
pub struct SandboxedCommand {
    /// Lower layers of the tree at /work, uppermost first, relative to the worker's directory. Without any the tree is
    /// the Action's directory `upper` itself.
    pub lower: Vec<String>,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// Environment: exactly this, and `PATH` and `HOME` where it does not set them.
    pub environment: Vec<(String, String)>,
    /// Where it starts, relative to /work.
    pub working_directory: String,
    /// Whether it sees this machine's network.
    pub network: bool,
    /// Whether it may make user namespaces of its own.
    pub user_namespaces: bool,
}

impl Sandbox {
    /// Prepares sandboxes and runs `true` in one. [`Error::SandboxUnavailable`] says what this machine lacks; there
    /// is no way to run commands without isolation.
    pub async fn open(
        scratch: Arc<WorkerDirectories>,
        launcher: Vec<OsString>,
        host_directories: &[PathBuf],
    ) -> Result<Self, Error> {
        let host = {
            let (scratch, host_directories) = (Arc::clone(&scratch), host_directories.to_vec());
            run_blocking(move || HostFileSystem::find(&scratch, &host_directories)).await?
        };
        let sandbox = Self {
            launchers: Launchers::new(launcher, Arc::clone(&scratch), host),
            scratch,
        };
        sandbox.check().await?;
        Ok(sandbox)
    }

    async fn check(&self) -> Result<(), Error> {
        let scratch = Arc::clone(&self.scratch);
        let directory = run_blocking(move || ActionDirectory::create(&scratch)).await?;
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
        run_blocking(move || directory.remove()).await?;
        match reason {
            None => Ok(()),
            Some(reason) => Err(Error::SandboxUnavailable {
                advice: run_blocking(advice::advice).await,
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
            command: command.arguments.clone(),
            environment: command.whole_environment(),
            working_directory: command.absolute_working_directory(),
            user_namespaces: command.user_namespaces,
            stdout: directory.relative("stdout"),
            stderr: directory.relative("stderr"),
        };
        let mut launcher = self.launchers.take(command.network)?;
        let answer = tokio::select! {
            answer = launcher.launch(&request) => answer,
            () = stop => {
                launcher.end().await?;
                return Ok(None);
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(reason) => {
                launcher.end().await?;
                return Err(Error::Sandbox(reason));
            }
        };
        if answer.reusable {
            self.launchers.put_back(launcher);
        } else {
            launcher.end().await?;
        }
        match answer.report {
            LaunchReport::Exited(code) => Ok(Some(code)),
            LaunchReport::CommandNotStarted(reason) => Err(Error::CommandNotStarted(reason)),
            LaunchReport::Failed { step, reason } => Err(Error::Sandbox(format!("{step}: {reason}"))),
        }
    }
}

impl SandboxedCommand {
    fn absolute_working_directory(&self) -> String {
        match self.working_directory.as_str() {
            "" => WORK.to_owned(),
            relative => format!("{WORK}/{relative}"),
        }
    }

    fn whole_environment(&self) -> Vec<(String, String)> {
        let own = |name: &str, value: String| (name.to_owned(), value);
        let mut environment = vec![
            own("PATH", DEFAULT_PATH.to_owned()),
            own("HOME", DEFAULT_HOME.to_owned()),
        ];
        environment.extend_from_slice(&self.environment);
        environment.push(own("PWD", self.absolute_working_directory()));
        environment
    }
}
