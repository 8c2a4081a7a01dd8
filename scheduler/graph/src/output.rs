//! Placing results where people want them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bitzel_cas::BlobStore;
use bitzel_proto::graph::Settings;
use futures::TryStreamExt;

use crate::plan::closure::TaskIndex;
use crate::plan::private_tree::{BESIDE, work_trees};
use crate::plan::task_result::TaskResult;
use crate::plan::tree::Node;
use crate::walk::BuildError;
use destination::Destination;
use layout::Layout;

mod destination;
mod layout;
#[cfg(test)]
mod tests;

/// Downloads under way at the same time.
const CONCURRENCY: usize = 16;

/// Places the results of the graph's targets below `destination`: what they published; for a task that publishes
/// nothing, its work tree. What lies in the deploy directory keeps its path from there, everything else its path from
/// the temporary directory. Each multiconfig has a directory of its own for its results.
///
/// Nothing is written outside of `destination`, whatever the results are and whoever else writes there. Files are there
/// whole or not at all.
pub async fn place_outputs(
    index: &TaskIndex,
    results: &BTreeMap<u32, Arc<TaskResult>>,
    store: &dyn BlobStore,
    destination: &Path,
) -> Result<u64, BuildError> {
    let places = Places(&index.graph().settings);
    let mut layout = Layout::default();
    for task in result_tasks(index, results) {
        let Some(result) = results.get(&task) else {
            continue;
        };
        let name = index.display_name(task);
        let multiconfig = &index.recipe(task).multiconfig;
        let published = &index.task(task).published_paths;
        let paths: Vec<&str> = if published.is_empty() && index.graph().targets.contains(&task) {
            work_trees(index.recipe(task)).collect()
        } else {
            published.iter().map(String::as_str).collect()
        };
        for path in paths {
            let Some(node) = result.outputs.get(path) else {
                continue;
            };
            let path = places.path(multiconfig, path);
            layout.add(store, &name, &path, node).await?;
        }
        // Files beside the declared ones lie in a tree that is laid out as /work is.
        if let Some(Node::Stored(root)) = result.outputs.get(BESIDE) {
            let parts = places.prefixes(multiconfig);
            let parts = parts.map(|prefix| (prefix, places.path(multiconfig, prefix)));
            layout.add_first_part(store, &name, *root, parts).await?;
        }
    }
    write(store, layout, destination).await
}

/// Where results are placed, by the directories that the graph's configurations have.
struct Places<'a>(&'a Option<Settings>);

impl Places<'_> {
    /// Directories of a configuration whose contents are placed without the way to them.
    fn prefixes(&self, multiconfig: &str) -> impl Iterator<Item = &str> {
        let directories = self.0.iter().flat_map(|settings| &settings.directories);
        directories
            .filter(move |own| own.multiconfig == multiconfig)
            .flat_map(|own| [own.deploy.as_str(), own.temporary.as_str()])
            .filter(|prefix| !prefix.is_empty())
    }

    fn path(&self, multiconfig: &str, path: &str) -> String {
        let below = self.prefixes(multiconfig).find_map(|prefix| strip(path, prefix));
        format!("{multiconfig}/{}", below.unwrap_or(path))
    }
}

/// Writes what is to be placed, and gives the number of files that were downloaded.
async fn write(store: &dyn BlobStore, layout: Layout, destination: &Path) -> Result<u64, BuildError> {
    let destination = Destination::open(destination)?;
    for path in layout.directories() {
        destination.make_directory(path)?;
    }
    for (path, target) in layout.symlinks() {
        destination.place_symlink(path, target)?;
    }
    let (files, links) = layout.files();
    futures::stream::iter(files.iter().map(Ok))
        .try_for_each_concurrent(CONCURRENCY, |(path, node)| {
            destination.write_file(store, path, node)
        })
        .await?;
    for (original, link) in links {
        destination.place_link(original, link)?;
    }
    Ok(files.len() as u64)
}

/// The targets; those that do nothing themselves stand for what their recipe publishes, or leaves beside, before them.
fn result_tasks(index: &TaskIndex, results: &BTreeMap<u32, Arc<TaskResult>>) -> BTreeSet<u32> {
    let leaves_beside = |task| {
        let result: Option<&Arc<TaskResult>> = results.get(&task);
        result.is_some_and(|result| result.outputs.contains_key(BESIDE))
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
            || leaves_beside(task)
        {
            found.insert(task);
        }
    }
    found
}

fn strip<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    path.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .map(|rest| rest.trim_start_matches('/'))
}
