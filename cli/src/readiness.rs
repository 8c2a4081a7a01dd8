//! Readiness of this process: the conditions behind `/readyz`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bitzel_scheduler::GroupReadiness;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Bytes that the write check writes: one block of most file systems.
const CHECKED_BYTES: usize = 4096;

/// Conditions that all have to hold before orchestrators send work here.
#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    /// From its cancellation on, nothing new is taken.
    shutdown: CancellationToken,
    /// Directory that has to take writes.
    written: Option<PathBuf>,
    /// State of the connection to the scheduler.
    connected: Option<watch::Receiver<bool>>,
    /// Group of schedulers, one of which has to lead.
    group: Option<GroupReadiness>,
    /// Problem that keeps the process from its work, as text for people.
    problem: Option<watch::Receiver<Option<String>>>,
}

impl Readiness {
    /// Ready until `shutdown`.
    pub(crate) fn until(shutdown: CancellationToken) -> Self {
        Self {
            shutdown,
            written: None,
            connected: None,
            group: None,
            problem: None,
        }
    }

    /// Ready only if `directory` takes writes.
    pub(crate) fn with_writable(self, directory: PathBuf) -> Self {
        Self {
            written: Some(directory),
            ..self
        }
    }

    /// Ready only while `connected` is true.
    pub(crate) fn with_connection(self, connected: watch::Receiver<bool>) -> Self {
        Self {
            connected: Some(connected),
            ..self
        }
    }

    /// Ready only while a scheduler of the group leads.
    pub(crate) fn with_leader(self, group: GroupReadiness) -> Self {
        Self {
            group: Some(group),
            ..self
        }
    }

    /// Ready only while there is no problem.
    pub(crate) fn without(self, problem: watch::Receiver<Option<String>>) -> Self {
        Self {
            problem: Some(problem),
            ..self
        }
    }

    /// Checks all conditions. The error is the first one that does not hold, as text for people.
    pub(crate) async fn check(&self) -> Result<(), String> {
        if self.shutdown.is_cancelled() {
            return Err("shutting down".to_owned());
        }
        if self
            .connected
            .as_ref()
            .is_some_and(|connected| !*connected.borrow())
        {
            return Err("no connection to the scheduler".to_owned());
        }
        if self.group.as_ref().is_some_and(|group| !group.is_ready()) {
            return Err("no scheduler leads (can they reach PostgreSQL?)".to_owned());
        }
        if let Some(problem) = self.problem.as_ref().and_then(|problem| problem.borrow().clone()) {
            return Err(problem);
        }
        if let Some(directory) = self.written.clone() {
            let written = tokio::task::spawn_blocking(move || {
                write_in(&directory)
                    .map_err(|error| format!("cannot write in {}: {error}", directory.display()))
            });
            written.await.map_err(|error| error.to_string())??;
        }
        Ok(())
    }
}

/// Writes a file to the disk and removes it. A file without a name leaves nothing behind if the process is killed.
fn write_in(directory: &Path) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(directory)?;
    file.write_all(&[0; CHECKED_BYTES])?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_with_the_shutdown() {
        let shutdown = CancellationToken::new();
        let readiness = Readiness::until(shutdown.clone());
        assert_eq!(readiness.check().await, Ok(()));
        shutdown.cancel();
        assert_eq!(readiness.check().await, Err("shutting down".to_owned()));
    }

    #[tokio::test]
    async fn follows_the_connection() {
        let (sender, connected) = watch::channel(false);
        let readiness = Readiness::until(CancellationToken::new()).with_connection(connected);
        assert_eq!(
            readiness.check().await,
            Err("no connection to the scheduler".to_owned())
        );
        sender.send_replace(true);
        assert_eq!(readiness.check().await, Ok(()));
    }

    #[tokio::test]
    async fn tells_the_problem_while_there_is_one() {
        let (sender, problem) = watch::channel(Some("cannot list the pods".to_owned()));
        let readiness = Readiness::until(CancellationToken::new()).without(problem);
        assert_eq!(readiness.check().await, Err("cannot list the pods".to_owned()));
        sender.send_replace(None);
        assert_eq!(readiness.check().await, Ok(()));
    }

    #[tokio::test]
    async fn needs_a_directory_that_takes_writes() {
        let directory = tempfile::tempdir().expect("a directory");
        let readiness = Readiness::until(CancellationToken::new()).with_writable(directory.path().to_owned());
        assert_eq!(readiness.check().await, Ok(()));
        assert_eq!(
            std::fs::read_dir(directory.path()).expect("it is there").count(),
            0
        );
        // Removed instead of read-only: root may write everywhere.
        directory.close().expect("it is removed");
        let refused = readiness.check().await.expect_err("it is gone");
        assert!(refused.contains("No such file or directory"), "{refused}");
    }
}
