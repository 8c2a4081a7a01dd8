//! Merged view of the input tree and the overlay's upper directory: the tree that the command saw.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bitzel_cas::DirectoryTree;
use bitzel_cas::directory_tree::MAX_DEPTH;
use bitzel_proto::Digest;
use bitzel_proto::reapi::{Directory, FileNode, SymlinkNode};
use rustix::fs::{OFlags, fgetxattr};
use rustix::io::Errno;

use super::opening::open_without_symlinks;
use crate::error::Error;
use crate::input_tree::{child_digest, directory_of};
use crate::relative_path::{MAX_PATH_BYTES, join};

/// Extended attribute with which overlayfs marks a directory that hides the input directory of the same name.
pub(super) const OPAQUE_ATTRIBUTE: &str = "user.overlay.opaque";
/// Limit of symlinks that are followed in a row, as in Linux.
const MAX_FOLLOWED_SYMLINKS: usize = 40;

/// A node of the merged tree.
#[derive(Debug)]
pub(super) enum MergedNode<'tree> {
    /// Unchanged file of the input.
    InputFile(&'tree FileNode),
    /// Unchanged symlink of the input.
    InputSymlink(&'tree SymlinkNode),
    /// Unchanged directory of the input, with everything below it.
    InputDirectory(Digest),
    /// Created or changed by the command.
    Upper {
        metadata: fs::Metadata,
        /// The input directory with which a directory is merged.
        input: Option<Digest>,
    },
}

/// The merged view.
#[derive(Debug)]
pub(super) struct MergedTree<'tree> {
    tree: &'tree DirectoryTree,
    upper: PathBuf,
}

impl<'tree> MergedTree<'tree> {
    pub(super) fn new(tree: &'tree DirectoryTree, upper: PathBuf) -> Self {
        Self { tree, upper }
    }

    /// The path in the upper directory, where a node may be.
    pub(super) fn upper_path(&self, path: &str) -> PathBuf {
        self.upper.join(path)
    }

    /// The Directory message of an input directory.
    pub(super) fn directory(&self, digest: Digest) -> Result<&'tree Directory, Error> {
        directory_of(self.tree, digest).map(AsRef::as_ref)
    }

    /// The root, which is always in the upper directory.
    pub(super) fn root(&self) -> Result<MergedNode<'tree>, Error> {
        let metadata = fs::symlink_metadata(&self.upper).map_err(Error::io_at("read", &self.upper))?;
        Ok(MergedNode::Upper {
            metadata,
            input: Some(self.tree.root),
        })
    }

    /// The node at a path. Does not follow symlinks on the way: a path through one has no node.
    pub(super) fn lookup(&self, components: &[String]) -> Result<Option<MergedNode<'tree>>, Error> {
        let mut node = self.root()?;
        let mut path = String::new();
        for name in components {
            path = join(&path, name);
            let child = match node {
                MergedNode::InputFile(_) | MergedNode::InputSymlink(_) => None,
                MergedNode::InputDirectory(digest) => self.input_child(digest, name)?,
                MergedNode::Upper { metadata, .. } if !metadata.is_dir() => None,
                MergedNode::Upper { input, .. } => self.upper_child(&path, input, name)?,
            };
            match child {
                Some(child) => node = child,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// True if the symlink at a path leads to a directory, false if to a file. `None` if it leads nowhere, in circles or
    /// out of the tree. Absolute targets count as outside.
    pub(super) fn leads_to_directory(&self, symlink: &[String], target: &str) -> Result<Option<bool>, Error> {
        let mut reached: Vec<String> = symlink[..symlink.len().saturating_sub(1)].to_vec();
        let mut ahead = vec![];
        let mut target = Some(target.to_owned());
        for _ in 0..MAX_FOLLOWED_SYMLINKS {
            match target.take() {
                Some(target) if target.starts_with('/') => return Ok(None),
                Some(target) => ahead.extend(target.split('/').rev().map(str::to_owned)),
                None => return Ok(Some(true)),
            }
            while let Some(name) = ahead.pop() {
                match name.as_str() {
                    ".." if reached.pop().is_none() => return Ok(None),
                    "" | "." | ".." => continue,
                    _ => reached.push(name),
                }
                match self.lookup(&reached)? {
                    None => return Ok(None),
                    Some(MergedNode::InputDirectory(_)) => {}
                    Some(MergedNode::Upper { metadata, .. }) if metadata.is_dir() => {}
                    Some(MergedNode::InputSymlink(symlink)) => target = Some(symlink.target.clone()),
                    Some(MergedNode::Upper { metadata, .. }) if metadata.is_symlink() => {
                        let path = self.upper_path(&reached.join("/"));
                        let read = fs::read_link(&path).map_err(Error::io_at("read", &path))?;
                        target = Some(read.to_string_lossy().into_owned());
                    }
                    // A path through a file has no node.
                    Some(_) => return Ok(ahead.is_empty().then_some(false)),
                }
                if target.is_some() {
                    reached.pop();
                    break;
                }
            }
        }
        Ok(None)
    }

    /// The node of a name in a directory of the upper directory. `path` is that of the node.
    pub(super) fn upper_child(
        &self,
        path: &str,
        input: Option<Digest>,
        name: &str,
    ) -> Result<Option<MergedNode<'tree>>, Error> {
        let upper = self.upper_path(path);
        match fs::symlink_metadata(&upper) {
            Ok(metadata) => self.upper_node(&upper, metadata, input, name),
            Err(error) if error.kind() == ErrorKind::NotFound => match input {
                Some(digest) => self.input_child(digest, name),
                None => Ok(None),
            },
            Err(error) => Err(Error::io_at("read", &upper)(error)),
        }
    }

    /// The node of an entry of the upper directory. `None` if the entry marks a deletion.
    pub(super) fn upper_node(
        &self,
        upper: &Path,
        metadata: fs::Metadata,
        input: Option<Digest>,
        name: &str,
    ) -> Result<Option<MergedNode<'tree>>, Error> {
        if is_whiteout(&metadata) {
            return Ok(None);
        }
        let mut merged_with = None;
        if metadata.is_dir()
            && let Some(digest) = input
            && let Some(MergedNode::InputDirectory(child)) = self.input_child(digest, name)?
            && !is_opaque(upper).map_err(Error::io_at("read", upper))?
        {
            merged_with = Some(child);
        }
        Ok(Some(MergedNode::Upper {
            metadata,
            input: merged_with,
        }))
    }

    /// The node of a name in an input directory.
    pub(super) fn input_child(&self, digest: Digest, name: &str) -> Result<Option<MergedNode<'tree>>, Error> {
        // The names of a fetched tree are sorted.
        let directory = self.directory(digest)?;
        if let Ok(index) = directory
            .files
            .binary_search_by(|node| node.name.as_str().cmp(name))
        {
            return Ok(Some(MergedNode::InputFile(&directory.files[index])));
        }
        if let Ok(index) = directory
            .symlinks
            .binary_search_by(|node| node.name.as_str().cmp(name))
        {
            return Ok(Some(MergedNode::InputSymlink(&directory.symlinks[index])));
        }
        let Ok(index) = directory
            .directories
            .binary_search_by(|node| node.name.as_str().cmp(name))
        else {
            return Ok(None);
        };
        let child = child_digest(digest.function(), &directory.directories[index])?;
        Ok(Some(MergedNode::InputDirectory(child)))
    }
}

/// True for the character device 0:0, with which overlayfs marks a deleted input.
pub(super) fn is_whiteout(metadata: &fs::Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// True if a directory has [`OPAQUE_ATTRIBUTE`].
fn is_opaque(path: &Path) -> rustix::io::Result<bool> {
    let mut value = [0_u8; 8];
    match fgetxattr(
        open_without_symlinks(path, OFlags::DIRECTORY)?,
        OPAQUE_ATTRIBUTE,
        &mut value[..],
    ) {
        Ok(size) => Ok(value.get(..size) == Some(b"y")),
        // RANGE: longer than any value that overlayfs writes.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses a path that is deeper than any input root may be, or longer than a path may be. A command can nest far more
/// directories than a thread has stack for. `path` is relative to the input root.
pub(super) fn check_depth(path: &str, on_disk: &Path) -> Result<(), Error> {
    let invalid = |reason| Error::InvalidOutput {
        path: path.chars().take(100).chain("...".chars()).collect(),
        reason,
    };
    if path.split('/').count() > MAX_DEPTH {
        return Err(invalid(format!("is below more than {MAX_DEPTH} directories")));
    }
    if on_disk.as_os_str().len() > MAX_PATH_BYTES {
        return Err(invalid(format!(
            "has, on the worker, a path of more than {MAX_PATH_BYTES} bytes"
        )));
    }
    Ok(())
}
