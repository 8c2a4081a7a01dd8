//! `bitzel man`.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::arguments::Arguments;
use crate::command_error::CommandError;

/// Writes a manual page for each command to a directory, which is created if it does not exist.
pub(crate) fn run(directory: &Path) -> Result<ExitCode, CommandError> {
    let write = || {
        std::fs::create_dir_all(directory)?;
        clap_mangen::generate_to(Arguments::command(), directory)
    };
    write().map_err(|error| {
        CommandError::from(error).context(format!("cannot write manual pages to {}", directory.display()))
    })?;
    Ok(ExitCode::SUCCESS)
}
