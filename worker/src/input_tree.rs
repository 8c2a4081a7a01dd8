//! Lookups in the tree of an input root.

use std::collections::HashMap;
use std::sync::Arc;

use bitzel_cas::DirectoryTree;
use bitzel_proto::reapi::{Directory, DirectoryNode};
use bitzel_proto::{Digest, DigestFunction};

use crate::error::Error;
use crate::recursion;

/// The Directory message of `digest`. Every Directory of a fetched tree is in it.
pub(crate) fn directory_of(tree: &DirectoryTree, digest: Digest) -> Result<&Arc<Directory>, Error> {
    tree.directories
        .get(&digest)
        .ok_or_else(|| Error::MissingBlobs(vec![digest]))
}

/// Number of files, directories and symlinks of a tree, as often as they occur. Visits a Directory that occurs many
/// times only once, so a tree that unfolds to astronomical size stays cheap here.
pub(crate) fn count_entries(tree: &DirectoryTree) -> Result<u64, Error> {
    let mut counts = HashMap::new();
    entries_below(tree, tree.root, &mut counts)
}

fn entries_below(
    tree: &DirectoryTree,
    digest: Digest,
    counts: &mut HashMap<Digest, u64>,
) -> Result<u64, Error> {
    if let Some(count) = counts.get(&digest) {
        return Ok(*count);
    }
    let directory = directory_of(tree, digest)?;
    let own = directory.files.len() + directory.symlinks.len() + directory.directories.len();
    let mut count = own as u64;
    for node in &directory.directories {
        let child = child_digest(digest.function(), node)?;
        let below = recursion::descend(|| entries_below(tree, child, counts))?;
        count = count.saturating_add(below);
    }
    counts.insert(digest, count);
    Ok(count)
}

/// The digest that a node of a directory refers to.
pub(crate) fn child_digest(function: DigestFunction, node: &DirectoryNode) -> Result<Digest, Error> {
    Digest::from_wire_field(function, node.digest.as_ref()).map_err(Error::digest("DirectoryNode.digest"))
}

/// Names and digests of the subdirectories of a directory.
pub(crate) fn subdirectories(tree: &DirectoryTree, digest: Digest) -> Result<Vec<(String, Digest)>, Error> {
    let nodes = &directory_of(tree, digest)?.directories;
    let children = nodes
        .iter()
        .map(|node| Ok((node.name.clone(), child_digest(digest.function(), node)?)));
    children.collect()
}
