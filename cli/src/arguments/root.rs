//! Options of `bitzel root`.

use std::path::PathBuf;

use bitzel_roots::RootName;
use clap::{Args, Subcommand};

use super::remote::RemoteArguments;
use crate::root::HOST_ROOT;

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
    /// Put a root file system into the store and print its digest, for `bitzel build --root`
    Import(Box<RootImportArguments>),
    /// Make a root file system from Debian packages with mmdebstrap, put it into the store and print its digest
    Make(Box<RootMakeArguments>),
    /// List the root file systems that this machine knows
    List,
    /// Show what is known of a root file system
    Show {
        /// Name or digest
        #[arg(value_name = "ROOT")]
        root: String,
        /// Print the file bitzel-root, by which a team chooses this root for its builds
        #[arg(long)]
        file: bool,
    },
    /// Forget a root file system and its names on this machine; stores evict its blobs when they need the space
    Remove {
        /// Name or digest
        #[arg(value_name = "ROOT")]
        root: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RootImportArguments {
    /// Directory, tar archive (also with gzip or zstd), or OCI image layout as a directory or an archive
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,

    /// Name for the root on this machine
    #[arg(long, value_name = "NAME", value_parser = root_name)]
    pub(crate) name: Option<RootName>,

    #[command(flatten)]
    pub(crate) remote: RemoteArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RootMakeArguments {
    /// Debian release
    #[arg(long, value_name = "NAME", default_value = "bookworm")]
    pub(crate) suite: String,

    /// Mirror, for example https://snapshot.debian.org/archive/debian/20261101T000000Z; can be repeated
    /// [default: that of mmdebstrap]
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Vec<String>,

    /// Package in addition to those that OpenEmbedded asks for; can be repeated
    #[arg(long = "package", value_name = "NAME")]
    pub(crate) packages: Vec<String>,

    /// File with one package a line, instead of those that OpenEmbedded asks for
    #[arg(long, value_name = "FILE")]
    pub(crate) package_list: Option<PathBuf>,

    /// Name for the root on this machine
    #[arg(long, value_name = "NAME", value_parser = root_name)]
    pub(crate) name: Option<RootName>,

    #[command(flatten)]
    pub(crate) remote: RemoteArguments,
}

fn root_name(text: &str) -> Result<RootName, String> {
    if text == HOST_ROOT {
        return Err(format!(
            "{HOST_ROOT:?} stands for the root file system of a machine"
        ));
    }
    text.parse()
        .map_err(|error: bitzel_roots::Error| error.to_string())
}
