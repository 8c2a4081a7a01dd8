//! Options of `bitzel serve`, `bitzel worker` and `bitzel config`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bitzel_worker::RootIdentity;
use clap::{Args, Subcommand};

use super::remote::CredentialArguments;
use super::store::{parse_age, parse_size};
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

    /// Identity of this machine's root file system, for builds that ask for one [default: computed from its packages; see
    /// `bitzel root identity`]
    #[arg(long, value_name = "NAME", env = "BITZEL_ROOT_IDENTITY", value_parser = RootIdentity::new)]
    pub(crate) root_identity: Option<RootIdentity>,

    /// Serve /metrics (Prometheus), /livez and /readyz on this address, over HTTP and without authentication, and the
    /// external scaler for KEDA
    #[arg(long, value_name = "ADDRESS", env = "BITZEL_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,

    /// Address at which the other schedulers of a group reach this one: grpc://host:port, or grpcs://host:port with TLS
    /// [default: execution.journal.postgresql.address of the configuration file]
    #[arg(
        long,
        value_name = "ENDPOINT",
        env = "BITZEL_SCHEDULER_ADDRESS",
        requires = "config"
    )]
    pub(crate) scheduler_address: Option<String>,

    /// Run Actions as root. An Action that finds a hole in the sandbox then owns this machine
    #[arg(long, env = "BITZEL_ALLOW_ROOT")]
    pub(crate) allow_root: bool,

    #[command(flatten)]
    pub(crate) bounds: BoundSettings,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArguments {
    /// Address of the server: grpc://host:port, or grpcs://host:port with TLS
    #[arg(value_name = "ENDPOINT", required_unless_present = "check")]
    pub(crate) server: Option<String>,

    /// Check that this machine can run sandboxes, and end: the exit code is 1 if it cannot, with the settings that stand in
    /// the way
    #[arg(long, conflicts_with = "server")]
    pub(crate) check: bool,

    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,

    /// Maximum number of concurrent Actions on this machine [default: the number of processors]
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) jobs: Option<usize>,

    /// Identity of this machine's root file system, for builds that ask for one [default: computed from its packages; see
    /// `bitzel root identity`]
    #[arg(long, value_name = "NAME", env = "BITZEL_ROOT_IDENTITY", value_parser = RootIdentity::new)]
    pub(crate) root_identity: Option<RootIdentity>,

    /// Platform property that this worker offers in addition to ISA and OSFamily, for example pool=large. Can be repeated
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = parse_property)]
    pub(crate) properties: Vec<(String, String)>,

    /// Name of this worker, unique among those of the server, such as that of its pod [default: host name and process id]
    #[arg(long, value_name = "NAME", env = "BITZEL_WORKER_NAME")]
    pub(crate) name: Option<String>,

    /// Pool of workers that scale together, for autoscaling. All workers of a pool offer the same properties
    #[arg(long, value_name = "NAME", default_value = "", env = "BITZEL_POOL")]
    pub(crate) pool: String,

    /// Size limit of the cache of input files: bytes, or a number with K, M, G or T (powers of 1024)
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "20G")]
    pub(crate) file_cache_size: u64,

    /// Size limit of the inputs that are fetched before their Actions start, while others run; 0 for none. They are part of
    /// the file cache
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "2G", env = "BITZEL_PREFETCH_SIZE")]
    pub(crate) prefetch_size: u64,

    /// Number of directories and symlinks that stay assembled for the next Actions. Each takes an inode and 4 KiB of the
    /// disk
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2_000_000,
        env = "BITZEL_MAX_LAYER_ENTRIES"
    )]
    pub(crate) max_layer_entries: u64,

    /// Time that running Actions have to end after SIGTERM: seconds, or a number with m, h or d. Those that run longer are
    /// cancelled, and other workers run them again
    #[arg(long, value_name = "TIME", value_parser = parse_age, default_value = "1h")]
    pub(crate) drain_timeout: Duration,

    /// Serve /metrics (Prometheus), /livez and /readyz on this address, over HTTP and without authentication
    #[arg(long, value_name = "ADDRESS", env = "BITZEL_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,

    /// Run Actions as root. An Action that finds a hole in the sandbox then owns this machine
    #[arg(long, env = "BITZEL_ALLOW_ROOT")]
    pub(crate) allow_root: bool,

    #[command(flatten)]
    pub(crate) bounds: BoundSettings,
}

/// Parses a platform property.
pub(super) fn parse_property(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "write a name, an equals sign and a value, for example pool=large".to_owned())
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
