//! Which input roots are so small that a copy costs less than an overlay: a pure function.

use bitzel_cas::DirectoryTree;

use super::directory_of;
use super::layer_selection::children;
use crate::error::Error;

/// For each mount overlayfs makes and removes some eight inodes besides what a command writes; more copies than that
/// cost more than links below an overlay.
const MAXIMUM_FILES: usize = 8;
/// Files, symlinks and directories.
const MAXIMUM_ENTRIES: usize = 16;
const MAXIMUM_BYTES: i64 = 256 << 10;

/// Whether `tree` has at most 8 files, of 256 KiB together, 16 entries, and nothing that says more than a name and a
/// content. Where properties say more, such as which files are one inode, a lower layer keeps them without further ado.
pub(super) fn is_small(tree: &DirectoryTree) -> Result<bool, Error> {
    let (mut files, mut entries, mut bytes) = (0, 0, 0_i64);
    let mut pending = vec![tree.root];
    while let Some(digest) = pending.pop() {
        let directory = directory_of(tree, digest)?;
        files += directory.files.len();
        entries += directory.files.len() + directory.symlinks.len() + directory.directories.len();
        if files > MAXIMUM_FILES
            || entries > MAXIMUM_ENTRIES
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
        pending.extend(children(tree, digest)?.into_iter().map(|(_, child)| child));
    }
    Ok(bytes <= MAXIMUM_BYTES)
}
