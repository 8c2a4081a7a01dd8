//! Lookups in the tree of an input root.

use std::sync::Arc;

use bitzel_cas::DirectoryTree;
use bitzel_proto::reapi::{Directory, DirectoryNode};
use bitzel_proto::{Digest, DigestFunction};

use crate::error::Error;

/// The Directory message of `digest`. Every Directory of a fetched tree is in it.
pub(crate) fn directory_of(tree: &DirectoryTree, digest: Digest) -> Result<&Arc<Directory>, Error> {
    tree.directories
        .get(&digest)
        .ok_or_else(|| Error::MissingBlobs(vec![digest]))
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
