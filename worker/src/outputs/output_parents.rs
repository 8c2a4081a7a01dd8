//! Creation of the parent directories of outputs.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use bitzel_cas::DirectoryTree;
use bitzel_proto::reapi::Directory;
use rustix::fs::{Mode, OFlags, open};

use super::merged_tree::{MergedNode, MergedTree};
use crate::error::Error;
use crate::input_root::set_attributes;
use crate::input_tree::directory_of;
use crate::relative_path::MAX_PATH_BYTES;

/// Creates the parents of outputs in an upper directory, which is empty or holds a copy of the input. The specification
/// requires them before the command starts. Directories of the input keep their mode and modification time.
pub fn create_output_parents(
    tree: &DirectoryTree,
    upper: &Path,
    outputs: &[Vec<String>],
) -> Result<(), Error> {
    // Sorted, so that parents come before their entries.
    let mut created = BTreeMap::from([(upper.to_owned(), Some(tree.root))]);
    for output in outputs {
        let merged = MergedTree::new(tree, upper.to_owned());
        let on_disk = upper.join(output.join("/"));
        if on_disk.as_os_str().len() > MAX_PATH_BYTES {
            let start: String = output.join("/").chars().take(100).collect();
            return Err(Error::InvalidAction(format!(
                "output {start:?}... has, on the worker, a path of more than {MAX_PATH_BYTES} bytes"
            )));
        }
        let parents = output.len().saturating_sub(1);
        for end in 1..=parents {
            let prefix = &output[..end];
            let digest = match merged.lookup(prefix)? {
                None => None,
                Some(MergedNode::InputDirectory(digest)) => Some(digest),
                Some(MergedNode::Upper { metadata, input }) if metadata.is_dir() => {
                    if input.is_some() {
                        // A copied directory may get a new entry.
                        created.insert(upper.join(prefix.join("/")), input);
                    }
                    continue;
                }
                // A file or a symlink of the input is in the way. The command may handle that.
                Some(MergedNode::Upper { .. } | MergedNode::InputFile(_) | MergedNode::InputSymlink(_)) => {
                    break;
                }
            };
            // Only directories that lead to an absent one have to be created.
            if digest.is_some() && merged.lookup(&output[..parents])?.is_some() {
                continue;
            }
            let path = upper.join(prefix.join("/"));
            DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(Error::io_at("create", &path))?;
            created.insert(path, digest);
        }
    }
    let empty = Directory::default();
    for (path, digest) in created.into_iter().rev() {
        let directory = match digest {
            Some(digest) => directory_of(tree, digest)?,
            None => &empty,
        };
        let opened = open(
            &path,
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(Error::io_at("open", &path))?;
        set_attributes(&opened, directory).map_err(Error::io_at("set mode and time of", &path))?;
    }
    Ok(())
}
