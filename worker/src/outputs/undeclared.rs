//! Finds what a command changed outside its declared outputs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bitzel_cas::DirectoryTree;
use bitzel_proto::Digest;
use tokio_util::sync::CancellationToken;

use super::merged_tree::{MergedNode, MergedTree, check_depth, failed, is_whiteout};
use super::opening::digest_of;
use super::scan::join;
use crate::error::Error;
use crate::node_properties::unix_mode;
use crate::recursion;

/// Paths that the command made, changed or deleted outside `outputs`, sorted. Directories do not count by
/// themselves: overlayfs copies those above every change, and BitBake makes the directories of `[dirs]` without
/// anything in them (`DL_DIR` for a recipe that downloads nothing). Blocks.
pub fn undeclared_writes(
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
    let MergedNode::Upper { beneath, .. } = node else {
        return Ok(());
    };
    let on_disk = merged.upper_path(path);
    for entry in fs::read_dir(&on_disk).map_err(failed(&on_disk))? {
        let entry = entry.map_err(failed(&on_disk))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let child_path = join(path, &name);
        if outputs.contains(&child_path) {
            continue;
        }
        check_depth(&child_path, &entry.path())?;
        let metadata = entry.metadata().map_err(failed(&entry.path()))?;
        let is_directory = metadata.is_dir();
        if is_whiteout(&metadata) || !is_directory {
            if !is_copy_of_input(merged, cancellation, *beneath, &entry.path(), &metadata, &name)? {
                found.push(child_path);
            }
            continue;
        }
        let Some(child) = merged.upper_node(&entry.path(), metadata, *beneath, &name)? else {
            continue;
        };
        recursion::level(|| walk(merged, outputs, cancellation, &child_path, &child, found))?;
    }
    Ok(())
}

/// Whether an entry of the upper directory is still what the input has at its place. Overlayfs copies a file up when
/// a command makes a hardlink to it, as a recipe's sysroot consists of, and so does opening it for writing.
fn is_copy_of_input(
    merged: &MergedTree<'_>,
    cancellation: &CancellationToken,
    beneath: Option<Digest>,
    on_disk: &Path,
    metadata: &fs::Metadata,
    name: &str,
) -> Result<bool, Error> {
    let Some(directory) = beneath else {
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
                && digest_of(directory.function(), on_disk, metadata.len(), cancellation)? == digest)
        }
        Some(MergedNode::InputSymlink(node)) if metadata.is_symlink() => {
            Ok(fs::read_link(on_disk).map_err(failed(on_disk))? == Path::new(&node.target))
        }
        _ => Ok(false),
    }
}
