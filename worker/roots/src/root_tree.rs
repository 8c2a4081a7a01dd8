//! Root file system in memory, and its encoding as Directory messages.
//!
//! Archives are hostile: entries are placed in this tree and never on a disk. A symlink on the way to an entry is followed
//! inside the tree, as a program would in that root, and cannot lead out of it.

use std::collections::{BTreeMap, VecDeque};

use bitzel_cas::directory_tree::MAX_DEPTH;
use bitzel_proto::Digest;
use bitzel_worker::node_properties::DEFAULT_MTIME;

use crate::error::Error;

mod encoding;

pub use encoding::EncodedRoot;

/// Limit of the symlinks on the way to an entry, that of Linux.
const MAX_SYMLINKS: usize = 40;
/// Limit of the target of a symlink in bytes, that of Linux.
const MAX_TARGET_BYTES: usize = 4095;
/// Limit of the names on the way to an entry, with those of the targets of symlinks.
const MAX_COMPONENTS: usize = 4096;
/// Limit of the entries of one root.
pub(crate) const MAX_ENTRIES: u64 = 4_000_000;
/// Limit of all contents of one root in bytes: a small archive, or a small tree, can unfold to any size.
pub(crate) const MAX_BYTES: u64 = 64 << 30;
/// Mode of directories that an archive has no entry for.
const DEFAULT_MODE: u32 = 0o755;
/// Mode and modification time of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// In whole seconds: archives have no finer ones, and the same root has to have the same digest in each form.
    pub mtime_seconds: i64,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            mode: DEFAULT_MODE,
            mtime_seconds: DEFAULT_MTIME.seconds,
        }
    }
}

/// A regular file. Names with the same inode are hardlinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootFileEntry {
    /// Its content.
    pub digest: Digest,
    /// Its mode and time.
    pub attributes: Attributes,
    /// Number of the inode, if it may have several names.
    pub inode: Option<u64>,
}

#[derive(Debug, Clone)]
enum Node {
    Directory(DirectoryEntry),
    File(RootFileEntry),
    Symlink { target: String, mtime_seconds: i64 },
}

#[derive(Debug, Clone, Default)]
struct DirectoryEntry {
    attributes: Attributes,
    entries: BTreeMap<String, Node>,
}

/// Root file system in memory.
#[derive(Debug, Clone, Default)]
pub struct RootTree {
    root: DirectoryEntry,
    added: u64,
    linked_inodes: u64,
}

impl RootTree {
    /// Adds a directory, or changes the attributes of one. It replaces an entry of another kind.
    pub(crate) fn add_directory(&mut self, path: &[String], attributes: Attributes) -> Result<(), Error> {
        self.count()?;
        let Some((name, parents)) = path.split_last() else {
            self.root.attributes = attributes;
            return Ok(());
        };
        let entries = &mut self.parent(parents)?.entries;
        match entries.get_mut(name) {
            Some(Node::Directory(directory)) => directory.attributes = attributes,
            _ => {
                let directory = DirectoryEntry {
                    attributes,
                    ..DirectoryEntry::default()
                };
                entries.insert(name.clone(), Node::Directory(directory));
            }
        }
        Ok(())
    }

    /// Adds a file in place of what has its name.
    pub(crate) fn add_file(&mut self, path: &[String], file: RootFileEntry) -> Result<(), Error> {
        self.add(path, Node::File(file))
    }

    /// Adds a symlink in place of what has its name. Its target is kept as it is.
    pub(crate) fn add_symlink(
        &mut self,
        path: &[String],
        target: String,
        mtime_seconds: i64,
    ) -> Result<(), Error> {
        if target.len() > MAX_TARGET_BYTES {
            return Err(Error::Entry {
                entry: path.join("/"),
                reason: format!("is a symlink with a target of more than {MAX_TARGET_BYTES} bytes"),
            });
        }
        self.add(
            path,
            Node::Symlink {
                target,
                mtime_seconds,
            },
        )
    }

    /// Adds a further name of the file or symlink at `target`.
    pub(crate) fn add_hardlink(&mut self, path: &[String], target: &[String]) -> Result<(), Error> {
        let fail = |reason: &str| Error::Entry {
            entry: path.join("/"),
            reason: format!("is a hardlink to {:?}, {reason}", target.join("/")),
        };
        let Some((name, parents)) = target.split_last() else {
            return Err(fail("which is the root"));
        };
        let inode = self.linked_inodes;
        let node = match self
            .existing_parent(parents)?
            .and_then(|parent| parent.entries.get_mut(name))
        {
            None => return Err(fail("which the archive does not have")),
            Some(Node::Directory(_)) => return Err(fail("which is a directory")),
            Some(Node::File(file)) => {
                file.inode.get_or_insert(inode);
                Node::File(*file)
            }
            Some(link) => link.clone(),
        };
        self.linked_inodes += 1;
        self.add(path, node)
    }

    /// Removes an entry and all below it, if there is one: a whiteout of an image layer.
    pub(crate) fn remove(&mut self, path: &[String]) -> Result<(), Error> {
        if let Some((name, parents)) = path.split_last()
            && let Some(parent) = self.existing_parent(parents)?
        {
            parent.entries.remove(name);
        }
        Ok(())
    }

    /// Removes all entries of a directory, if there is one: an opaque directory of an image layer.
    pub(crate) fn clear(&mut self, path: &[String]) -> Result<(), Error> {
        if let Some(directory) = self.existing_parent(path)? {
            directory.entries.clear();
        }
        Ok(())
    }

    /// Content of the file at a path, if there is one.
    pub(crate) fn file(&self, path: &[&str]) -> Option<Digest> {
        let (name, parents) = path.split_last()?;
        let mut directory = &self.root;
        for parent in parents {
            match directory.entries.get(*parent)? {
                Node::Directory(child) => directory = child,
                _ => return None,
            }
        }
        match directory.entries.get(*name)? {
            Node::File(file) => Some(file.digest),
            _ => None,
        }
    }

    fn add(&mut self, path: &[String], node: Node) -> Result<(), Error> {
        self.count()?;
        let Some((name, parents)) = path.split_last() else {
            return Err(Error::Entry {
                entry: "/".to_owned(),
                reason: "is the root and has to be a directory".to_owned(),
            });
        };
        self.parent(parents)?.entries.insert(name.clone(), node);
        Ok(())
    }

    fn count(&mut self) -> Result<(), Error> {
        self.added += 1;
        if self.added > MAX_ENTRIES {
            return Err(Error::TooLarge(format!("{MAX_ENTRIES} entries")));
        }
        Ok(())
    }

    /// The directory at a path, whose missing parts are created.
    fn parent(&mut self, path: &[String]) -> Result<&mut DirectoryEntry, Error> {
        let resolved = self.resolve(path, true)?.unwrap_or_default();
        let mut directory = &mut self.root;
        for name in resolved {
            let child = directory
                .entries
                .entry(name)
                .or_insert_with(|| Node::Directory(DirectoryEntry::default()));
            match child {
                Node::Directory(child) => directory = child,
                _ => return Err(not_a_directory(path)),
            }
        }
        Ok(directory)
    }

    /// The directory at a path, if there is one.
    fn existing_parent(&mut self, path: &[String]) -> Result<Option<&mut DirectoryEntry>, Error> {
        let Some(resolved) = self.resolve(path, false)? else {
            return Ok(None);
        };
        let mut directory = &mut self.root;
        for name in resolved {
            match directory.entries.get_mut(&name) {
                Some(Node::Directory(child)) => directory = child,
                _ => return Ok(None),
            }
        }
        Ok(Some(directory))
    }

    /// The path without symlinks of a directory. With `creates`, names that do not exist stand for directories; otherwise
    /// there is none for them.
    fn resolve(&self, path: &[String], creates: bool) -> Result<Option<Vec<String>>, Error> {
        let mut pending: VecDeque<String> = path.iter().cloned().collect();
        let mut resolved: Vec<String> = vec![];
        // The directories on the way, `None` for those that do not exist.
        let mut directories: Vec<Option<&DirectoryEntry>> = vec![Some(&self.root)];
        let (mut symlinks, mut components) = (0, 0);
        while let Some(name) = pending.pop_front() {
            components += 1;
            if components > MAX_COMPONENTS {
                return Err(Error::Entry {
                    entry: path.join("/"),
                    reason: format!("lies behind symlinks with more than {MAX_COMPONENTS} names"),
                });
            }
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    resolved.pop();
                    directories.truncate(resolved.len() + 1);
                    continue;
                }
                _ => {}
            }
            let parent = directories.last().copied().flatten();
            match parent.and_then(|parent| parent.entries.get(&name)) {
                Some(Node::Symlink { target, .. }) => {
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err(Error::Entry {
                            entry: path.join("/"),
                            reason: "lies behind too many symlinks".to_owned(),
                        });
                    }
                    if target.starts_with('/') {
                        resolved.clear();
                        directories.truncate(1);
                    }
                    for part in target.rsplit('/') {
                        pending.push_front(part.to_owned());
                    }
                }
                Some(Node::Directory(child)) => {
                    resolved.push(name);
                    directories.push(Some(child));
                }
                None if creates => {
                    resolved.push(name);
                    directories.push(None);
                }
                Some(Node::File(_)) if creates => return Err(not_a_directory(path)),
                None | Some(Node::File(_)) => return Ok(None),
            }
            if resolved.len() >= MAX_DEPTH {
                return Err(Error::TooLarge(format!("{MAX_DEPTH} levels of directories")));
            }
        }
        Ok(Some(resolved))
    }
}

fn not_a_directory(path: &[String]) -> Error {
    Error::Entry {
        entry: path.join("/"),
        reason: "lies below a file".to_owned(),
    }
}

#[cfg(test)]
mod tests;
