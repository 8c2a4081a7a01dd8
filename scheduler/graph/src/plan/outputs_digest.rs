//! When two runs of a task left the same.

use std::collections::{BTreeMap, HashMap};

use bitzel_proto::Digest;
use bitzel_proto::graph::{Recipe, Task};
use bitzel_proto::reapi::{Directory, FileNode, SymlinkNode};

use super::private_tree::{BESIDE, private_paths};
use super::signature::blob;
use super::task_action::is_sstate;
use super::task_result::{TaskResult, without_time};
use super::tree::{Directories, FUNCTION, Node, Tree, TreeError};

/// Digests of Directories without times, by the digest with them. Most directories come back in task after task.
pub type Timeless = HashMap<Digest, Digest>;

/// A digest of what dependents of a task can see, without times.
///
/// Dependents of an sstate task see what it published, as in BitBake, where the rest need not even exist. Dependents
/// of other tasks see the recipe's whole private tree: their signatures cover only this task, so this task must
/// answer for everything that came before it.
pub fn outputs_digest(
    recipe: &Recipe,
    task: &Task,
    result: &TaskResult,
    directories: &Directories,
    timeless: &mut Timeless,
) -> Result<Digest, TreeError> {
    let mut seen: BTreeMap<&str, Option<Node>> = BTreeMap::new();
    for path in &task.published_paths {
        seen.insert(path, result.outputs.get(path).cloned());
    }
    if is_sstate(task) {
        seen.insert(BESIDE, result.outputs.get(BESIDE).cloned());
        for path in &task.sstate_plain_directories {
            seen.insert(path, private_node(recipe, result, path, directories)?);
        }
    } else {
        for path in private_paths(recipe) {
            seen.insert(path, result.outputs.get(path).cloned());
        }
    }
    let mut root = Directory::default();
    for (path, node) in seen {
        // A flat listing under whole paths: a key, never a tree that anybody stages.
        add(&mut root, path.to_owned(), node, directories, timeless)?;
    }
    // Local files that the task answers for are read by others straight from the layers, as do_unpack reads what
    // do_fetch checked: they count as if the task had left them.
    for file in &task.file_checksums {
        let digest = FUNCTION.digest(file.checksum.as_bytes()).to_wire();
        root.files.push(FileNode {
            name: file.path.clone(),
            digest: Some(digest),
            ..FileNode::default()
        });
    }
    Ok(blob(&root).0)
}

/// What is at `path` in the private trees.
fn private_node(
    recipe: &Recipe,
    result: &TaskResult,
    path: &str,
    directories: &Directories,
) -> Result<Option<Node>, TreeError> {
    for tree in private_paths(recipe) {
        if let (Some(below), Some(root)) = (path.strip_prefix(tree), result.directory(tree)) {
            return Tree::stored(directories, root).get(below);
        }
    }
    Ok(result.outputs.get(path).cloned())
}

fn add(
    parent: &mut Directory,
    name: String,
    node: Option<Node>,
    directories: &Directories,
    timeless: &mut Timeless,
) -> Result<(), TreeError> {
    match node {
        Some(Node::File(file)) => {
            let node_properties = without_time(file.node_properties.as_ref());
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
            let digest = Some(without_times(digest, directories, timeless)?.to_wire());
            parent
                .directories
                .push(bitzel_proto::reapi::DirectoryNode { name, digest });
        }
        Some(Node::Open(_)) | None => {}
    }
    Ok(())
}

fn without_times(
    digest: Digest,
    directories: &Directories,
    timeless: &mut Timeless,
) -> Result<Digest, TreeError> {
    if let Some(known) = timeless.get(&digest) {
        return Ok(*known);
    }
    let empty = Directory::default();
    let directory = match directories.get(&digest) {
        Some(directory) => directory,
        None if digest.is_empty_blob() => &empty,
        None => return Err(TreeError::UnknownDirectory(digest)),
    };
    let mut stripped = Directory {
        node_properties: without_time(directory.node_properties.as_ref()),
        ..Directory::default()
    };
    for file in &directory.files {
        add(
            &mut stripped,
            file.name.clone(),
            Some(Node::File(file.clone())),
            directories,
            timeless,
        )?;
    }
    for symlink in &directory.symlinks {
        add(
            &mut stripped,
            symlink.name.clone(),
            Some(Node::Symlink(symlink.clone())),
            directories,
            timeless,
        )?;
    }
    for child in &directory.directories {
        let child_digest = Digest::from_wire_field(FUNCTION, child.digest.as_ref())
            .map_err(|_| TreeError::MalformedDigest(child.name.clone()))?;
        add(
            &mut stripped,
            child.name.clone(),
            Some(Node::Stored(child_digest)),
            directories,
            timeless,
        )?;
    }
    let result = blob(&stripped).0;
    timeless.insert(digest, result);
    Ok(result)
}

#[cfg(test)]
mod tests;
