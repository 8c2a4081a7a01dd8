//! Merkle tree of files on the client, laid out as in the sandbox of every task.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitzel_proto::reapi::{Directory, FileNode, SymlinkNode};
use bitzel_proto::{Digest, DigestFunction, DirectoryEncoder};
use bytes::Bytes;
use prost::Message as _;

use super::error::FrontEndError;
use super::stat_cache::{StatCache, hash_file};

/// Tree of files on the client: its Directory messages, and the paths of its files.
#[derive(Debug, Clone)]
pub struct LocalTree {
    /// The Directory of the sandbox's root, `/work`.
    pub root: Digest,
    /// The encoded Directory messages of the tree.
    pub directories: HashMap<Digest, Bytes>,
    /// A path on the client for each file content.
    pub files: HashMap<Digest, PathBuf>,
}

impl LocalTree {
    /// Decodes the Directory messages of the tree.
    pub(crate) fn decode_directories(&self) -> Result<HashMap<Digest, Arc<Directory>>, FrontEndError> {
        let decode = |(digest, bytes): (&Digest, &Bytes)| {
            let directory = Directory::decode(bytes.clone()).map_err(|error| FrontEndError::Malformed {
                reason: format!("Directory {digest} of the metadata: {error}"),
            })?;
            Ok((*digest, Arc::new(directory)))
        };
        self.directories.iter().map(decode).collect()
    }

    /// Hash, in hex, of a directory in the root; `None` if the root has no directory of this name.
    pub(crate) fn subdirectory(&self, name: &str) -> Option<String> {
        let root = Directory::decode(self.directories.get(&self.root)?.clone()).ok()?;
        let child = root.directories.into_iter().find(|child| child.name == name)?;
        child.digest.map(|digest| digest.hash)
    }
}

/// True for names that are never part of the metadata: version control, compiled Python, temporary files of editors.
fn is_ignored(name: &str) -> bool {
    const NAMES: [&str; 7] = [".git", ".svn", ".hg", ".repo", "CVS", "__pycache__", ".DS_Store"];
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let hidden = name.starts_with('.');
    NAMES.contains(&name)
        || name.ends_with('~')
        || name.starts_with(".#")
        || (name.starts_with('#') && name.ends_with('#'))
        || extension == "pyc"
        || (hidden && matches!(extension, "swp" | "swo"))
}

/// Builder of a [`LocalTree`] from directories and single files.
pub(crate) struct LocalTreeBuilder<'a> {
    function: DigestFunction,
    stat_cache: &'a mut StatCache,
    directories: HashMap<Digest, Bytes>,
    files: HashMap<Digest, PathBuf>,
    root: UnencodedDirectory,
}

/// Directory of a tree under construction.
#[derive(Default)]
struct UnencodedDirectory {
    directories: BTreeMap<String, Self>,
    files: BTreeMap<String, FileNode>,
    symlinks: BTreeMap<String, SymlinkNode>,
}

impl UnencodedDirectory {
    /// Adds the entries of `other`. Of two files with one name, the later one stays.
    fn merge(&mut self, other: Self) {
        self.files.extend(other.files);
        self.symlinks.extend(other.symlinks);
        for (name, child) in other.directories {
            self.directories.entry(name).or_default().merge(child);
        }
    }
}

impl<'a> LocalTreeBuilder<'a> {
    pub(crate) fn new(function: DigestFunction, stat_cache: &'a mut StatCache) -> Self {
        Self {
            function,
            stat_cache,
            directories: HashMap::new(),
            files: HashMap::new(),
            root: UnencodedDirectory::default(),
        }
    }

    /// Adds the directory `source` at `destination` (relative, `/` between names), without the directories for which
    /// `is_excluded` is true.
    pub(crate) fn add_directory(
        &mut self,
        source: &Path,
        destination: &str,
        is_excluded: &dyn Fn(&Path) -> bool,
    ) -> Result<(), FrontEndError> {
        let node = self.read_directory(source, is_excluded)?;
        open_directory(&mut self.root, destination).merge(node);
        Ok(())
    }

    /// Adds the regular file `source`, which the front end wrote itself, at `destination`.
    pub(crate) fn add_file(&mut self, source: &Path, destination: &str) -> Result<(), FrontEndError> {
        let (parent, name) = destination.rsplit_once('/').unwrap_or(("", destination));
        let digest = hash_file(source, self.function).map_err(FrontEndError::io(source))?;
        let file = self.file_node(source, digest, false);
        open_directory(&mut self.root, parent)
            .files
            .insert(name.to_owned(), file);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> LocalTree {
        let root = std::mem::take(&mut self.root);
        let root = self.encode(root);
        LocalTree {
            root,
            directories: self.directories,
            files: self.files,
        }
    }

    fn read_directory(
        &mut self,
        source: &Path,
        is_excluded: &dyn Fn(&Path) -> bool,
    ) -> Result<UnencodedDirectory, FrontEndError> {
        let mut node = UnencodedDirectory::default();
        for entry in fs::read_dir(source).map_err(FrontEndError::io(source))? {
            let entry = entry.map_err(FrontEndError::io(source))?;
            let path = entry.path();
            // REAPI names are UTF-8; BitBake's own parser cannot read another name either.
            let Some(name) = entry.file_name().to_str().map(ToOwned::to_owned) else {
                continue;
            };
            if is_ignored(&name) {
                continue;
            }
            let metadata = fs::symlink_metadata(&path).map_err(FrontEndError::io(&path))?;
            if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(FrontEndError::io(&path))?;
                let symlink = SymlinkNode {
                    target: target.to_string_lossy().into_owned(),
                    ..SymlinkNode::default()
                };
                node.symlinks.insert(name, symlink);
            } else if metadata.is_dir() {
                if !is_excluded(&path) {
                    let child = self.read_directory(&path, is_excluded)?;
                    node.directories.insert(name, child);
                }
            } else if metadata.is_file() {
                let digest = self.stat_cache.digest(&path, &metadata, self.function);
                let digest = digest.map_err(FrontEndError::io(&path))?;
                let file = self.file_node(&path, digest, metadata.mode() & 0o100 != 0);
                node.files.insert(name, file);
            }
        }
        Ok(node)
    }

    fn file_node(&mut self, path: &Path, digest: Digest, is_executable: bool) -> FileNode {
        self.files.entry(digest).or_insert_with(|| path.to_owned());
        FileNode {
            digest: Some(digest.to_wire()),
            is_executable,
            ..FileNode::default()
        }
    }

    /// Encodes a directory and all below it, children first.
    fn encode(&mut self, directory: UnencodedDirectory) -> Digest {
        let mut encoder = DirectoryEncoder::default();
        for (name, file) in directory.files {
            encoder.add_file(name, file);
        }
        for (name, symlink) in directory.symlinks {
            encoder.add_symlink(name, symlink);
        }
        for (name, child) in directory.directories {
            let digest = self.encode(child);
            encoder.add_directory(name, digest);
        }
        let encoded = encoder.encode(self.function);
        self.directories.insert(encoded.digest, encoded.bytes.into());
        encoded.digest
    }
}

/// Opens the directory at a path of names, and creates what is missing.
fn open_directory<'n>(root: &'n mut UnencodedDirectory, path: &str) -> &'n mut UnencodedDirectory {
    path.split('/')
        .filter(|name| !name.is_empty())
        .fold(root, |node, name| {
            node.directories.entry(name.to_owned()).or_default()
        })
}

#[cfg(test)]
mod tests;
