//! The `bitzel` command: reads the command line and the environment, and puts the parts together.

mod arguments;
mod command_error;
mod commands;
mod connection;
mod directories;
mod display;
mod embedded;
mod front_end;
mod interrupt;
mod last_graph;
mod server;
mod worker;

use std::io;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use arguments::{Arguments, Command};
use command_error::CommandError;

/// First argument of the process that sets a sandbox up. It has to be single-threaded, so it is told apart before
/// anything else happens.
pub(crate) const SANDBOX_LAUNCH: &str = "sandbox-launch";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == SANDBOX_LAUNCH) {
        return bitzel_worker::launcher::main(arguments);
    }
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("BITZEL_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let directories = directories::Directories::find(arguments.cache_dir)?;
    runtime.block_on(async {
        match arguments.command {
            Command::Build(arguments) => commands::build::run(&directories, arguments).await,
            Command::Graph(arguments) => commands::graph::run(&directories, arguments).await,
            Command::Log(arguments) => commands::log::run(&directories, arguments).await,
            Command::Serve(arguments) => commands::serve::run(&directories, arguments).await,
            Command::Worker(arguments) => commands::worker::run(&directories, arguments).await,
        }
    })
}
