//! Private trees of a recipe: WORKDIR, the recipe's other own directories, and its undeclared files.

use std::collections::BTreeMap;

use bitzel_proto::Digest;
use bitzel_proto::graph::Recipe;

use super::task_inputs::TreeSources;
use super::task_result::TaskResult;
use super::tree::{Directories, FinishedTree, MergeConflict, Node, Tree, TreeError};

/// Path of the undeclared files: files that a recipe's tasks left below the build directory without publishing them, in a
/// tree with the layout of /work.
///
/// The tree is passed from task to task of the recipe, as the recipe's own directories are. The runner moves the files to
/// their paths (`runner/undeclared_files.py`).
pub const UNDECLARED_FILES: &str = "bitzel/beside";

/// Paths of the recipe's own directories, relative to /work.
pub fn private_directories(recipe: &Recipe) -> impl Iterator<Item = &str> {
    std::iter::once(&recipe.work_directory)
        .chain(&recipe.other_private_directories)
        .map(String::as_str)
}

/// Paths of all trees that are passed from task to task of the recipe: its own directories and [`UNDECLARED_FILES`].
pub fn private_tree_paths(recipe: &Recipe) -> impl Iterator<Item = &str> {
    private_directories(recipe).chain(std::iter::once(UNDECLARED_FILES))
}

/// Error of private trees that cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrivateTreeError {
    /// Two tasks of one recipe that ran in parallel left different content at one path.
    #[error("{path} was changed by task {task}, and differently by a task that ran in parallel")]
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

/// Merges the private trees that some tasks of a recipe left, by path: those of the primary task, with the changes of the
/// tasks that ran in parallel. Paths without a tree are left out.
pub fn private_trees<'r>(
    recipe: &Recipe,
    sources: &TreeSources,
    result: &dyn Fn(u32) -> &'r TaskResult,
    directories: &Directories,
) -> Result<BTreeMap<String, FinishedTree>, PrivateTreeError> {
    let mut trees = BTreeMap::new();
    for path in private_tree_paths(recipe) {
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

/// Roots of finished trees, by path.
pub fn roots(trees: &BTreeMap<String, FinishedTree>) -> BTreeMap<String, Digest> {
    trees
        .iter()
        .map(|(path, tree)| (path.clone(), tree.root))
        .collect()
}

#[cfg(test)]
mod tests;
