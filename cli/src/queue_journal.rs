//! Journal of the operation queue, as a server is configured with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bitzel_rpc::Secret;
use bitzel_scheduler::{ForwardedIdentities, JournalConfig, JournalMedium, PostgresqlConfig};

use crate::command_error::CommandError;

/// Password of PostgreSQL, as its own programs read it.
const PASSWORD_VARIABLE: &str = "PGPASSWORD";

/// Journal of the operation queue.
pub(crate) enum QueueJournal {
    /// None: the queue ends with the process.
    Memory,
    /// A file.
    Disk {
        /// The file. Its directory is created if it does not exist.
        path: PathBuf,
        /// Time for which records gather before they are written.
        commit_interval: Duration,
    },
    /// PostgreSQL, which other servers may share.
    Shared(Box<SharedJournal>),
}

/// Journal in PostgreSQL.
pub(crate) struct SharedJournal {
    /// PostgreSQL and the group of servers.
    pub(crate) config: PostgresqlConfig,
    /// Directory that relative paths in `config` start at.
    pub(crate) base: PathBuf,
    /// Password from the environment.
    pub(crate) password: Option<Secret>,
    /// Name of the queue, by the tenants of the server.
    pub(crate) queue: String,
    /// Address at which the other servers reach this one.
    pub(crate) address: String,
    /// Time for which records gather before they are written.
    pub(crate) commit_interval: Duration,
    /// Identities of callers whose calls the other servers forward.
    pub(crate) identities: Arc<ForwardedIdentities>,
}

impl QueueJournal {
    /// The journal of a server that keeps its queue in `queue_file` if it is alone, and listens at this URL.
    pub(crate) fn configured(
        config: JournalConfig,
        base: &Path,
        queue_file: PathBuf,
        (scheme, address): (&str, SocketAddr),
    ) -> Result<Self, CommandError> {
        let commit_interval = config.commit_interval;
        match (config.medium, config.postgresql) {
            (JournalMedium::Memory, _) => Ok(Self::Memory),
            (JournalMedium::Postgresql, Some(postgresql)) => Ok(Self::Shared(Box::new(SharedJournal {
                address: match &postgresql.address {
                    Some(address) => address.clone(),
                    None if address.ip().is_unspecified() => {
                        return Err(CommandError::new(format!(
                            "the other schedulers need an address of this one, and {address} is every address"
                        ))
                        .hint("give --scheduler-address grpc://host:port, or grpcs:// with TLS"));
                    }
                    None => format!("{scheme}://{address}"),
                },
                queue: queue_file
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                config: postgresql,
                base: base.to_owned(),
                password: std::env::var(PASSWORD_VARIABLE).ok().map(Secret::new),
                commit_interval,
                identities: Arc::default(),
            }))),
            // The check of the configuration has refused PostgreSQL without its table.
            (JournalMedium::Disk | JournalMedium::Postgresql, _) => Ok(Self::Disk {
                path: queue_file,
                commit_interval,
            }),
        }
    }

    /// Identities of callers whose calls other servers forward to this one.
    pub(crate) fn identities(&self) -> Option<Arc<ForwardedIdentities>> {
        match self {
            Self::Shared(shared) => Some(shared.identities.clone()),
            Self::Memory | Self::Disk { .. } => None,
        }
    }
}
