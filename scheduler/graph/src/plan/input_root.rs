//! Input root of a task: the tree that it finds at /work.

use std::collections::BTreeMap;

use bitzel_proto::Digest;
use bitzel_proto::reapi::FileNode;
use bytes::Bytes;

use super::private_tree::UNDECLARED_FILES;
use super::task_index::TaskIndex;
use super::task_inputs::TaskInputs;
use super::task_result::TaskResult;
use super::tree::{Directories, FinishedTree, MergeConflict, Node, Tree, TreeError};

/// Error of an input root that cannot be assembled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputRootError {
    /// Two components have different content at one path.
    #[error("{first} and {second} provide different content at {path}")]
    Conflict {
        /// The earlier component.
        first: String,
        /// The later component.
        second: String,
        /// Path relative to /work.
        path: String,
    },
    /// See [`TreeError`].
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Content of an input root beside the results of other tasks.
#[derive(Debug, Clone)]
pub struct FixedInputs<'a> {
    /// Root with metadata, BitBake's library, configuration and runner.
    pub metadata: Digest,
    /// Small files that are generated for this task, by path.
    pub files: Vec<(&'a str, Bytes)>,
    /// Files that the store has or gets separately, by path.
    pub stored: Vec<(String, Digest)>,
}

/// Assembles the input root. `private` has the private trees of the task's recipe, and of other recipes in whose trees the
/// task works, by path. The undeclared files of those recipes are at their paths.
pub fn input_root<'r>(
    index: &TaskIndex,
    inputs: &TaskInputs,
    fixed: FixedInputs<'_>,
    private: &BTreeMap<String, Digest>,
    result: &dyn Fn(u32) -> &'r TaskResult,
    directories: &Directories,
) -> Result<FinishedTree, InputRootError> {
    let mut tree = Tree::stored(directories, fixed.metadata);
    let mut blobs = Vec::new();
    for (path, content) in fixed.files {
        blobs.push(tree.put_file(path, content)?);
    }
    for (path, digest) in fixed.stored {
        tree.put(
            &path,
            Node::File(FileNode {
                digest: Some(digest.to_wire()),
                ..FileNode::default()
            }),
        )?;
    }
    let allowed = &index
        .graph()
        .settings
        .as_ref()
        .map(|settings| settings.overlap_allowed.clone())
        .unwrap_or_default();
    let may_replace = |path: &str| allowed.iter().any(|prefix| path.starts_with(prefix.as_str()));
    let own_recipe = inputs.own.primary.map(|task| index.task(task).recipe);
    let mut staged: Vec<u32> = Vec::new();
    for component in &inputs.components {
        for path in &index.task(*component).published_paths {
            let Some(node) = result(*component).outputs.get(path) else {
                continue;
            };
            tree.merge(path, None, Some(node), &may_replace)
                .map_err(|error| name_conflict(error, index, &staged, *component, result, directories))?;
        }
        // Undeclared files of the own recipe are in its private trees.
        let undeclared = result(*component).outputs.get(UNDECLARED_FILES);
        if let Some(undeclared) = undeclared.filter(|_| own_recipe != Some(index.task(*component).recipe)) {
            tree.merge("", None, Some(undeclared), &may_replace)
                .map_err(|error| name_conflict(error, index, &staged, *component, result, directories))?;
        }
        staged.push(*component);
    }
    // The task whose trees include those of the others is the last one: its files replace theirs.
    let foreign = inputs.foreign.values();
    for task in foreign.flat_map(|sources| sources.replay.iter().chain(&sources.primary)) {
        tree.merge("", None, result(*task).outputs.get(UNDECLARED_FILES), &is_shared)
            .map_err(|error| name_conflict(error, index, &staged, *task, result, directories))?;
        staged.push(*task);
    }
    for (path, root) in private {
        tree.put(path, Node::Stored(*root))?;
    }
    let mut finished = tree.finish();
    finished.blobs.extend(blobs);
    Ok(finished)
}

/// True for paths at which tasks of several recipes may leave undeclared files. As in a TMPDIR of BitBake, the file of the
/// last one is there.
fn is_shared(path: &str) -> bool {
    let below = path.trim_start_matches('/').strip_prefix("build/");
    below.is_some_and(|below| !below.starts_with("conf/"))
}

/// Names the earlier component of a conflict with the component `second`.
fn name_conflict<'r>(
    error: TreeError,
    index: &TaskIndex,
    staged: &[u32],
    second: u32,
    result: &dyn Fn(u32) -> &'r TaskResult,
    directories: &Directories,
) -> InputRootError {
    let TreeError::Conflict(MergeConflict { path }) = error else {
        return error.into();
    };
    let has_path = |task: &&u32| {
        result(**task).outputs.iter().any(|(output, node)| {
            let below = path
                .strip_prefix(output.as_str())
                .filter(|below| below.is_empty() || below.starts_with('/'));
            match (below, node) {
                (Some(below), Node::Stored(root)) => {
                    matches!(Tree::stored(directories, *root).get(below), Ok(Some(_)))
                }
                (Some(below), _) => below.is_empty(),
                (None, _) => false,
            }
        })
    };
    let first = staged.iter().find(has_path).map_or_else(
        || "another component".to_owned(),
        |task| index.display_name(*task),
    );
    InputRootError::Conflict {
        first,
        second: index.display_name(second),
        path,
    }
}

#[cfg(test)]
mod tests;
