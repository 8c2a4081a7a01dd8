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

/// Totals of a tree, with all that occurs several times counted as often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeTotals {
    /// Number of files, directories and symlinks.
    pub entries: u64,
    /// Size of all files in bytes.
    pub bytes: u64,
}

/// Sums a tree up. Visits a Directory that occurs many times only once, so a tree that unfolds to astronomical size stays
/// cheap here.
pub fn tree_totals(tree: &DirectoryTree) -> Result<TreeTotals, Error> {
    totals_below(tree, tree.root, &mut HashMap::new())
}

fn totals_below(
    tree: &DirectoryTree,
    digest: Digest,
    known: &mut HashMap<Digest, TreeTotals>,
) -> Result<TreeTotals, Error> {
    if let Some(totals) = known.get(&digest) {
        return Ok(*totals);
    }
    let directory = directory_of(tree, digest)?;
    let own = directory.files.len() + directory.symlinks.len() + directory.directories.len();
    let mut totals = TreeTotals {
        entries: own as u64,
        bytes: 0,
    };
    for node in &directory.files {
        let file = Digest::from_wire_field(digest.function(), node.digest.as_ref());
        let size = file.map_err(Error::digest("FileNode.digest"))?.size_bytes();
        totals.bytes = totals.bytes.saturating_add(size);
    }
    for node in &directory.directories {
        let child = child_digest(digest.function(), node)?;
        let below = recursion::descend(|| totals_below(tree, child, known))?;
        totals.entries = totals.entries.saturating_add(below.entries);
        totals.bytes = totals.bytes.saturating_add(below.bytes);
    }
    known.insert(digest, totals);
    Ok(totals)
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
