//! The `bitzel` command: reads the command line and the environment, and puts the parts together.

mod admin;
mod allocator;
mod arguments;
mod command_error;
mod commands;
mod configuration;
mod connection;
mod directories;
mod display;
mod embedded;
mod front_end;
mod interrupt;
mod last_graph;
mod local_action_source;
mod remote_cache;
mod server;
mod telemetry;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command};
use command_error::CommandError;
use telemetry::Telemetry;

fn main() -> ExitCode {
    allocator::limit_arenas();
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let telemetry = {
        let _entered = runtime.enter();
        Telemetry::start(&arguments.telemetry)?
    };
    let directories = directories::Directories::find(arguments.cache_dir, arguments.scratch_dir)?;
    let ended = runtime.block_on(async {
        match arguments.command {
            Command::Build(arguments) => commands::build::run(&directories, arguments).await,
            Command::Graph(arguments) => commands::graph::run(&directories, arguments).await,
            Command::Log(arguments) => commands::log::run(&directories, arguments).await,
            Command::Serve(arguments) => commands::serve::run(&directories, arguments).await,
            Command::Worker(arguments) => commands::worker::run(&directories, arguments).await,
            Command::Config(arguments) => commands::config::run(arguments),
            Command::Store(arguments) => commands::store::run(&directories, arguments).await,
        }
    });
    telemetry.end();
    ended
}
