//! Options of `bitzel kubernetes-controller`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::farm::FarmArguments;
use super::store::parse_age;

/// Heading of the options about the API of Kubernetes.
const KUBERNETES: &str = "Kubernetes";

#[derive(Debug, Args)]
pub(crate) struct KubernetesControllerArguments {
    #[command(flatten)]
    pub(crate) farm: FarmArguments,

    #[command(flatten)]
    pub(crate) api: KubernetesApiArguments,

    /// Labels of the pods of workers, as in `kubectl --selector`. A worker has the name of its pod: `bitzel worker --name`
    #[arg(long, value_name = "LABELS", help_heading = KUBERNETES)]
    pub(crate) selector: String,

    /// Time between two looks at the scheduler: seconds, or a number with m, h or d
    #[arg(long, value_name = "TIME", value_parser = parse_interval, default_value = "10")]
    pub(crate) interval: Duration,

    /// Time for which a mark has to be too high before it is lowered, as that of a worker that has become idle: seconds, or a
    /// number with m, h or d
    #[arg(long, value_name = "TIME", value_parser = parse_age, default_value = "60")]
    pub(crate) idle_time: Duration,

    /// Serve /metrics (Prometheus), /livez and /readyz on this address, over HTTP and without authentication
    #[arg(long, value_name = "ADDRESS", env = "BITZEL_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,
}

/// API of a cluster. In a pod, all of it has defaults.
#[derive(Debug, Args)]
pub(crate) struct KubernetesApiArguments {
    /// Address of the API server: https://host:port [default: that of the cluster that this pod runs in]
    #[arg(long, value_name = "URL", help_heading = KUBERNETES)]
    pub(crate) kubernetes_api: Option<String>,

    /// File with the token for the API server; it is read again for each look [default: that of the service account]
    #[arg(long, value_name = "FILE", help_heading = KUBERNETES)]
    pub(crate) kubernetes_token_file: Option<PathBuf>,

    /// PEM file of the authorities of the API server's certificate [default: that of the service account]
    #[arg(long, value_name = "PEM", help_heading = KUBERNETES)]
    pub(crate) kubernetes_ca: Option<PathBuf>,

    /// Namespace of the pods [default: that of this pod]
    #[arg(long, value_name = "NAME", help_heading = KUBERNETES)]
    pub(crate) namespace: Option<String>,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_age(text)? {
        Duration::ZERO => Err("write a time of at least one second".to_owned()),
        interval => Ok(interval),
    }
}
