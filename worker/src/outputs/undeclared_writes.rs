//! Detection of writes outside the declared outputs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bitzel_cas::DirectoryTree;
use bitzel_proto::Digest;
use tokio_util::sync::CancellationToken;

use super::file_digest::hash_file;
use super::merged_tree::{MergedNode, MergedTree, check_depth, is_whiteout};
use crate::error::Error;
use crate::node_properties::unix_mode;
use crate::recursion;
use crate::relative_path::join;

/// Finds the paths that the command created, changed or deleted outside `outputs`, sorted. Blocks.
///
/// Directories themselves do not count: overlayfs copies those above every change, and BitBake creates the directories
/// of `[dirs]` even if they stay empty (`DL_DIR` for a recipe that downloads nothing).
pub fn find_undeclared_writes(
    tree: &DirectoryTree,
    upper: PathBuf,
    outputs: &[Vec<String>],
    cancellation: &CancellationToken,
) -> Result<Vec<String>, Error> {
    let outputs: Vec<String> = outputs.iter().map(|components| components.join("/")).collect();
    let merged = MergedTree::new(tree, upper);
    let mut found = vec![];
    walk(&merged, &outputs, cancellation, "", &merged.root()?, &mut found)?;
    found.sort_unstable();
    Ok(found)
}

fn walk(
    merged: &MergedTree<'_>,
    outputs: &[String],
    cancellation: &CancellationToken,
    path: &str,
    node: &MergedNode<'_>,
    found: &mut Vec<String>,
) -> Result<(), Error> {
    if outputs.iter().any(|output| output == path) {
        return Ok(());
    }
    let MergedNode::Upper { input, .. } = node else {
        return Ok(());
    };
    let on_disk = merged.upper_path(path);
    for entry in fs::read_dir(&on_disk).map_err(Error::io_at("read", &on_disk))? {
        let entry = entry.map_err(Error::io_at("read", &on_disk))?;
        if cancellation.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let child_path = join(path, &name);
        if outputs.contains(&child_path) {
            continue;
        }
        check_depth(&child_path, &entry.path())?;
        let metadata = entry.metadata().map_err(Error::io_at("read", &entry.path()))?;
        let is_directory = metadata.is_dir();
        if is_whiteout(&metadata) || !is_directory {
            if !is_copy_of_input(merged, cancellation, *input, &entry.path(), &metadata, &name)? {
                found.push(child_path);
            }
            continue;
        }
        let Some(child) = merged.upper_node(&entry.path(), metadata, *input, &name)? else {
            continue;
        };
        recursion::descend(|| walk(merged, outputs, cancellation, &child_path, &child, found))?;
    }
    Ok(())
}

/// True if an entry of the upper directory equals the input at its path. Overlayfs copies a file up when a command opens
/// it for writing or makes a hardlink to it, and the sysroot of a recipe consists of hardlinks.
fn is_copy_of_input(
    merged: &MergedTree<'_>,
    cancellation: &CancellationToken,
    input: Option<Digest>,
    on_disk: &Path,
    metadata: &fs::Metadata,
    name: &str,
) -> Result<bool, Error> {
    let Some(directory) = input else {
        return Ok(false);
    };
    match merged.input_child(directory, name)? {
        Some(MergedNode::InputFile(node)) if metadata.is_file() => {
            let digest = Digest::from_wire_field(directory.function(), node.digest.as_ref())
                .map_err(Error::digest("FileNode.digest"))?;
            let same_mode = unix_mode(node.node_properties.as_ref()).map_or_else(
                || (metadata.mode() & 0o100 != 0) == node.is_executable,
                |mode| mode == metadata.mode() & 0o7777,
            );
            Ok(same_mode
                && metadata.len() == digest.size_bytes()
                && hash_file(directory.function(), on_disk, metadata.len(), cancellation)? == digest)
        }
        Some(MergedNode::InputSymlink(node)) if metadata.is_symlink() => {
            Ok(fs::read_link(on_disk).map_err(Error::io_at("read", on_disk))? == Path::new(&node.target))
        }
        _ => Ok(false),
    }
}
