//! Options for logs and traces.

use clap::{Args, ValueEnum};

use super::GLOBAL_OPTIONS;

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
