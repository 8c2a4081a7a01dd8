//! Access rules that are read again when their file changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bitzel_access::{AccessTable, ServerAccess};
use bitzel_rpc::WatchedFiles;
use metrics::{counter, gauge};
use tokio::time::{Instant, MissedTickBehavior};
use toml::Table;

use crate::command_error::CommandError;
use crate::configuration::{Configuration, read_access};
use crate::tenants;

/// Pause before rules that could not be used are tried again: the cause may be elsewhere, such as an issuer of tokens that
/// does not answer.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// File with the access rules of a server.
#[derive(Debug, Clone)]
pub(crate) enum RulesFile {
    /// Configuration file, of which `[access]` is a part.
    Configuration(PathBuf),
    /// File of `--access`.
    Access(PathBuf),
}

/// Task that reads the access rules again when their file changes. The file may be replaced by a rename, also of a
/// directory above it: a kubelet swaps the symlink `..data` of a mounted `ConfigMap`.
pub(crate) struct AccessReload {
    file: RulesFile,
    access: ServerAccess,
    watched: WatchedFiles,
    /// The file without its rules, as it was at the start: changes there count after a restart.
    fixed: Table,
    /// True if the server has tenants, about which rules may contain mistakes.
    has_tenants: bool,
}

impl RulesFile {
    fn path(&self) -> &Path {
        match self {
            Self::Configuration(path) | Self::Access(path) => path,
        }
    }

    /// Reads the table `[access]`, after a check of the whole file.
    fn read(&self) -> Result<AccessTable, CommandError> {
        let access = match self {
            Self::Configuration(path) => Configuration::read(path)?.access.ok_or_else(|| {
                CommandError::new(format!("{} has no access rules any more", path.display()))
            })?,
            Self::Access(path) => read_access(path)?,
        };
        Ok(access.access)
    }

    /// Everything in the file but the rules.
    fn fixed_tables(&self) -> Result<Table, CommandError> {
        let mut tables: Table = std::fs::read_to_string(self.path())?.parse()?;
        tables.remove("access");
        Ok(tables)
    }
}

impl AccessReload {
    /// Follows `file`, which `access` was opened from. `watched` has watched it since before that.
    pub(crate) fn of(
        file: RulesFile,
        watched: WatchedFiles,
        access: ServerAccess,
        has_tenants: bool,
    ) -> Result<Self, CommandError> {
        Ok(Self {
            watched,
            fixed: file.fixed_tables()?,
            file,
            access,
            has_tenants,
        })
    }

    /// Follows the file until the future is dropped.
    pub(crate) async fn run(self) {
        gauge!("bitzel_access_rules_refused").set(0.0);
        let mut ticks = tokio::time::interval(WatchedFiles::CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Message of the last refusal, and the time of the next attempt.
        let mut refused: Option<(String, Instant)> = None;
        loop {
            ticks.tick().await;
            let is_due = refused.as_ref().is_some_and(|(_, next)| *next <= Instant::now());
            if !self.watched.changed() && !is_due {
                continue;
            }
            match self.reload().await {
                Ok(()) => {
                    refused = None;
                    counter!("bitzel_access_reloads_total", "outcome" => "applied").increment(1);
                    gauge!("bitzel_access_rules_refused").set(0.0);
                    tracing::info!(file = %self.file.path().display(), "access rules read again");
                }
                Err(error) => {
                    let message = error.to_string();
                    counter!("bitzel_access_reloads_total", "outcome" => "refused").increment(1);
                    gauge!("bitzel_access_rules_refused").set(1.0);
                    if refused.as_ref().is_none_or(|(last, _)| *last != message) {
                        tracing::error!(
                            file = %self.file.path().display(),
                            error = message,
                            "cannot use the new access rules; those from before are kept"
                        );
                    }
                    refused = Some((message, Instant::now() + RETRY_INTERVAL));
                }
            }
        }
    }

    async fn reload(&self) -> Result<(), CommandError> {
        let table = self.file.read()?;
        if self.has_tenants {
            for warning in tenants::warnings(Some(&table)) {
                tracing::warn!("{warning}");
            }
        }
        let base = self.file.path().parent().unwrap_or_else(|| Path::new(""));
        self.access.replace_rules(table, base).await?;
        if self.file.fixed_tables()? != self.fixed {
            tracing::warn!(
                file = %self.file.path().display(),
                "the file has changed outside of [access] too; that counts after a restart"
            );
        }
        Ok(())
    }
}
