//! `bitzel root`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use bitzel_worker::RootParts;

use crate::arguments::{RootArguments, RootCommand};
use crate::command_error::CommandError;

/// Runs a subcommand.
pub(crate) fn run(arguments: &RootArguments) -> Result<ExitCode, CommandError> {
    let found = RootParts::of_this_machine()?;
    match arguments.command {
        RootCommand::Identity { parts: true } => write!(io::stdout(), "{found}")?,
        RootCommand::Identity { parts: false } => writeln!(io::stdout(), "{}", found.identity())?,
    }
    Ok(ExitCode::SUCCESS)
}
