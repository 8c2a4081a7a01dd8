//! The `bitzel` command: reads the command line and the environment, and composes the roles of a farm.

mod access_reload;
mod admin;
mod allocator;
mod arguments;
mod bounds;
mod build_list;
mod client_fetches;
mod command_error;
mod commands;
mod configuration;
mod connection;
mod console;
mod directories;
mod display;
mod embedded;
mod engine;
mod event_handlers;
mod farm_view;
mod front_end;
mod hand_over;
mod interrupt;
mod kubernetes;
mod last_graph;
mod local_action_source;
mod local_blob_stores;
mod open_files;
mod queue_journal;
mod readiness;
mod remote_cache;
mod root;
mod root_user;
mod server;
mod status_hint;
mod telemetry;
mod tenants;
mod terminal;
mod visible_text;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command, RootArguments, RootCommand};
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
        Command::Root(RootArguments {
            command: RootCommand::Identity { parts },
        }) => return commands::root::identity(parts),
        Command::Completions { shell } => return commands::completions::run(shell),
        Command::Man { directory } => return commands::man::run(&directory),
        command => command,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let telemetry = {
        let _entered = runtime.enter();
        Telemetry::start(&arguments.telemetry, command.is_service())?
    };
    if let Command::KubernetesController(arguments) = command {
        // It keeps nothing, and its pod has no directory to write to.
        let ended = runtime.block_on(commands::kubernetes_controller::run(arguments));
        telemetry.end();
        return ended;
    }
    let directories = Directories::find(arguments.directories)?;
    let ended = runtime.block_on(async {
        match command {
            Command::Build(arguments) => Box::pin(commands::build::run(&directories, *arguments)).await,
            Command::Attach(arguments) => commands::attach::run(arguments).await,
            Command::Cancel(arguments) => commands::builds::cancel(arguments).await,
            Command::Builds(arguments) => commands::builds::list(arguments).await,
            Command::Graph(arguments) => commands::graph::run(&directories, arguments).await,
            Command::Log(arguments) => commands::log::run(&directories, arguments).await,
            Command::Serve(arguments) => commands::serve::run(&directories, arguments).await,
            Command::Worker(arguments) => commands::worker::run(&directories, arguments).await,
            Command::Status(arguments) => commands::farm::status(arguments).await,
            Command::Workers(arguments) => commands::farm::workers(arguments).await,
            Command::Store(arguments) => commands::store::run(&directories, arguments).await,
            Command::Root(arguments) => commands::root::run(&directories, arguments).await,
            Command::Config(_)
            | Command::Completions { .. }
            | Command::Man { .. }
            | Command::KubernetesController(_) => Ok(ExitCode::SUCCESS),
        }
    });
    telemetry.end();
    ended
}
