//! Options for the server that a command uses, and for credentials.

use std::path::PathBuf;

use bitzel_rpc::Secret;
use bitzel_rpc::endpoint::ClientCredentials;
use bitzel_worker::RootIdentity;
use clap::Args;

use super::server::parse_property;
use crate::command_error::CommandError;

/// Heading of the options of [`CredentialArguments`].
const CREDENTIALS: &str = "Credentials";

/// Server and cache of a build.
#[derive(Debug, Args)]
pub(crate) struct RemoteArguments {
    /// Build on this server: grpc://host:port, grpcs://host:port with TLS, or unix:/path [default: a server embedded in
    /// this process]
    #[arg(long, value_name = "ENDPOINT", env = "BITZEL_REMOTE")]
    pub(crate) remote: Option<String>,

    /// Instance name on the server
    #[arg(long, value_name = "NAME", default_value = "", env = "BITZEL_INSTANCE")]
    pub(crate) instance: String,

    /// Build on this machine and share results through this cache: grpc://host:port, grpcs://…, http://host/path,
    /// https://…, or s3://bucket/prefix?endpoint=URL&region=NAME
    #[arg(
        long,
        value_name = "URL",
        env = "BITZEL_REMOTE_CACHE",
        conflicts_with = "remote"
    )]
    pub(crate) remote_cache: Option<String>,

    /// Read results from --remote-cache, but do not write any
    #[arg(long, requires = "remote_cache")]
    pub(crate) remote_cache_read_only: bool,

    /// Run tasks in root file systems with this identity, one that workers of the server offer; see `bitzel root
    /// identity` [default: that of this machine]
    #[arg(long, value_name = "NAME", env = "BITZEL_ROOT_IDENTITY", value_parser = RootIdentity::new)]
    pub(crate) root_identity: Option<RootIdentity>,

    /// Platform property that the workers of a server of another project must have, for example pool=linux. Can be
    /// repeated. Servers of bitzel need none
    #[arg(long = "engine-property", value_name = "NAME=VALUE", value_parser = parse_property, requires = "remote")]
    pub(crate) engine_properties: Vec<(String, String)>,

    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,

    /// Size limit of the embedded server's store, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 50, env = "BITZEL_STORE_SIZE")]
    pub(crate) store_size: u64,
}

/// Credentials of this client, and trust in servers.
#[derive(Debug, Args)]
pub(crate) struct CredentialArguments {
    /// Trust these certificate authorities [default: those of the system]
    #[arg(long, help_heading = CREDENTIALS, value_name = "PEM", env = "BITZEL_TLS_CA")]
    pub(crate) tls_ca: Option<PathBuf>,

    /// Client certificate
    #[arg(long, help_heading = CREDENTIALS, value_name = "PEM", env = "BITZEL_TLS_CERT", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert
    #[arg(long, help_heading = CREDENTIALS, value_name = "PEM", env = "BITZEL_TLS_KEY", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    /// File with a bearer token; it is read again when it changes
    #[arg(long, help_heading = CREDENTIALS, value_name = "FILE", env = "BITZEL_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// User name for the password in the environment variable BITZEL_PASSWORD
    #[arg(long, help_heading = CREDENTIALS, value_name = "NAME", env = "BITZEL_USER", conflicts_with = "token_file")]
    pub(crate) user: Option<String>,
}

impl CredentialArguments {
    /// Credentials from options and environment. The password is not an option: other users of the machine would see it.
    pub(crate) fn credentials(&self) -> Result<ClientCredentials, CommandError> {
        let password = match &self.user {
            None => None,
            Some(name) => {
                let password = std::env::var("BITZEL_PASSWORD").map_err(|error| {
                    CommandError::from(error)
                        .context("--user needs a password")
                        .hint("set the environment variable BITZEL_PASSWORD")
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
