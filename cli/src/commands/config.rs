//! `bitzel config`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::arguments::{ConfigArguments, ConfigCommand};
use crate::command_error::CommandError;
use crate::configuration::{Configuration, schema};
use crate::{console, tenants};

/// Checks a configuration file, or prints the schema of such files. A file with mistakes is an error.
pub(crate) fn run(arguments: ConfigArguments) -> Result<ExitCode, CommandError> {
    let text = match arguments.command {
        ConfigCommand::Check { file } => {
            let configuration = Configuration::read(&file)?;
            if configuration.tenants.is_some() {
                let rules = configuration.access.as_ref().map(|rules| &rules.access);
                for warning in tenants::warnings(rules) {
                    console::warn(&warning);
                }
            }
            let summary = configuration.summary();
            format!("{}: OK\n{summary}", file.display())
        }
        ConfigCommand::Schema => schema::text(),
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}
