//! Input files of a build beside its graph.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_cas::BlobSource;
use bitzel_proto::Digest;
use bitzel_proto::graph::{Snapshot, Task, TaskGraph};

use super::shared_state::SharedState;
use crate::plan::tree::{DIGEST_FUNCTION, Directories};

/// Source of the files that the owner of a build has: metadata, data store snapshots and downloads.
///
/// A client reads them from its disk. They are uploaded when a task that needs them is executed and the store does not
/// have them.
#[async_trait]
pub trait BuildFiles: Send + Sync + 'static {
    /// All blobs of the metadata tree: its Directory messages and its files.
    fn metadata(&self) -> Vec<(Digest, BlobSource)>;

    /// The data store snapshot that the graph names by this digest.
    fn snapshot(&self, digest: Digest) -> BlobSource;

    /// A source in the download directory that the graph marks as present. `None` if it is not a regular file: a directory,
    /// for example, is left to BitBake's fetcher.
    async fn download(&self, name: &str) -> io::Result<Option<(Digest, BlobSource)>>;
}

/// Inputs of a build beside its graph.
#[derive(Clone)]
pub struct BuildInputs {
    /// Root of the metadata tree, which every input root holds: layers, `BitBake`, configuration and runner.
    pub metadata: Digest,
    /// Directory messages of that tree.
    pub directories: Directories,
    /// Source of the files.
    pub files: Arc<dyn BuildFiles>,
    /// Shared state cache of BitBake that answers look-ups, if the configuration names one that exists.
    pub shared_state: Option<Arc<dyn SharedState>>,
}

/// All data store snapshots that a graph names.
pub fn snapshots(graph: &TaskGraph) -> impl Iterator<Item = &Snapshot> {
    let base = graph
        .settings
        .iter()
        .flat_map(|settings| &settings.base_snapshots);
    let of_recipes = graph.recipes.iter().filter_map(|recipe| recipe.snapshot.as_ref());
    base.chain(of_recipes)
}

/// True if the task downloads sources, so that its input root has those that the owner of the build has.
pub fn is_fetch(task: &Task) -> bool {
    task.name == "do_fetch"
}

/// Digest of a data store snapshot.
pub fn snapshot_digest(snapshot: &Snapshot) -> Option<Digest> {
    Digest::from_parts(
        DIGEST_FUNCTION,
        &snapshot.sha256,
        snapshot.size_bytes.try_into().ok()?,
    )
    .ok()
}
