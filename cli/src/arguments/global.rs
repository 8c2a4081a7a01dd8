//! Options that every command has.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Heading of these options.
const GLOBAL_OPTIONS: &str = "Global options";

/// Directories on this machine.
#[derive(Debug, Args)]
pub(crate) struct DirectoryArguments {
    /// Directory for exported graphs, the server's store and the worker's files [default: bitzel in the XDG cache
    /// directory]
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, env = "BITZEL_CACHE_DIR", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Directory that running Actions write to, for example /dev/shm/bitzel. Memory is faster for small Actions, but must
    /// hold everything that concurrent Actions write [default: the cache directory]
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, env = "BITZEL_SCRATCH_DIR", value_name = "DIR")]
    pub(crate) scratch_dir: Option<PathBuf>,
}

/// Logs and traces.
#[derive(Debug, Args)]
pub(crate) struct TelemetryArguments {
    /// Show log lines on standard error, for example info, or warn,bitzel_cas=debug [default: off; warn for serve and
    /// worker]
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, env = "BITZEL_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,

    /// Format of log lines
    #[arg(
        long,
        global = true, help_heading = GLOBAL_OPTIONS,
        env = "BITZEL_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,

    /// Send traces to this OpenTelemetry collector (OTLP over gRPC), for example http://collector:4317
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text for people
    Text,
    /// One JSON object per line, for log collectors
    Json,
}
