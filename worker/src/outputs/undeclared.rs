//! Finds what a command changed outside its declared outputs.

use std::fs;
use std::path::{Path, PathBuf};

use super::merged_tree::{MergedNode, MergedTree, failed, is_whiteout};
use super::scan::join;
use crate::error::Error;
use bitzel_cas::DirectoryTree;

/// Paths that the command made, changed or deleted outside `outputs`, sorted. Directories count only when they are
/// new and lead to no output: overlayfs copies the directories above every change. Blocks.
pub fn undeclared_writes(
    tree: &DirectoryTree,
    upper: PathBuf,
    outputs: &[Vec<String>],
) -> Result<Vec<String>, Error> {
    let outputs: Vec<String> = outputs.iter().map(|components| components.join("/")).collect();
    let merged = MergedTree::new(tree, upper);
    let mut found = vec![];
    walk(&merged, &outputs, "", &merged.root()?, &mut found)?;
    found.sort_unstable();
    Ok(found)
}

fn walk(
    merged: &MergedTree<'_>,
    outputs: &[String],
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
        let metadata = entry.metadata().map_err(failed(&entry.path()))?;
        let is_directory = metadata.is_dir();
        if is_whiteout(&metadata) || !is_directory {
            found.push(child_path);
            continue;
        }
        let Some(child) = merged.upper_node(&entry.path(), metadata, *beneath, &name)? else {
            continue;
        };
        let is_new = matches!(child, MergedNode::Upper { beneath: None, .. });
        let leads_to_output = outputs
            .iter()
            .any(|output| Path::new(output).starts_with(&child_path));
        let before = found.len();
        walk(merged, outputs, &child_path, &child, found)?;
        if is_new && !leads_to_output && found.len() == before {
            found.push(child_path);
        }
    }
    Ok(())
}
