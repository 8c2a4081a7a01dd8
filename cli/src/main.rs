//! The `bitzel` command: reads the command line and the environment, and composes the roles of a farm.

mod admin;
mod allocator;
mod arguments;
mod bounds;
mod command_error;
mod commands;
mod configuration;
mod connection;
mod console;
mod directories;
mod display;
mod embedded;
mod event_handlers;
mod front_end;
mod interrupt;
mod last_graph;
mod local_action_source;
mod open_files;
mod readiness;
mod remote_cache;
mod root;
mod root_user;
mod server;
mod status_hint;
mod telemetry;
mod terminal;
mod visible_text;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command};
use command_error::CommandError;
use directories::Directories;
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
    let command = match arguments.command {
        Command::Config(arguments) => return commands::config::run(arguments),
        Command::Root(arguments) => return commands::root::run(&arguments),
        Command::Completions { shell } => return commands::completions::run(shell),
        Command::Man { directory } => return commands::man::run(&directory),
        command => command,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let telemetry = {
        let _entered = runtime.enter();
        Telemetry::start(&arguments.telemetry, command.is_service())?
    };
    let directories = Directories::find(arguments.directories)?;
    let ended = runtime.block_on(async {
        match command {
            Command::Build(arguments) => commands::build::run(&directories, *arguments).await,
            Command::Graph(arguments) => commands::graph::run(&directories, arguments).await,
            Command::Log(arguments) => commands::log::run(&directories, arguments).await,
            Command::Serve(arguments) => commands::serve::run(&directories, arguments).await,
            Command::Worker(arguments) => commands::worker::run(&directories, arguments).await,
            Command::Store(arguments) => commands::store::run(&directories, arguments).await,
            Command::Config(_) | Command::Root(_) | Command::Completions { .. } | Command::Man { .. } => {
                Ok(ExitCode::SUCCESS)
            }
        }
    });
    telemetry.end();
    ended
}
