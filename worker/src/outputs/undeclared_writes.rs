//! Detection of writes outside the declared outputs.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bitzel_cas::DirectoryTree;
use bitzel_proto::Digest;
use tokio_util::sync::CancellationToken;

use super::file_digest::hash_file;
use super::merged_tree::{MergedNode, MergedTree, check_depth, is_whiteout};
use crate::bounds::{Bound, BoundReached};
use crate::error::{Error, MAX_LISTED_PATHS};
use crate::node_properties::unix_mode;
use crate::recursion;
use crate::relative_path::join;

/// Writes of a command outside its declared outputs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UndeclaredWrites {
    /// The first paths, sorted, as many as a message names.
    pub paths: BTreeSet<String>,
    /// Number of all paths.
    pub count: u64,
}

impl UndeclaredWrites {
    fn add(&mut self, path: String, max_entries: u64) -> Result<(), Error> {
        if self.count >= max_entries {
            return Err(Error::BoundReached(BoundReached {
                bound: Bound::OutputEntries,
                used: None,
                allowed: max_entries,
            }));
        }
        self.count += 1;
        self.paths.insert(path);
        if self.paths.len() > MAX_LISTED_PATHS {
            self.paths.pop_last();
        }
        Ok(())
    }
}

/// Finds the paths that the command created, changed or deleted outside `outputs`. More than `max_entries` are refused:
/// the command does not choose how much memory a list of them takes. Blocks.
///
/// Directories themselves do not count: overlayfs copies those above every change, and BitBake creates the directories
/// of `[dirs]` even if they stay empty (`DL_DIR` for a recipe that downloads nothing).
pub fn find_undeclared_writes(
    tree: &DirectoryTree,
    upper: PathBuf,
    outputs: &[Vec<String>],
    max_entries: u64,
    cancellation: &CancellationToken,
) -> Result<UndeclaredWrites, Error> {
    let outputs: HashSet<String> = outputs.iter().map(|components| components.join("/")).collect();
    let merged = MergedTree::new(tree, upper);
    let mut found = UndeclaredWrites::default();
    let walk = Walk {
        merged: &merged,
        outputs: &outputs,
        max_entries,
        cancellation,
    };
    walk.add("", &merged.root()?, &mut found)?;
    Ok(found)
}

struct Walk<'walk, 'tree> {
    merged: &'walk MergedTree<'tree>,
    outputs: &'walk HashSet<String>,
    max_entries: u64,
    cancellation: &'walk CancellationToken,
}

impl Walk<'_, '_> {
    /// Adds the writes at and below the node at `path`.
    fn add(&self, path: &str, node: &MergedNode<'_>, found: &mut UndeclaredWrites) -> Result<(), Error> {
        let Self {
            merged,
            outputs,
            cancellation,
            ..
        } = *self;
        if outputs.contains(path) {
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
                    found.add(child_path, self.max_entries)?;
                }
                continue;
            }
            let Some(child) = merged.upper_node(&entry.path(), metadata, *input, &name)? else {
                continue;
            };
            recursion::descend(|| self.add(&child_path, &child, found))?;
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_only_the_paths_that_a_message_names() {
        let mut found = UndeclaredWrites::default();
        for number in (0..1000).rev() {
            found.add(format!("{number:04}"), 1000).unwrap();
        }
        assert_eq!(found.count, 1000);
        let first: BTreeSet<String> = (0..MAX_LISTED_PATHS)
            .map(|number| format!("{number:04}"))
            .collect();
        assert_eq!(found.paths, first);
        let error = found.add("x".into(), 1000).unwrap_err();
        assert!(matches!(error, Error::BoundReached(_)), "{error}");
    }
}
