//! `bitzel config`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::arguments::{ConfigArguments, ConfigCommand};
use crate::command_error::CommandError;
use crate::configuration::Configuration;

/// Says what a file comes to, and exits with 1 when it cannot be used.
pub(crate) fn run(arguments: ConfigArguments) -> Result<ExitCode, CommandError> {
    let ConfigCommand::Check { file } = arguments.command;
    let configuration = Configuration::read(&file)?;
    writeln!(
        io::stdout(),
        "{}: OK\n{}",
        file.display(),
        configuration.summary()
    )?;
    Ok(ExitCode::SUCCESS)
}
