//! The command line.

#![expect(
    clippy::doc_markdown,
    rustdoc::bare_urls,
    reason = "these comments are the help text on the terminal"
)]

mod store;

use std::net::SocketAddr;
use std::path::PathBuf;

use bitzel_rpc::Secret;
use bitzel_rpc::endpoint::ClientCredentials;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::command_error::CommandError;

pub(crate) use store::{GcArguments, StoreArguments, StoreCommand};

/// `BitBake` builds on a Remote Execution API farm.
#[derive(Debug, Parser)]
#[command(name = "bitzel", version, about, long_about = None)]
pub(crate) struct Arguments {
    /// Where exports, the embedded server's store and the worker's files are kept [default: bitzel in the XDG cache
    /// directory]
    #[arg(long, global = true, env = "BITZEL_CACHE_DIR", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Where running Actions write, for example /dev/shm/bitzel: faster for small Actions; all that they write at a time
    /// has to fit into it [default: the cache directory]
    #[arg(long, global = true, env = "BITZEL_SCRATCH_DIR", value_name = "DIR")]
    pub(crate) scratch_dir: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) telemetry: TelemetryArguments,

    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where logs and traces go.
#[derive(Debug, Args)]
pub(crate) struct TelemetryArguments {
    /// How log lines look; BITZEL_LOG says which there are, for example BITZEL_LOG=info
    #[arg(
        long,
        global = true,
        env = "BITZEL_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,

    /// Send traces to this OpenTelemetry collector (OTLP over gRPC), for example http://collector:4317
    #[arg(long, global = true, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object in each line, for log collectors
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build targets, as `bitbake TARGET...` does
    Build(BuildArguments),
    /// Export the task graph of targets without building
    Graph(GraphArguments),
    /// Show the log of a task of the last build
    Log(LogArguments),
    /// Serve store, action cache and execution to this and other machines
    Serve(ServeArguments),
    /// Take Actions from a server and run them on this machine
    Worker(WorkerArguments),
    /// Check the configuration file of a server
    Config(ConfigArguments),
    /// Look after the store on this machine's disk
    Store(StoreArguments),
}

/// Which metadata and what of it.
#[derive(Debug, Args)]
pub(crate) struct MetadataArguments {
    /// An initialised BitBake build directory, with conf/bblayers.conf and conf/local.conf
    #[arg(long, value_name = "DIR", default_value = ".", env = "BUILDDIR")]
    pub(crate) build_dir: PathBuf,

    /// A BitBake checkout, or any directory with lib/bb [default: the bitbake in PATH, or the installed bb package]
    #[arg(long, value_name = "DIR", env = "BITBAKEDIR")]
    pub(crate) bitbake: Option<PathBuf>,
}

/// What to build.
#[derive(Debug, Args)]
pub(crate) struct TargetArguments {
    /// Recipes or what they provide; TARGET:do_TASK for one task, mc:CONFIG:TARGET for a multiconfig
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<String>,

    /// The task to run for each target [default: BB_DEFAULT_TASK, mostly build]
    #[arg(short = 'c', long = "cmd", value_name = "TASK")]
    pub(crate) task: Option<String>,

    /// Run this task for every recipe in the targets' graph that has it; may be given more than once
    #[arg(long = "runall", value_name = "TASK")]
    pub(crate) run_all: Vec<String>,

    /// Run this task of the targets' graph and what it needs, and nothing else; may be given more than once
    #[arg(long = "runonly", value_name = "TASK")]
    pub(crate) run_only: Vec<String>,

    /// Run the targets' tasks even if there are results of them
    #[arg(short = 'f', long)]
    pub(crate) force: bool,

    /// Run this task of the targets even if there is a result, and then what the targets need
    #[arg(short = 'C', long = "clear-stamp", value_name = "TASK")]
    pub(crate) clear_stamp: Option<String>,
}

/// Which server.
#[derive(Debug, Args)]
pub(crate) struct RemoteArguments {
    /// A server to build on: grpc://host:port, grpcs://host:port with TLS, or unix:/path [default: one embedded in this process]
    #[arg(long, value_name = "ENDPOINT", env = "BITZEL_REMOTE")]
    pub(crate) remote: Option<String>,

    /// Instance name on that server
    #[arg(long, value_name = "NAME", default_value = "", env = "BITZEL_INSTANCE")]
    pub(crate) instance: String,

    /// Build on this machine and share results with this cache: grpc://host:port, grpcs://…, http://host/path, https://…,
    /// or s3://bucket/prefix?endpoint=URL&region=NAME
    #[arg(
        long,
        value_name = "URL",
        env = "BITZEL_REMOTE_CACHE",
        conflicts_with = "remote"
    )]
    pub(crate) remote_cache: Option<String>,

    /// Take results from --remote-cache, and give it none
    #[arg(long, requires = "remote_cache")]
    pub(crate) remote_cache_read_only: bool,

    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,

    /// Size limit of the embedded server's store, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 50, env = "BITZEL_STORE_SIZE")]
    pub(crate) store_size: u64,
}

/// How this machine proves who it is, and checks who the server is.
#[derive(Debug, Args)]
pub(crate) struct CredentialArguments {
    /// Believe servers of these certificate authorities [default: those of the system]
    #[arg(long, value_name = "PEM", env = "BITZEL_TLS_CA")]
    pub(crate) tls_ca: Option<PathBuf>,

    /// Show this client certificate
    #[arg(long, value_name = "PEM", env = "BITZEL_TLS_CERT", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The key of --tls-cert
    #[arg(long, value_name = "PEM", env = "BITZEL_TLS_KEY", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    /// A file with a bearer token, which may be renewed meanwhile
    #[arg(long, value_name = "FILE", env = "BITZEL_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// Name for the password in the variable BITZEL_PASSWORD
    #[arg(long, value_name = "NAME", env = "BITZEL_USER", conflicts_with = "token_file")]
    pub(crate) user: Option<String>,
}

impl CredentialArguments {
    /// What was given. The password is not an argument, where other users of the machine would see it.
    pub(crate) fn credentials(&self) -> Result<ClientCredentials, CommandError> {
        let password = match &self.user {
            None => None,
            Some(name) => {
                let password = std::env::var("BITZEL_PASSWORD").map_err(|error| {
                    CommandError::from(error)
                        .hint("set the password of --user in the variable BITZEL_PASSWORD")
                })?;
                Some((name.clone(), Secret::new(password)))
            }
        };
        Ok(ClientCredentials {
            ca: self.tls_ca.clone(),
            certificate: self.tls_cert.clone().zip(self.tls_key.clone()),
            token_file: self.token_file.clone(),
            password,
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    #[command(flatten)]
    pub(crate) metadata: MetadataArguments,
    #[command(flatten)]
    pub(crate) remote: RemoteArguments,

    /// Go on after a failure with everything that does not need the failed task
    #[arg(short = 'k', long)]
    pub(crate) keep_going: bool,

    /// Tasks under way at the same time [default: the number of processors; 200 with --remote]
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) jobs: Option<usize>,

    /// Place results here: what the targets deployed, or what a task left
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,

    /// Write what happens as lines of JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArguments {
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    #[command(flatten)]
    pub(crate) metadata: MetadataArguments,

    /// Print the graph as JSON instead of a summary
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogArguments {
    /// The task, for example zlib:do_compile
    #[arg(value_name = "RECIPE:TASK")]
    pub(crate) task: String,
    #[command(flatten)]
    pub(crate) metadata: MetadataArguments,
    #[command(flatten)]
    pub(crate) remote: RemoteArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    /// What to do with it
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what a file comes to, or everything that is wrong with it
    Check {
        /// The file, see docs/configuration.md
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Everything from one TOML file, see docs/configuration.md; what is also an argument here, the argument says
    #[arg(long, value_name = "FILE", env = "BITZEL_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Address to listen on. Other machines are let in as --access says [default: 127.0.0.1:8980]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,

    /// Serve the HTTP cache protocol on this address, for bazel --remote_cache=http://…, ccache and sccache, see
    /// docs/http-cache.md
    #[arg(long, value_name = "ADDRESS", env = "BITZEL_HTTP_LISTEN")]
    pub(crate) http_listen: Option<SocketAddr>,

    /// Who gets in and what they may do: a TOML file with [tls], [access] and [limits], see docs/access.md
    #[arg(long, value_name = "FILE", env = "BITZEL_ACCESS", conflicts_with = "config")]
    pub(crate) access: Option<PathBuf>,

    /// Let everybody who reaches this server do everything, from other machines too
    #[arg(long, conflicts_with = "access")]
    pub(crate) allow_anonymous: bool,

    /// Size limit of the store, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 50, env = "BITZEL_STORE_SIZE")]
    pub(crate) store_size: u64,

    /// Actions that this machine runs at the same time; 0 for none, when workers are elsewhere [default: the number
    /// of processors]
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) jobs: Option<usize>,

    /// Answer /metrics (Prometheus), /livez and /readyz on this address, over HTTP and to everybody who reaches it
    #[arg(long, value_name = "ADDRESS", env = "BITZEL_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArguments {
    /// The server: grpc://host:port, or grpcs://host:port with TLS
    #[arg(value_name = "ENDPOINT")]
    pub(crate) server: String,

    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,

    /// Actions that this machine runs at the same time [default: the number of processors]
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) jobs: Option<usize>,

    /// Answer /metrics (Prometheus), /livez and /readyz on this address, over HTTP and to everybody who reaches it
    #[arg(long, value_name = "ADDRESS", env = "BITZEL_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,
}
