//! Options of `bitzel attach`, `bitzel cancel` and `bitzel builds`.

use std::path::PathBuf;

use clap::Args;

use super::farm::FarmArguments;

#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    /// Name of the build, or the start of it [default: your newest build]
    #[arg(value_name = "BUILD")]
    pub(crate) build: Option<String>,

    #[command(flatten)]
    pub(crate) farm: FarmArguments,

    /// Write the targets' results to this directory when the build has ended, as `bitzel build --output` does
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,

    /// Write the events of the build that are shown to this file, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArguments {
    /// Name of the build, or the start of it
    #[arg(value_name = "BUILD")]
    pub(crate) build: String,

    #[command(flatten)]
    pub(crate) farm: FarmArguments,
}

#[derive(Debug, Args)]
pub(crate) struct BuildsArguments {
    #[command(flatten)]
    pub(crate) farm: FarmArguments,

    /// Print the builds as JSON, with the field names of builds.proto
    #[arg(long)]
    pub(crate) json: bool,
}
