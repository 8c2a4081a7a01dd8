//! `bitzel completions`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::command_error::CommandError;

/// Prints the completion script for a shell.
pub(crate) fn run(shell: Shell) -> Result<ExitCode, CommandError> {
    // Into memory first: the generator panics on a pipe that is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "bitzel", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
