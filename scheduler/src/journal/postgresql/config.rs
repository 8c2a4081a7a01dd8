//! Configuration of PostgreSQL as the medium of the journal.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// PostgreSQL as the medium of the journal, and the servers that share it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresqlConfig {
    /// Database: a URL like `postgresql://bitzel@db.example/bitzel`, or pairs like
    /// `host=/run/postgresql user=bitzel dbname=bitzel`. Connections to other machines are encrypted, and the name in the
    /// certificate is checked, unless `sslmode=disable` is a part of it. It holds no password.
    #[schemars(example = &"postgresql://bitzel@db.example/bitzel")]
    pub url: String,
    /// File with the password. Default: the environment variable `PGPASSWORD`, or none.
    #[schemars(example = &"/etc/bitzel/postgresql-password")]
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities that sign the certificate of PostgreSQL. Default: those of the system.
    pub tls_ca: Option<PathBuf>,
    /// Address at which the other servers reach this one. Default: `listen.grpc`, if that names one address.
    #[schemars(example = &"grpcs://scheduler-1.example:8980")]
    pub address: Option<String>,
    /// PEM file of the authorities that sign the certificates of the other servers. Default: those of the system.
    pub servers_ca: Option<PathBuf>,
    /// PEM file of the certificate that this server shows to the other servers. Needed if `tls.client_certificate_required`
    /// is true: it forwards calls to the one that leads. The callers' rights do not depend on it.
    #[schemars(example = &"/etc/bitzel/server.pem")]
    pub servers_certificate: Option<PathBuf>,
    /// PEM file of the key of `servers_certificate`.
    #[schemars(example = &"/etc/bitzel/server.key")]
    pub servers_key: Option<PathBuf>,
    /// Time for which a server leads without being heard. When the leader is gone, another server leads after this time.
    #[serde(with = "humantime_serde", default = "default_lease_time")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["3s"]))]
    pub lease_time: Duration,
}

fn default_lease_time() -> Duration {
    Duration::from_secs(3)
}
