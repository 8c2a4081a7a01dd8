//! Shared state caches of BitBake, as a source of results.

use std::io;

use async_trait::async_trait;
use bitzel_cas::BlobSource;
use bitzel_proto::Digest;

/// Shared state cache: archives of published results, by the unihash of their tasks.
///
/// The metadata decides where an archive lies and if it can be trusted, so an implementation runs the metadata's own
/// functions.
#[async_trait]
pub trait SharedState: Send + Sync + 'static {
    /// Searches archives. The answer has the queries in their order.
    async fn search(&self, queries: Vec<ArchiveQuery>) -> io::Result<ArchiveSearch>;

    /// Fetches the archive of a task and checks its signature, if the configuration requires one. The files are to be
    /// placed in the input root of the setscene task. `None` if there is no archive that may be used.
    async fn fetch(&self, query: ArchiveQuery) -> io::Result<Option<Vec<ArchiveFile>>>;
}

/// Task whose archive is searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveQuery {
    /// BitBake's name of the recipe variant.
    pub recipe: String,
    /// Name of the configuration; empty for the default one.
    pub multiconfig: String,
    /// Name of the task, for example `do_populate_sysroot`.
    pub task: String,
    /// Its unihash.
    pub unihash: String,
    /// `BB_HASHFILENAME` of the recipe.
    pub hash_filename: String,
    /// SHA-256 of the recipe's data store snapshot.
    pub snapshot: String,
}

/// Answer to a search.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiveSearch {
    /// True for each query whose archive exists.
    pub found: Vec<bool>,
    /// The counts as BitBake prints them.
    pub summary: String,
}

/// File of an archive: the archive itself, or its signature.
#[derive(Debug)]
pub struct ArchiveFile {
    /// Path in the input root, relative to /work.
    pub path: String,
    /// Digest of the file.
    pub digest: Digest,
    /// Content of the file.
    pub source: BlobSource,
}
