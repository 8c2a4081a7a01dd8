//! The command line.

#![allow(
    clippy::doc_markdown,
    rustdoc::bare_urls,
    reason = "these comments are the help text on the terminal"
)]

mod build;
mod builds;
mod farm;
mod global;
mod kubernetes;
mod remote;
mod root;
mod server;
mod store;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use build::{
    BuildArguments, FetchPlace, GraphArguments, LogArguments, MetadataArguments, TargetArguments,
};
pub(crate) use builds::{AttachArguments, BuildsArguments, CancelArguments};
pub(crate) use farm::{FarmArguments, StatusArguments, WorkersArguments, WorkersCommand};
pub(crate) use global::{DirectoryArguments, LogFormat, TelemetryArguments};
pub(crate) use kubernetes::{KubernetesApiArguments, KubernetesControllerArguments};
pub(crate) use remote::RemoteArguments;
pub(crate) use root::{RootArguments, RootCommand, RootImportArguments, RootMakeArguments};
pub(crate) use server::{ConfigArguments, ConfigCommand, ServeArguments, WorkerArguments};
pub(crate) use store::{GcArguments, StoreArguments, StoreCommand};

/// BitBake builds on a Remote Execution API farm.
#[derive(Debug, Parser)]
#[command(name = "bitzel", version, about, long_about = None)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) directories: DirectoryArguments,

    #[command(flatten)]
    pub(crate) telemetry: TelemetryArguments,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build targets, as `bitbake TARGET...` does
    Build(Box<BuildArguments>),
    /// Show a build that was handed over to a server with `bitzel build --detach`, from any machine
    Attach(AttachArguments),
    /// End a build on a server
    Cancel(CancelArguments),
    /// List the builds on a server
    Builds(BuildsArguments),
    /// Export the task graph of targets without building
    Graph(GraphArguments),
    /// Show the log of a task of the last build
    Log(LogArguments),
    /// Run a server with store, action cache and execution
    Serve(ServeArguments),
    /// Run Actions from a server on this machine
    Worker(WorkerArguments),
    /// Show the workers of a farm, the builds on its server, and the Actions that run and wait
    Status(StatusArguments),
    /// List the workers of a farm, or drain some
    Workers(WorkersArguments),
    /// Mark the pods of workers with their deletion cost, so that Kubernetes takes idle ones away first
    KubernetesController(KubernetesControllerArguments),
    /// Check the configuration file of a server, or print its schema
    Config(ConfigArguments),
    /// Manage the root file systems in which builds parse and tasks run
    Root(RootArguments),
    /// Maintain the store on this machine's disk
    Store(StoreArguments),
    /// Print a completion script for a shell, for example: source <(bitzel completions bash)
    Completions {
        /// Shell to print the script for
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Write the manual pages of all commands to a directory
    Man {
        /// Directory for the pages, for example ~/.local/share/man/man1
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

impl Command {
    /// True for commands that run until they are stopped, and whose log lines a service manager collects.
    pub(crate) fn is_service(&self) -> bool {
        matches!(
            self,
            Self::Serve(_) | Self::Worker(_) | Self::KubernetesController(_)
        )
    }
}

#[cfg(test)]
mod tests;
