//! Lookups in the tree of an input root.

use std::collections::HashMap;
use std::sync::Arc;

use bitzel_cas::DirectoryTree;
use bitzel_proto::reapi::{Directory, DirectoryNode};
use bitzel_proto::{Digest, DigestFunction};

use crate::error::Error;
use crate::node_properties::{hardlink_group, mtime};
use crate::recursion;

/// The Directory message of `digest`. Every Directory of a fetched tree is in it.
pub(crate) fn directory_of(tree: &DirectoryTree, digest: Digest) -> Result<&Arc<Directory>, Error> {
    tree.directories
        .get(&digest)
        .ok_or_else(|| Error::MissingBlobs(vec![digest]))
}

/// Entries that a further copy of a file counts as. A file with a modification time has an inode of its own at each path,
/// so a Directory that is repeated makes a small message write many files.
const COPY_WEIGHT: u64 = 16;

/// Totals of a tree, with all that occurs several times counted as often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeTotals {
    /// Number of files, directories and symlinks.
    pub entries: u64,
    /// Number of files with an inode of their own: those with a modification time and without a hardlink group.
    pub copies: u64,
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
        copies: copies_in(directory),
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
        totals.copies = totals.copies.saturating_add(below.copies);
        totals.bytes = totals.bytes.saturating_add(below.bytes);
    }
    known.insert(digest, totals);
    Ok(totals)
}

fn copies_in(directory: &Directory) -> u64 {
    let properties = directory.files.iter().map(|node| node.node_properties.as_ref());
    let copies =
        properties.filter(|properties| mtime(*properties).is_some() && hardlink_group(*properties).is_none());
    copies.count() as u64
}

/// Number of entries of a tree as they are compared with a bound: files that only repeated Directories bring, and that
/// are written one by one, weigh more.
pub(crate) fn weighed_entries(tree: &DirectoryTree, totals: TreeTotals) -> u64 {
    let distinct: u64 = tree
        .directories
        .values()
        .map(|directory| copies_in(directory))
        .sum();
    let repeated = totals.copies.saturating_sub(distinct);
    totals
        .entries
        .saturating_add(repeated.saturating_mul(COPY_WEIGHT - 1))
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
