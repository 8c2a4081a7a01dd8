//! Detection of input roots so small that a copy costs less than an overlay. A pure function.

use bitzel_cas::DirectoryTree;

use crate::error::Error;
use crate::input_tree::{directory_of, subdirectories};

/// Limit of the files. For each mount overlayfs creates and removes about eight inodes in addition to those that a
/// command writes. More copies than that cost more than links below an overlay.
const MAX_FILES: usize = 8;
/// Limit of the files, symlinks and directories together.
const MAX_ENTRIES: usize = 16;
/// Limit of the bytes of all files.
const MAX_BYTES: i64 = 256 << 10;

/// True if `tree` is within the limits and no node has properties. A lower layer keeps properties, such as hardlink
/// groups, without further work; a copy would have to restore them.
pub(super) fn is_small(tree: &DirectoryTree) -> Result<bool, Error> {
    let (mut files, mut entries, mut bytes) = (0, 0, 0_i64);
    let mut pending = vec![tree.root];
    while let Some(digest) = pending.pop() {
        let directory = directory_of(tree, digest)?;
        files += directory.files.len();
        entries += directory.files.len() + directory.symlinks.len() + directory.directories.len();
        if files > MAX_FILES
            || entries > MAX_ENTRIES
            || directory.node_properties.is_some()
            || directory.files.iter().any(|node| node.node_properties.is_some())
            || directory
                .symlinks
                .iter()
                .any(|node| node.node_properties.is_some())
        {
            return Ok(false);
        }
        for digest in directory.files.iter().filter_map(|node| node.digest.as_ref()) {
            bytes = bytes.saturating_add(digest.size_bytes);
        }
        pending.extend(subdirectories(tree, digest)?.into_iter().map(|(_, child)| child));
    }
    Ok(bytes <= MAX_BYTES)
}
