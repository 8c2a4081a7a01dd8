//! Output of a build: places the results of targets in a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bitzel_cas::{BlobStore, VerifyingBlobStore};
use bitzel_proto::Digest;
use bitzel_proto::graph::Settings;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use crate::plan::private_tree::{UNDECLARED_FILES, private_directories};
use crate::plan::task_index::TaskIndex;
use crate::plan::task_result::{LOG_PATH, TaskResult};
use crate::plan::tree::Node;
use crate::walk::BuildError;
use destination::Destination;
use layout::{Layout, PlannedFile};

mod destination;
mod layout;
#[cfg(test)]
mod tests;

/// The build directory, relative to /work.
const BUILD_DIRECTORY: &str = "build";
/// Directory of a task's statistics among its logs (`runner/cleanup.py`).
const STATISTICS: &str = "buildstats";
/// Maximum number of concurrent downloads.
const MAX_CONCURRENT_DOWNLOADS: usize = 16;

/// Places the results of the graph's targets below `destination`: their published paths, or the private trees of a task
/// that publishes nothing. Files in the deploy directory keep their path below it, other files their path below the
/// temporary directory. Each multiconfig has a directory of its own for its results.
///
/// Nothing is written outside of `destination`, whatever the results are and whoever else writes there. A file is written
/// completely, with the bytes of its digest, or not at all. Returns the tasks with blobs that the store does not have; all
/// other results are placed, except for hard links.
pub async fn place_outputs(
    index: &TaskIndex,
    results: &BTreeMap<u32, Arc<TaskResult>>,
    store: &Arc<dyn BlobStore>,
    destination: &Path,
) -> Result<Vec<LostOutputs>, BuildError> {
    // A server may be any REAPI server, and not all verify what they send.
    let store = &VerifyingBlobStore::new(Arc::clone(store));
    let output_paths = OutputPaths(&index.graph().settings);
    let mut layout = Layout::default();
    let (mut lost, mut tasks) = (BTreeMap::new(), BTreeMap::new());
    for task in result_tasks(index, results) {
        let Some(result) = results.get(&task) else {
            continue;
        };
        let name = index.display_name(task);
        let multiconfig = &index.recipe(task).multiconfig;
        let published = &index.task(task).published_paths;
        let paths: Vec<&str> = if published.is_empty() && index.graph().targets.contains(&task) {
            private_directories(index.recipe(task)).collect()
        } else {
            published.iter().map(String::as_str).collect()
        };
        let plan = async {
            for path in paths {
                let Some(node) = result.outputs.get(path) else {
                    continue;
                };
                let path = output_paths.path(multiconfig, path);
                layout.add(store, &name, &path, node).await?;
            }
            // Undeclared files are in a tree with the layout of /work.
            if let Some(Node::Stored(root)) = result.outputs.get(UNDECLARED_FILES) {
                let parts = output_paths.prefixes(multiconfig);
                let parts = parts.map(|prefix| (prefix, output_paths.path(multiconfig, prefix)));
                layout.add_first_part(store, &name, *root, parts).await?;
            }
            Ok(())
        };
        match plan.await {
            Err(error @ BuildError::Store { .. }) if error.is_lost_output() => {
                lost.insert(task, error);
            }
            planned => planned?,
        }
        tasks.insert(name, task);
    }
    for (name, error) in write(store, &layout, destination).await? {
        if let Some(task) = tasks.get(&name) {
            lost.entry(*task).or_insert(error);
        }
    }
    let lost = lost.into_iter();
    Ok(lost.map(|(task, error)| LostOutputs { task, error }).collect())
}

/// Task whose result names blobs that the store does not have, or has wrong.
pub struct LostOutputs {
    /// The task.
    pub task: u32,
    /// The store's error for one of the blobs.
    pub error: BuildError,
}

/// Places the tree `root` of the store below `destination`, as [`place_outputs`] does with results.
pub async fn place_tree(
    store: &dyn BlobStore,
    name: &str,
    root: Digest,
    destination: &Path,
) -> Result<(), BuildError> {
    let mut layout = Layout::default();
    layout.add(store, name, "", &Node::Stored(root)).await?;
    let lost = write(store, &layout, destination).await?;
    lost.into_values().next().map_or(Ok(()), Err)
}

/// Places what handlers of `BitBake`'s server find when a build ends below `destination`, as below the build directory: files
/// that tasks left without publishing them, and in `task-statistics` the statistics of the tasks in `executed`.
///
/// Results that the store no longer has are left out: nothing is built from these files.
pub async fn place_build_directory(
    index: &TaskIndex,
    results: &BTreeMap<u32, Arc<TaskResult>>,
    executed: &BTreeSet<u32>,
    store: &Arc<dyn BlobStore>,
    destination: &Path,
) -> Result<(), BuildError> {
    let store = &VerifyingBlobStore::new(Arc::clone(store));
    let mut layout = Layout::default();
    for (task, result) in results {
        let name = index.display_name(*task);
        let undeclared = [(BUILD_DIRECTORY, String::new())];
        let statistics = [(STATISTICS, "task-statistics".to_owned())];
        let (log, is_executed) = (result.outputs.get(LOG_PATH), executed.contains(task));
        let parts = [
            (result.outputs.get(UNDECLARED_FILES), undeclared),
            (log.filter(|_| is_executed), statistics),
        ];
        for (node, part) in parts {
            let Some(Node::Stored(root)) = node else {
                continue;
            };
            match layout.add_first_part(store, &name, *root, part.into_iter()).await {
                Err(error) if !error.is_lost_output() => return Err(error),
                _ => {}
            }
        }
    }
    write(store, &layout, destination).await.map(|_| ())
}

/// Paths of results below the destination, by the directories of the graph's configurations.
struct OutputPaths<'a>(&'a Option<Settings>);

impl OutputPaths<'_> {
    /// Directories of a configuration whose content is placed without their own path.
    fn prefixes(&self, multiconfig: &str) -> impl Iterator<Item = &str> {
        let directories = self.0.iter().flat_map(|settings| &settings.directories);
        directories
            .filter(move |own| own.multiconfig == multiconfig)
            .flat_map(|own| [own.deploy.as_str(), own.temporary.as_str()])
            .filter(|prefix| !prefix.is_empty())
    }

    /// Path of a result below the destination.
    fn path(&self, multiconfig: &str, path: &str) -> String {
        let below = self.prefixes(multiconfig).find_map(|prefix| strip(path, prefix));
        format!("{multiconfig}/{}", below.unwrap_or(path))
    }
}

/// Writes a layout. Returns the names of tasks with files that the store does not have, each with one error. Hard links are
/// placed only if there are none, since they may lead to such a file.
async fn write(
    store: &dyn BlobStore,
    layout: &Layout,
    destination: &Path,
) -> Result<BTreeMap<String, BuildError>, BuildError> {
    let destination = Destination::open(destination)?;
    for path in layout.directories() {
        destination.create_directory(path)?;
    }
    for (path, target) in layout.symlinks() {
        destination.place_symlink(path, target)?;
    }
    let (files, links) = layout.files();
    let mut lost = BTreeMap::new();
    let mut waiting = files.iter();
    // No stream with a closure: the compiler could not show that the future is Send.
    let mut downloads = FuturesUnordered::new();
    loop {
        while downloads.len() < MAX_CONCURRENT_DOWNLOADS
            && let Some(file) = waiting.next()
        {
            downloads.push(download(&destination, store, file));
        }
        let Some(downloaded) = downloads.next().await else {
            break;
        };
        if let Some((task, error)) = downloaded? {
            lost.insert(task, error);
        }
    }
    if lost.is_empty() {
        for (original, link) in links {
            destination.place_link(original, link)?;
        }
    }
    Ok(lost)
}

/// Writes a file. Returns the name of its task if the store does not have it.
async fn download(
    destination: &Destination,
    store: &dyn BlobStore,
    file: &PlannedFile<'_>,
) -> Result<Option<(String, BuildError)>, BuildError> {
    match destination.write_file(store, file.path, file.node).await {
        Err(error) if error.is_lost_output() => Ok(Some((file.task.to_owned(), error))),
        written => written.map(|()| None),
    }
}

/// Selects the results that [`place_outputs`] needs.
pub fn results_to_place(
    index: &TaskIndex,
    results: &BTreeMap<u32, Arc<TaskResult>>,
) -> BTreeMap<u32, Arc<TaskResult>> {
    let tasks = result_tasks(index, results).into_iter();
    tasks
        .filter_map(|task| Some((task, Arc::clone(results.get(&task)?))))
        .collect()
}

/// Selects the tasks whose results are placed: the targets. A target that has nothing to do is replaced by the tasks of
/// its recipe below it that publish paths or leave undeclared files.
fn result_tasks(index: &TaskIndex, results: &BTreeMap<u32, Arc<TaskResult>>) -> BTreeSet<u32> {
    let leaves_undeclared_files = |task| {
        let result: Option<&Arc<TaskResult>> = results.get(&task);
        result.is_some_and(|result| result.outputs.contains_key(UNDECLARED_FILES))
    };
    let mut found = BTreeSet::new();
    let mut pending = index.graph().targets.clone();
    let targets: BTreeSet<u32> = pending.iter().copied().collect();
    while let Some(task) = pending.pop() {
        if index.task(task).noexec {
            let recipe = index.task(task).recipe;
            let own = index
                .task(task)
                .dependencies
                .iter()
                .filter(|task| index.task(**task).recipe == recipe);
            pending.extend(own);
        } else if targets.contains(&task)
            || !index.task(task).published_paths.is_empty()
            || leaves_undeclared_files(task)
        {
            found.insert(task);
        }
    }
    found
}

/// Path below `prefix`.
fn strip<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    path.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .map(|rest| rest.trim_start_matches('/'))
}
