//! `bitzel root`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::arguments::{RootArguments, RootCommand};
use crate::command_error::CommandError;
use crate::root::parts_of_this_machine;

/// Runs a subcommand.
pub(crate) async fn run(arguments: RootArguments) -> Result<ExitCode, CommandError> {
    match arguments.command {
        RootCommand::Identity { parts: true } => {
            write!(io::stdout(), "{}", parts_of_this_machine().await?)?;
        }
        RootCommand::Identity { parts: false } => {
            writeln!(io::stdout(), "{}", parts_of_this_machine().await?.identity())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
