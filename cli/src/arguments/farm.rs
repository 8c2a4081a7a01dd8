//! Options of `bitzel status` and `bitzel workers`.

use clap::{Args, Subcommand};

use super::remote::CredentialArguments;

/// Server of a farm.
#[derive(Debug, Args)]
pub(crate) struct FarmArguments {
    /// Server: grpc://host:port, or grpcs://host:port with TLS
    #[arg(long, value_name = "ENDPOINT", env = "BITZEL_REMOTE", global = true)]
    pub(crate) remote: Option<String>,

    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) farm: FarmArguments,

    /// Show the state again every two seconds until interrupted
    #[arg(long, conflicts_with = "json")]
    pub(crate) watch: bool,

    /// Print the state as JSON, with the field names of farm.proto
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WorkersArguments {
    #[command(flatten)]
    pub(crate) farm: FarmArguments,

    #[command(subcommand)]
    pub(crate) command: Option<WorkersCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// Let workers finish their Actions and end. A service manager or Kubernetes may start them again
    Drain {
        /// Name of the workers; a `*` stands for any text
        #[arg(value_name = "NAME")]
        name: String,
    },
}
