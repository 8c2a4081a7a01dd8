//! Options of `bitzel root`.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct RootArguments {
    #[command(subcommand)]
    pub(crate) command: RootCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RootCommand {
    /// Print the identity of this machine's root file system, which its workers offer and its builds ask for
    Identity {
        /// Print what the identity is made of, a line for each package and tool, to compare two machines by diff
        #[arg(long)]
        parts: bool,
    },
}
