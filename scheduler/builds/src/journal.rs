//! Journal of builds: what must survive a restart of the server.

use async_trait::async_trait;

use crate::build::BuildId;

/// Record of builds, one row each. The rows are opaque to the journal.
#[async_trait]
pub trait BuildJournal: Send + Sync + 'static {
    /// Writes the row of a build, and waits until it is durable. What is shown of the build waits for that.
    async fn write(&self, build: BuildId, row: Vec<u8>);

    /// Removes the rows of builds without waiting.
    fn remove(&self, builds: Vec<BuildId>);
}

/// Row of a build that an earlier run of the server left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredBuild {
    /// The build.
    pub build: BuildId,
    /// Its row.
    pub row: Vec<u8>,
}
