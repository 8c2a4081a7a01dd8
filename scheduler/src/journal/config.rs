//! Configuration of the journal.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::PostgresqlConfig;

/// Journal of the operation queue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// Medium of the journal.
    pub medium: JournalMedium,
    /// Time for which records gather before they are written together, with one fsync. The first answer to each request
    /// and each assignment to a worker waits for it. With `0s` records gather during the write before, which is enough
    /// unless an fsync takes long and costs others too much.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["5ms"]))]
    pub commit_interval: Duration,
    /// PostgreSQL, for the medium `postgresql`.
    pub postgresql: Option<PostgresqlConfig>,
}

/// Medium of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum JournalMedium {
    /// A file in the server's own directory (`--cache-dir`): the queue survives a restart.
    #[default]
    Disk,
    /// Memory: a restart loses the queue, and clients execute again.
    Memory,
    /// Tables in PostgreSQL, which several servers may share: one leads, the others forward calls to it and take over when
    /// it is gone.
    Postgresql,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            medium: JournalMedium::default(),
            commit_interval: Duration::ZERO,
            postgresql: None,
        }
    }
}
