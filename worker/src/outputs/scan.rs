//! Scan of the outputs in the merged tree.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use bitzel_proto::Digest;
use bitzel_proto::reapi::{Directory, FileNode, NodeProperties, SymlinkNode};
use rustix::fs::{Dir, OFlags};
use tokio_util::sync::CancellationToken;

use super::changed_file::{Attributes, ChangedFile};
use super::merged_tree::{MergedNode, MergedTree, check_depth};
use super::opening::open_without_symlinks;
use crate::bounds::{Bound, BoundReached};
use crate::error::Error;
use crate::input_tree::child_digest;
use crate::node_properties::OutputProperties;
use crate::recursion;
use crate::relative_path::join;

/// A node of an output.
#[derive(Debug)]
pub(super) enum ScannedNode {
    File(ScannedFile),
    Symlink(ScannedSymlink),
    Directory(ScannedDirectory),
}

/// A file of an output.
#[derive(Debug)]
pub(super) enum ScannedFile {
    /// Unchanged file of the input.
    Input(FileNode),
    /// Index of a file among the changed files.
    Changed(usize),
}

/// A symlink of an output.
#[derive(Debug)]
pub(super) struct ScannedSymlink {
    pub target: String,
    /// Mode and time of a changed symlink.
    pub attributes: Option<Attributes>,
    /// Properties of an unchanged symlink of the input.
    pub node_properties: Option<NodeProperties>,
}

impl ScannedSymlink {
    /// The properties of the input, or the requested ones of a changed symlink. The mode is left out: every symlink has
    /// 0777.
    pub(super) fn properties(&self, requested: OutputProperties) -> Option<NodeProperties> {
        let requested = OutputProperties {
            mtime: requested.mtime,
            ..OutputProperties::default()
        };
        match self.attributes {
            Some(attributes) => requested.node_properties(attributes.mode, attributes.mtime, None),
            None => self.node_properties.clone(),
        }
    }
}

/// A directory of an output.
#[derive(Debug)]
pub(super) enum ScannedDirectory {
    /// Unchanged directory of the input, with everything below it.
    Input(Digest),
    Changed {
        entries: BTreeMap<String, ScannedNode>,
        attributes: Attributes,
    },
}

/// Walks outputs and collects the changed files.
#[derive(Debug)]
pub(super) struct Scanner<'scan, 'tree> {
    merged: &'scan MergedTree<'tree>,
    max_entries: u64,
    /// Entries of the upper directory that were scanned.
    entries: u64,
    /// Unchanged entries of the input in directories that were scanned. A directory can be a part of many outputs.
    input_entries: u64,
    /// Names of entries that were read, and are still to be scanned. They are in memory too.
    unscanned_names: u64,
    /// Size of the targets of changed symlinks.
    symlink_bytes: u64,
    cancellation: &'scan CancellationToken,
    changed: Vec<ChangedFile>,
}

impl<'scan, 'tree> Scanner<'scan, 'tree> {
    /// A scan of at most `max_entries` changed entries, and as many unchanged ones beside them.
    pub(super) fn new(
        merged: &'scan MergedTree<'tree>,
        max_entries: u64,
        cancellation: &'scan CancellationToken,
    ) -> Self {
        Self {
            merged,
            max_entries,
            entries: 0,
            input_entries: 0,
            unscanned_names: 0,
            symlink_bytes: 0,
            cancellation,
            changed: vec![],
        }
    }

    /// Scans the node at a path with everything below it. `None` if the path does not exist.
    pub(super) fn scan(&mut self, components: &[String]) -> Result<Option<ScannedNode>, Error> {
        if self.cancellation.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let node = self.merged.lookup(components)?;
        node.map(|node| self.node(components.join("/"), node)).transpose()
    }

    fn node(&mut self, path: String, node: MergedNode<'tree>) -> Result<ScannedNode, Error> {
        let (metadata, input) = match node {
            MergedNode::InputFile(file) => return Ok(ScannedNode::File(ScannedFile::Input(file.clone()))),
            MergedNode::InputSymlink(symlink) => return Ok(input_symlink(symlink)),
            MergedNode::InputDirectory(digest) => {
                return Ok(ScannedNode::Directory(ScannedDirectory::Input(digest)));
            }
            MergedNode::Upper { metadata, input } => (metadata, input),
        };
        self.count()?;
        let on_disk = self.merged.upper_path(&path);
        let kind = metadata.file_type();
        if kind.is_dir() {
            let attributes = Attributes::of(&metadata);
            let entries = self.entries(&path, &on_disk, input)?;
            return Ok(ScannedNode::Directory(ScannedDirectory::Changed {
                entries,
                attributes,
            }));
        }
        if kind.is_symlink() {
            let target = fs::read_link(&on_disk).map_err(Error::io_at("read", &on_disk))?;
            let target = target
                .into_os_string()
                .into_string()
                .map_err(|target| Error::InvalidOutput {
                    path,
                    reason: format!(
                        "is a symlink whose target {} is not UTF-8",
                        target.to_string_lossy()
                    ),
                })?;
            self.symlink_bytes = self.symlink_bytes.saturating_add(target.len() as u64);
            return Ok(ScannedNode::Symlink(ScannedSymlink {
                target,
                attributes: Some(Attributes::of(&metadata)),
                node_properties: None,
            }));
        }
        if !kind.is_file() {
            let what = if kind.is_fifo() {
                "a named pipe"
            } else if kind.is_socket() {
                "a socket"
            } else {
                "a device"
            };
            return Err(Error::InvalidOutput {
                path,
                reason: format!("is {what}; only files, directories and symlinks can be outputs"),
            });
        }
        self.changed.push(ChangedFile::new(path, on_disk, &metadata));
        Ok(ScannedNode::File(ScannedFile::Changed(self.changed.len() - 1)))
    }

    /// Counts one entry. Fails if it is one too many, or if the scan is cancelled.
    fn count(&mut self) -> Result<(), Error> {
        if self.cancellation.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.entries += 1;
        if self.entries <= self.max_entries {
            return Ok(());
        }
        Err(self.too_many_entries())
    }

    /// Counts the entries that a changed directory has from the input.
    fn count_input(&mut self, directory: &Directory) -> Result<(), Error> {
        self.input_entries = self.input_entries.saturating_add(number_of_entries(directory));
        if self.input_entries <= self.max_entries {
            return Ok(());
        }
        Err(self.too_many_entries())
    }

    fn too_many_entries(&self) -> Error {
        Error::BoundReached(BoundReached {
            bound: Bound::OutputEntries,
            used: None,
            allowed: self.max_entries,
        })
    }

    /// The entries of a directory of the upper directory, merged with those of its input directory.
    fn entries(
        &mut self,
        path: &str,
        on_disk: &Path,
        input: Option<Digest>,
    ) -> Result<BTreeMap<String, ScannedNode>, Error> {
        let mut entries = BTreeMap::new();
        let mut from_input = 0;
        if let Some(digest) = input {
            let directory = self.merged.directory(digest)?;
            self.count_input(directory)?;
            from_input = number_of_entries(directory);
            for file in &directory.files {
                let node = ScannedNode::File(ScannedFile::Input(file.clone()));
                entries.insert(file.name.clone(), node);
            }
            for symlink in &directory.symlinks {
                entries.insert(symlink.name.clone(), input_symlink(symlink));
            }
            for child in &directory.directories {
                let digest = child_digest(digest.function(), child)?;
                let node = ScannedNode::Directory(ScannedDirectory::Input(digest));
                entries.insert(child.name.clone(), node);
            }
        }
        // Marks of deleted entries of the input are no entries of the output.
        let free = self
            .max_entries
            .saturating_sub(self.entries)
            .saturating_sub(self.unscanned_names)
            .saturating_add(from_input);
        let names = names(on_disk, free)?.ok_or_else(|| self.too_many_entries())?;
        self.unscanned_names += names.len() as u64;
        for name in names {
            self.unscanned_names -= 1;
            let name = name.into_string().map_err(|name| Error::InvalidOutput {
                path: join(path, &name.to_string_lossy()),
                reason: "has a name that is not UTF-8".into(),
            })?;
            let child_on_disk = on_disk.join(&name);
            check_depth(&join(path, &name), &child_on_disk)?;
            let metadata =
                fs::symlink_metadata(&child_on_disk).map_err(Error::io_at("read", &child_on_disk))?;
            match self.merged.upper_node(&child_on_disk, metadata, input, &name)? {
                None => {
                    entries.remove(&name);
                }
                Some(node) => {
                    let node = recursion::descend(|| self.node(join(path, &name), node))?;
                    entries.insert(name, node);
                }
            }
        }
        Ok(entries)
    }

    /// Size of the targets of all changed symlinks of the scan.
    pub(super) fn symlink_bytes(&self) -> u64 {
        self.symlink_bytes
    }

    /// The changed files of the scan, to be hashed.
    pub(super) fn into_changed_files(self) -> Vec<ChangedFile> {
        self.changed
    }
}

fn input_symlink(symlink: &SymlinkNode) -> ScannedNode {
    ScannedNode::Symlink(ScannedSymlink {
        target: symlink.target.clone(),
        attributes: None,
        node_properties: symlink.node_properties.clone(),
    })
}

fn number_of_entries(directory: &Directory) -> u64 {
    (directory.files.len() + directory.symlinks.len() + directory.directories.len()) as u64
}

/// The names in a directory; `None` if there are more than `limit`.
fn names(directory: &Path, limit: u64) -> Result<Option<Vec<OsString>>, Error> {
    let read = || -> rustix::io::Result<Option<Vec<OsString>>> {
        let opened = open_without_symlinks(directory, OFlags::DIRECTORY)?;
        let mut names = vec![];
        for entry in Dir::new(opened)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if names.len() as u64 >= limit {
                return Ok(None);
            }
            names.push(OsString::from_vec(name.to_vec()));
        }
        Ok(Some(names))
    };
    read().map_err(Error::io_at("read", directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_to_read_names_at_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let mut read = names(directory.path(), 3).unwrap().unwrap();
        read.sort_unstable();
        assert_eq!(read, ["a", "b", "c"]);
        assert_eq!(names(directory.path(), 2).unwrap(), None);
    }
}
