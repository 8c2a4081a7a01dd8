//! Directory trees: comparison and copies.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use walkdir::WalkDir;

/// One entry of a tree, with all properties that are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file with its permissions, its content and the first path of the tree that is the same inode.
    File {
        /// The lower twelve bits of the mode.
        mode: u32,
        /// Every byte of the file.
        content: Vec<u8>,
        /// The first path, in order, of those that share the inode; the file's own path when it is alone.
        first_link: PathBuf,
    },
    /// A directory with its permissions.
    Directory(
        /// The lower twelve bits of the mode.
        u32,
    ),
    /// A symbolic link with its target, which may be missing.
    SymbolicLink(
        /// The text of the link.
        PathBuf,
    ),
}

/// All entries of a tree, by path relative to its top.
pub fn tree_of(top: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut first_links = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for entry in WalkDir::new(top).min_depth(1).sort_by_file_name() {
        let entry = entry.unwrap_or_else(|error| panic!("cannot read {}: {error}", top.display()));
        let path = entry
            .path()
            .strip_prefix(top)
            .expect("an entry is below its top")
            .to_owned();
        let metadata = entry.metadata().expect("metadata");
        let mode = metadata.permissions().mode() & 0o7777;
        let value = if entry.path_is_symlink() {
            Entry::SymbolicLink(std::fs::read_link(entry.path()).expect("a symbolic link"))
        } else if metadata.is_dir() {
            Entry::Directory(mode)
        } else {
            Entry::File {
                mode,
                content: std::fs::read(entry.path()).expect("a file"),
                first_link: first_links
                    .entry(metadata.ino())
                    .or_insert_with(|| path.clone())
                    .clone(),
            }
        };
        entries.insert(path, value);
    }
    entries
}

/// Copies a tree without sharing files: a store has files that a program writes in place.
pub fn copy_directory(source: &Path, destination: &Path) {
    let status = Command::new("cp")
        .args(["--archive", "--reflink=auto", "--no-target-directory"])
        .args([source, destination])
        .status()
        .expect("cp starts");
    assert!(
        status.success(),
        "cannot copy {} to {}",
        source.display(),
        destination.display()
    );
}
