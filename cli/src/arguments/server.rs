//! Options of `bitzel serve`, `bitzel worker` and `bitzel config`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::remote::CredentialArguments;
use crate::bounds::BoundSettings;

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Read the configuration from this TOML file, see docs/configuration.md. Command-line options override the file
    #[arg(long, value_name = "FILE", env = "BITZEL_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Address to listen on. Addresses that other machines can reach need --access or --allow-anonymous [default:
    /// 127.0.0.1:8980]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,

    /// Serve Bazel's HTTP cache protocol on this address, for bazel --remote_cache=http://…, ccache and sccache, see
    /// docs/http-cache.md
    #[arg(long, value_name = "ADDRESS", env = "BITZEL_HTTP_LISTEN")]
    pub(crate) http_listen: Option<SocketAddr>,

    /// Read TLS settings, access rules and limits from this TOML file, see docs/access.md
    #[arg(long, value_name = "FILE", env = "BITZEL_ACCESS", conflicts_with = "config")]
    pub(crate) access: Option<PathBuf>,

    /// Give everybody who can reach this server full access, also from other machines
    #[arg(long, conflicts_with = "access")]
    pub(crate) allow_anonymous: bool,

    /// Size limit of the store, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 50, env = "BITZEL_STORE_SIZE")]
    pub(crate) store_size: u64,

    /// Maximum number of concurrent Actions on this machine; 0 if all workers are on other machines [default: the number
    /// of processors]
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) jobs: Option<usize>,

    /// Serve /metrics (Prometheus), /livez and /readyz on this address, over HTTP and without authentication
    #[arg(long, value_name = "ADDRESS", env = "BITZEL_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,

    /// Run Actions as root. An Action that finds a hole in the sandbox then owns this machine
    #[arg(long, env = "BITZEL_ALLOW_ROOT")]
    pub(crate) allow_root: bool,

    #[command(flatten)]
    pub(crate) bounds: BoundSettings,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArguments {
    /// Address of the server: grpc://host:port, or grpcs://host:port with TLS
    #[arg(value_name = "ENDPOINT")]
    pub(crate) server: String,

    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,

    /// Maximum number of concurrent Actions on this machine [default: the number of processors]
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) jobs: Option<usize>,

    /// Serve /metrics (Prometheus), /livez and /readyz on this address, over HTTP and without authentication
    #[arg(long, value_name = "ADDRESS", env = "BITZEL_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,

    /// Run Actions as root. An Action that finds a hole in the sandbox then owns this machine
    #[arg(long, env = "BITZEL_ALLOW_ROOT")]
    pub(crate) allow_root: bool,

    #[command(flatten)]
    pub(crate) bounds: BoundSettings,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a configuration file: print a summary, or every mistake in it
    Check {
        /// Configuration file, see docs/configuration.md
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the JSON schema of the configuration file, for editors
    Schema,
}
