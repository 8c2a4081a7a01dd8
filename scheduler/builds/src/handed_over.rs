//! Plan of a build as the server reads it. Everything in it comes from a client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bitzel_cas::blob_store::read_whole;
use bitzel_cas::{BlobStore, DirectoryCache, Lease, fetch_directory_tree};
use bitzel_graph::plan::signature::{Environment, TaskRoot};
use bitzel_graph::plan::task_index::TaskIndex;
use bitzel_graph::plan::tree::DIGEST_FUNCTION;
use bitzel_graph::walk::build_files::{snapshot_digest, snapshots};
use bitzel_graph::walk::{BuildError, BuildInputs};
use bitzel_proto::builds::{BuildPlan, build_plan};
use bitzel_proto::graph::TaskGraph;
use bitzel_proto::message_memory::decode_message_within;
use bitzel_proto::{Digest, reapi};
use prost::{Message, Name};

use crate::error::BuildsError;
use crate::hand_over::PLAN_FORMAT_VERSION;
use crate::stored_files::StoredFiles;

/// Maximum size of a plan: the downloads of some ten thousand sources.
const MAX_PLAN_BYTES: u64 = 8 << 20;
/// Memory of a decoded message for each byte that its blob may have. Graphs of real builds take a third of it; a few bytes
/// can stand for a large structure.
const MAX_MEMORY_FOR_EACH_BYTE: u64 = 8;
/// Maximum length of the names of recipes, multiconfigs and tasks. They are in every event.
const MAX_NAME_BYTES: usize = 255;
/// Blobs that are searched for by one call.
const MAX_BLOBS_PER_CALL: usize = 10_000;

/// Plan of a build, checked and ready to be walked.
pub(crate) struct HandedOver {
    pub(crate) index: Arc<TaskIndex>,
    pub(crate) environment: Environment,
    pub(crate) inputs: BuildInputs,
    pub(crate) keep_going: bool,
    /// 0 is the limit of the server.
    pub(crate) jobs: usize,
    /// Lease of the build's own files.
    pub(crate) files: Lease,
}

impl HandedOver {
    /// Reads a plan, and checks that a server can walk it and has its files.
    pub(crate) async fn load(
        store: Arc<dyn BlobStore>,
        plan: Digest,
        max_graph_bytes: u64,
        directory_cache: &DirectoryCache,
    ) -> Result<Self, BuildsError> {
        let mut lease = lease(&*store, &[plan]).await?;
        let plan: BuildPlan = read(&*store, "plan", plan, MAX_PLAN_BYTES).await?;
        if plan.format_version != PLAN_FORMAT_VERSION {
            return Err(BuildsError::Format(plan.format_version));
        }
        let graph = digest("BuildPlan.graph", plan.graph.as_ref())?;
        lease = lease.and(self::lease(&*store, &[graph]).await?);
        let graph: TaskGraph = read(&*store, "task graph", graph, max_graph_bytes).await?;
        let root = match plan.root {
            Some(build_plan::Root::RootIdentity(identity)) => TaskRoot::OfWorker(identity),
            Some(build_plan::Root::RootImage(image)) => {
                TaskRoot::Image(digest("BuildPlan.root_image", Some(&image))?)
            }
            None => {
                return Err(BuildsError::Unsuitable(
                    "the plan names no root file system".to_owned(),
                ));
            }
        };
        let properties = plan.platform.unwrap_or_default().properties.into_iter();
        let platform = properties
            .map(|property| (property.name, property.value))
            .collect();
        let environment = Environment::of_graph(&graph, platform, root);
        let snapshots: BTreeSet<Digest> = snapshots(&graph).filter_map(snapshot_digest).collect();
        // Large graphs take a while.
        let index = tokio::task::spawn_blocking(move || TaskIndex::new(graph)).await;
        let index = index
            .map_err(|_| BuildsError::Panicked)?
            .map_err(BuildError::from)?;
        check_tasks(&index)?;
        let metadata = digest("BuildPlan.metadata", plan.metadata.as_ref())?;
        let tree = fetch_directory_tree(&*store, metadata, directory_cache).await;
        let tree = tree.map_err(BuildsError::store("reading the metadata of the build"))?;
        let mut files: BTreeSet<Digest> = tree.directories.keys().copied().chain(snapshots).collect();
        for file in tree.directories.values().flat_map(|directory| &directory.files) {
            files.insert(digest("FileNode.digest", file.digest.as_ref())?);
        }
        let mut downloads = BTreeMap::new();
        for download in plan.downloads {
            let digest = digest("Download.digest", download.digest.as_ref())?;
            downloads.insert(download.name, digest);
            files.insert(digest);
        }
        let files: Vec<Digest> = files.into_iter().collect();
        // The lease comes before the search, so that blobs that are found are not evicted.
        let mut missing = vec![];
        for files in files.chunks(MAX_BLOBS_PER_CALL) {
            lease = lease.and(self::lease(&*store, files).await?);
            let found = store.find_missing(files).await;
            missing.extend(found.map_err(BuildsError::store("searching the files of the build"))?);
        }
        if !missing.is_empty() {
            return Err(BuildsError::MissingBlobs(missing));
        }
        Ok(Self {
            index: Arc::new(index),
            environment,
            inputs: BuildInputs {
                metadata,
                directories: tree.directories,
                files: Arc::new(StoredFiles { store, downloads }),
                shared_state: None,
            },
            keep_going: plan.keep_going,
            jobs: plan.jobs as usize,
            files: lease,
        })
    }
}

/// Refuses tasks that only the client can run, and names that no event should carry.
fn check_tasks(index: &TaskIndex) -> Result<(), BuildsError> {
    let recipes = index.graph().recipes.iter();
    let recipes = recipes.flat_map(|recipe| [&recipe.package_name, &recipe.multiconfig]);
    let tasks = index.graph().tasks.iter().map(|task| &task.name);
    if let Some(name) = recipes.chain(tasks).find(|name| name.len() > MAX_NAME_BYTES) {
        let length = name.len();
        return Err(BuildsError::Unsuitable(format!(
            "a name has {length} bytes, more than {MAX_NAME_BYTES}, the limit of this server"
        )));
    }
    if index.graph().targets.is_empty() {
        return Err(BuildsError::Unsuitable("the build has no targets".to_owned()));
    }
    match index.tasks().find(|task| index.task(*task).interactive) {
        Some(task) => Err(BuildsError::Unsuitable(format!(
            "{} opens a terminal, which a server does not have; build it without --detach",
            index.display_name(task)
        ))),
        None => Ok(()),
    }
}

fn digest(field: &'static str, wire: Option<&reapi::Digest>) -> Result<Digest, BuildsError> {
    Digest::from_wire_field(DIGEST_FUNCTION, wire).map_err(BuildsError::digest(field))
}

async fn lease(store: &dyn BlobStore, digests: &[Digest]) -> Result<Lease, BuildsError> {
    let lease = store.lease(digests).await;
    lease.map_err(BuildsError::store("leasing the files of the build"))
}

/// Reads a message that is a blob.
pub(crate) async fn read<M: Message + Name + Default + Send + 'static>(
    store: &dyn BlobStore,
    what: &'static str,
    digest: Digest,
    limit: u64,
) -> Result<M, BuildsError> {
    if digest.size_bytes() > limit {
        return Err(BuildsError::TooLarge { what, digest, limit });
    }
    let bytes = match read_whole(store, digest).await {
        Ok(bytes) => bytes,
        Err(bitzel_cas::Error::NotFound(digest)) => return Err(BuildsError::MissingBlobs(vec![digest])),
        Err(error) => return Err(BuildsError::store("reading the plan of the build")(error)),
    };
    // A large message takes a while.
    let decoded = tokio::task::spawn_blocking(move || {
        // Graphs take more for each byte than other messages, so the limit is that of the largest one.
        let decoded = decode_message_within(&bytes, limit.saturating_mul(MAX_MEMORY_FOR_EACH_BYTE));
        decoded.map_err(|source| BuildsError::Malformed { what, source })
    });
    decoded.await.map_err(|_| BuildsError::Panicked)?
}

#[cfg(test)]
mod tests;
