//! The input tree and the overlay's upper directory seen as one, as the command saw them.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bitzel_proto::Digest;
use bitzel_proto::reapi::{Directory, FileNode, SymlinkNode};
use rustix::fs::{Mode, OFlags, fgetxattr, open};
use rustix::io::Errno;

use super::opening::open_plain;
use crate::error::Error;
use crate::input_root::restore;
use bitzel_cas::DirectoryTree;
use bitzel_cas::directory_tree::MAX_DEPTH;

/// By which overlayfs marks a directory that hides the input directory of the same name.
pub(super) const OPAQUE: &str = "user.overlay.opaque";
/// Symlinks that are followed one after the other, as by Linux.
const MAX_SYMLINKS: usize = 40;

/// A node of the merged tree.
#[derive(Debug)]
pub(super) enum MergedNode<'tree> {
    /// Untouched input.
    InputFile(&'tree FileNode),
    /// Untouched input.
    InputSymlink(&'tree SymlinkNode),
    /// Untouched input, with all that is below.
    InputDirectory(Digest),
    /// Made or changed by the command. For a directory, what it is merged with.
    Upper {
        metadata: fs::Metadata,
        beneath: Option<Digest>,
    },
}

/// The merged tree.
#[derive(Debug)]
pub(super) struct MergedTree<'tree> {
    tree: &'tree DirectoryTree,
    upper: PathBuf,
}

impl<'tree> MergedTree<'tree> {
    pub(super) fn new(tree: &'tree DirectoryTree, upper: PathBuf) -> Self {
        Self { tree, upper }
    }

    /// Where a path would be in the upper directory.
    pub(super) fn upper_path(&self, path: &str) -> PathBuf {
        self.upper.join(path)
    }

    /// The Directory message of an input directory.
    pub(super) fn directory(&self, digest: Digest) -> Result<&'tree Directory, Error> {
        self.tree
            .directories
            .get(&digest)
            .map(AsRef::as_ref)
            .ok_or_else(|| Error::MissingBlobs(vec![digest]))
    }

    /// The root. It is always in the upper directory.
    pub(super) fn root(&self) -> Result<MergedNode<'tree>, Error> {
        let metadata = fs::symlink_metadata(&self.upper).map_err(failed(&self.upper))?;
        Ok(MergedNode::Upper {
            metadata,
            beneath: Some(self.tree.root),
        })
    }

    /// The node at a path. Symlinks on the way are not followed: behind one there is nothing.
    pub(super) fn lookup(&self, components: &[String]) -> Result<Option<MergedNode<'tree>>, Error> {
        let mut node = self.root()?;
        let mut path = String::new();
        for name in components {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(name);
            let child = match node {
                MergedNode::InputFile(_) | MergedNode::InputSymlink(_) => None,
                MergedNode::InputDirectory(digest) => self.input_child(digest, name)?,
                MergedNode::Upper { metadata, .. } if !metadata.is_dir() => None,
                MergedNode::Upper { beneath, .. } => self.upper_child(&path, beneath, name)?,
            };
            match child {
                Some(child) => node = child,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// Whether what the symlink at a path leads to is a directory. `None` when it leads nowhere, in circles or out of the
    /// tree, as all absolute targets may.
    pub(super) fn leads_to_directory(&self, symlink: &[String], target: &str) -> Result<Option<bool>, Error> {
        let mut reached: Vec<String> = symlink[..symlink.len().saturating_sub(1)].to_vec();
        let mut ahead = vec![];
        let mut target = Some(target.to_owned());
        for _ in 0..MAX_SYMLINKS {
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
                        let read = fs::read_link(&path).map_err(failed(&path))?;
                        target = Some(read.to_string_lossy().into_owned());
                    }
                    // Behind a file there is nothing.
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

    fn upper_child(
        &self,
        path: &str,
        beneath: Option<Digest>,
        name: &str,
    ) -> Result<Option<MergedNode<'tree>>, Error> {
        let upper = self.upper_path(path);
        match fs::symlink_metadata(&upper) {
            Ok(metadata) => self.upper_node(&upper, metadata, beneath, name),
            Err(error) if error.kind() == ErrorKind::NotFound => match beneath {
                Some(digest) => self.input_child(digest, name),
                None => Ok(None),
            },
            Err(error) => Err(failed(&upper)(error)),
        }
    }

    /// The node that an entry of the upper directory stands for; `None` when it stands for a deletion.
    pub(super) fn upper_node(
        &self,
        upper: &Path,
        metadata: fs::Metadata,
        beneath: Option<Digest>,
        name: &str,
    ) -> Result<Option<MergedNode<'tree>>, Error> {
        if is_whiteout(&metadata) {
            return Ok(None);
        }
        let mut below = None;
        if metadata.is_dir()
            && let Some(digest) = beneath
            && let Some(MergedNode::InputDirectory(child)) = self.input_child(digest, name)?
            && !is_opaque(upper).map_err(failed(upper))?
        {
            below = Some(child);
        }
        Ok(Some(MergedNode::Upper {
            metadata,
            beneath: below,
        }))
    }

    /// The node of a name in an input directory.
    pub(super) fn input_child(&self, digest: Digest, name: &str) -> Result<Option<MergedNode<'tree>>, Error> {
        let directory = self.directory(digest)?;
        if let Some(file) = directory.files.iter().find(|node| node.name == name) {
            return Ok(Some(MergedNode::InputFile(file)));
        }
        if let Some(symlink) = directory.symlinks.iter().find(|node| node.name == name) {
            return Ok(Some(MergedNode::InputSymlink(symlink)));
        }
        let Some(node) = directory.directories.iter().find(|node| node.name == name) else {
            return Ok(None);
        };
        let child = Digest::from_wire_field(digest.function(), node.digest.as_ref())
            .map_err(Error::digest("DirectoryNode.digest"))?;
        Ok(Some(MergedNode::InputDirectory(child)))
    }
}

/// Overlayfs marks a deleted input by a character device 0:0.
pub(super) fn is_whiteout(metadata: &fs::Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Whether a directory has [`OPAQUE`].
fn is_opaque(path: &Path) -> rustix::io::Result<bool> {
    let mut value = [0_u8; 8];
    match fgetxattr(open_plain(path, OFlags::DIRECTORY)?, OPAQUE, &mut value[..]) {
        Ok(size) => Ok(value.get(..size) == Some(b"y")),
        // The last one: longer than any value that overlayfs writes.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses what is deeper than any input root may be, or than a path may be long: a command can make far more
/// directories below each other than a thread has stack for. `path` is relative to the input root.
pub(super) fn check_depth(path: &str, on_disk: &Path) -> Result<(), Error> {
    // Of <linux/limits.h>, less the NUL at the end.
    const MAX_PATH: usize = 4095;
    let invalid = |reason| Error::InvalidOutput {
        path: path.chars().take(100).chain("...".chars()).collect(),
        reason,
    };
    if path.split('/').count() > MAX_DEPTH {
        return Err(invalid(format!("is below more than {MAX_DEPTH} directories")));
    }
    if on_disk.as_os_str().len() > MAX_PATH {
        return Err(invalid(format!(
            "has, on the worker, a path of more than {MAX_PATH} bytes"
        )));
    }
    Ok(())
}

pub(super) fn failed<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> Error {
    Error::io(format!("read {}", path.display()))
}

/// Makes the parents of outputs in an upper directory, which is empty or has a copy of the input: the specification
/// wants them there before the command starts. Directories of the input keep mode and modification time.
pub fn prepare_upper(tree: &DirectoryTree, upper: &Path, outputs: &[Vec<String>]) -> Result<(), Error> {
    // Sorted, so that parents come before what is in them.
    let mut made = BTreeMap::from([(upper.to_owned(), Some(tree.root))]);
    for output in outputs {
        let merged = MergedTree::new(tree, upper.to_owned());
        let parents = output.len().saturating_sub(1);
        for end in 1..=parents {
            let prefix = &output[..end];
            let digest = match merged.lookup(prefix)? {
                None => None,
                Some(MergedNode::InputDirectory(digest)) => Some(digest),
                Some(MergedNode::Upper { metadata, beneath }) if metadata.is_dir() => {
                    if beneath.is_some() {
                        // One that was copied may get a new entry.
                        made.insert(upper.join(prefix.join("/")), beneath);
                    }
                    continue;
                }
                // A file or a symlink of the input stands in the way; the command may know what to do about it.
                Some(MergedNode::Upper { .. } | MergedNode::InputFile(_) | MergedNode::InputSymlink(_)) => {
                    break;
                }
            };
            // Only directories that lead to one that is not there have to be made.
            if digest.is_some() && merged.lookup(&output[..parents])?.is_some() {
                continue;
            }
            let path = upper.join(prefix.join("/"));
            let failed = || Error::io(format!("create {}", path.display()));
            DirBuilder::new().mode(0o700).create(&path).map_err(failed())?;
            made.insert(path, digest);
        }
    }
    let empty = Directory::default();
    for (path, digest) in made.into_iter().rev() {
        let directory = match digest {
            Some(digest) => MergedTree::new(tree, upper.to_owned()).directory(digest)?,
            None => &empty,
        };
        let opened = open(
            &path,
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(Error::io(format!("open {}", path.display())))?;
        restore(&opened, directory).map_err(Error::io(format!("set mode and time of {}", path.display())))?;
    }
    Ok(())
}
