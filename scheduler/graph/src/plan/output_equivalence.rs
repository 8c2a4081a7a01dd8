//! Output equivalence of two runs of a task.

use std::collections::{BTreeMap, HashMap};

use bitzel_proto::Digest;
use bitzel_proto::graph::{Recipe, Task};
use bitzel_proto::reapi::{Directory, DirectoryNode, FileNode, SymlinkNode};

use super::private_tree::{UNDECLARED_FILES, private_tree_paths};
use super::signature::blob;
use super::task_action::is_sstate;
use super::task_result::{TaskResult, properties_without_time};
use super::tree::{DIGEST_FUNCTION, Directories, Node, Tree, TreeError};

/// Digests of Directories without times, by the digest with times. Most directories recur in one task after the other.
pub type DigestsWithoutTimes = HashMap<Digest, Digest>;

/// Digest, without times, of the outputs that dependents of a task can see. Two runs with equal digests are equivalent.
///
/// Dependents of an sstate task see its published paths, as in BitBake, in which the rest need not even exist. Dependents
/// of other tasks see the recipe's whole private tree: their signatures cover only this task, so the digest of this task
/// must cover all tasks before it.
pub fn outputs_digest(
    recipe: &Recipe,
    task: &Task,
    result: &TaskResult,
    directories: &Directories,
    digests_without_times: &mut DigestsWithoutTimes,
) -> Result<Digest, TreeError> {
    let mut visible: BTreeMap<&str, Option<Node>> = BTreeMap::new();
    for path in &task.published_paths {
        visible.insert(path, result.outputs.get(path).cloned());
    }
    if is_sstate(task) {
        visible.insert(UNDECLARED_FILES, result.outputs.get(UNDECLARED_FILES).cloned());
        for path in &task.sstate_plain_directories {
            visible.insert(path, private_node(recipe, result, path, directories)?);
        }
    } else {
        for path in private_tree_paths(recipe) {
            visible.insert(path, result.outputs.get(path).cloned());
        }
    }
    let mut root = Directory::default();
    for (path, node) in visible {
        // A flat list of whole paths: input of a key, never a tree that is staged.
        add(
            &mut root,
            path.to_owned(),
            node,
            directories,
            digests_without_times,
        )?;
    }
    // Other tasks read local files that this task covers directly from the layers, as do_unpack reads those that
    // do_fetch checked. They count as outputs of the task.
    for file in &task.file_checksums {
        let digest = DIGEST_FUNCTION.digest(file.checksum.as_bytes()).to_wire();
        root.files.push(FileNode {
            name: file.path.clone(),
            digest: Some(digest),
            ..FileNode::default()
        });
    }
    Ok(blob(&root).0)
}

/// Finds the node at `path` in the private trees.
fn private_node(
    recipe: &Recipe,
    result: &TaskResult,
    path: &str,
    directories: &Directories,
) -> Result<Option<Node>, TreeError> {
    for tree in private_tree_paths(recipe) {
        if let (Some(below), Some(root)) = (path.strip_prefix(tree), result.directory(tree)) {
            return Tree::stored(directories, root).get(below);
        }
    }
    Ok(result.outputs.get(path).cloned())
}

/// Adds a node without its times to `parent`.
fn add(
    parent: &mut Directory,
    name: String,
    node: Option<Node>,
    directories: &Directories,
    digests_without_times: &mut DigestsWithoutTimes,
) -> Result<(), TreeError> {
    match node {
        Some(Node::File(file)) => {
            let node_properties = properties_without_time(file.node_properties.as_ref());
            parent.files.push(FileNode {
                name,
                node_properties,
                ..file
            });
        }
        Some(Node::Symlink(symlink)) => {
            let node_properties = None;
            parent.symlinks.push(SymlinkNode {
                name,
                node_properties,
                ..symlink
            });
        }
        Some(Node::Stored(digest)) => {
            let digest = Some(digest_without_times(digest, directories, digests_without_times)?.to_wire());
            parent.directories.push(DirectoryNode { name, digest });
        }
        Some(Node::Open(_)) | None => {}
    }
    Ok(())
}

/// Digest of a Directory without times.
fn digest_without_times(
    digest: Digest,
    directories: &Directories,
    digests_without_times: &mut DigestsWithoutTimes,
) -> Result<Digest, TreeError> {
    if let Some(known) = digests_without_times.get(&digest) {
        return Ok(*known);
    }
    let empty = Directory::default();
    let directory = match directories.get(&digest) {
        Some(directory) => directory,
        None if digest.is_empty_blob() => &empty,
        None => return Err(TreeError::UnknownDirectory(digest)),
    };
    let mut stripped = Directory {
        node_properties: properties_without_time(directory.node_properties.as_ref()),
        ..Directory::default()
    };
    for file in &directory.files {
        add(
            &mut stripped,
            file.name.clone(),
            Some(Node::File(file.clone())),
            directories,
            digests_without_times,
        )?;
    }
    for symlink in &directory.symlinks {
        add(
            &mut stripped,
            symlink.name.clone(),
            Some(Node::Symlink(symlink.clone())),
            directories,
            digests_without_times,
        )?;
    }
    for child in &directory.directories {
        let child_digest = Digest::from_wire_field(DIGEST_FUNCTION, child.digest.as_ref())
            .map_err(|_| TreeError::MalformedDigest(child.name.clone()))?;
        add(
            &mut stripped,
            child.name.clone(),
            Some(Node::Stored(child_digest)),
            directories,
            digests_without_times,
        )?;
    }
    let result = blob(&stripped).0;
    digests_without_times.insert(digest, result);
    Ok(result)
}

#[cfg(test)]
mod tests;
