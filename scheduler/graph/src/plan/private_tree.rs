//! The tree that belongs to one recipe alone: WORKDIR and what else its tasks own.

use std::collections::BTreeMap;

use bitzel_proto::Digest;
use bitzel_proto::graph::Recipe;

use super::closure::TreeSources;
use super::task_result::TaskResult;
use super::tree::{Directories, FinishedTree, MergeConflict, Node, Tree, TreeError};

/// Tree of the files that a recipe's tasks left in shared places without declaring them, laid out as /work is.
///
/// It goes from task to task of the recipe as its work trees do; the runner puts the files in place
/// (`runner/beside.py`).
pub const BESIDE: &str = "bitzel/beside";

/// Paths of the recipe's work trees, relative to /work.
pub fn work_trees(recipe: &Recipe) -> impl Iterator<Item = &str> {
    std::iter::once(&recipe.work_directory)
        .chain(&recipe.other_private_directories)
        .map(String::as_str)
}

/// Paths of all trees that go from task to task of the recipe: its work trees and [`BESIDE`].
pub fn private_paths(recipe: &Recipe) -> impl Iterator<Item = &str> {
    work_trees(recipe).chain(std::iter::once(BESIDE))
}

/// Two tasks of one recipe that ran side by side left different content at one path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrivateTreeError {
    /// The conflict, with the task whose changes did not fit.
    #[error("{path} was changed by task {task} and differently by a task that ran beside it")]
    Conflict {
        /// The later task.
        task: u32,
        /// Path relative to /work.
        path: String,
    },
    /// See [`TreeError`].
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// The private trees that some tasks of a recipe left, by path: the primary task's, with the changes of the tasks that
/// ran beside it. Paths without a tree yet are left out.
pub fn private_trees<'r>(
    recipe: &Recipe,
    sources: &TreeSources,
    result: &dyn Fn(u32) -> &'r TaskResult,
    directories: &Directories,
) -> Result<BTreeMap<String, FinishedTree>, PrivateTreeError> {
    let mut trees = BTreeMap::new();
    for path in private_paths(recipe) {
        let start = sources.primary.and_then(|task| result(task).directory(path));
        let mut present = start.is_some();
        let mut tree = start.map_or_else(|| Tree::new(directories), |root| Tree::stored(directories, root));
        for task in &sources.replay {
            let (before, after) = (result(*task).before.get(path), result(*task).directory(path));
            present |= after.is_some();
            let (before, after) = (before.copied().map(Node::Stored), after.map(Node::Stored));
            tree.merge("", before.as_ref(), after.as_ref(), &|_| false)
                .map_err(|error| match error {
                    TreeError::Conflict(MergeConflict { path: below }) => PrivateTreeError::Conflict {
                        task: *task,
                        path: format!("{path}{below}"),
                    },
                    other => other.into(),
                })?;
        }
        if present {
            trees.insert(path.to_owned(), tree.finish());
        }
    }
    Ok(trees)
}

/// The roots of finished trees.
pub fn roots(trees: &BTreeMap<String, FinishedTree>) -> BTreeMap<String, Digest> {
    trees
        .iter()
        .map(|(path, tree)| (path.clone(), tree.root))
        .collect()
}

#[cfg(test)]
mod tests;
