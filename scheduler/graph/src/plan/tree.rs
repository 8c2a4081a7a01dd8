//! Merkle trees under construction, in which only changed directories are opened.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bitzel_proto::reapi::{Directory, FileNode, NodeProperties, SymlinkNode};
use bitzel_proto::{Digest, DigestFunction, DirectoryEncoder};
use bytes::Bytes;

/// Directories by digest: all those that a merge may have to open.
pub type Directories = HashMap<Digest, Arc<Directory>>;

/// Digest function of bitzel's own trees: every REAPI server supports SHA-256.
pub const DIGEST_FUNCTION: DigestFunction = DigestFunction::Sha256;

/// Two trees have different content at one path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("different content at {path}")]
pub struct MergeConflict {
    /// Path from the root of the tree.
    pub path: String,
}

/// Error of a tree that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// See [`MergeConflict`].
    #[error(transparent)]
    Conflict(#[from] MergeConflict),
    /// A Directory that a merge has to open is not among the given ones.
    #[error("directory {0} is not known")]
    UnknownDirectory(Digest),
    /// A parent of the path is not a directory.
    #[error("{0} is not a directory")]
    NotADirectory(String),
    /// A Directory message has a child with a malformed digest.
    #[error("malformed digest below {0}")]
    MalformedDigest(String),
}

/// A node of a tree.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A regular file.
    File(FileNode),
    /// A symbolic link.
    Symlink(SymlinkNode),
    /// A stored directory without changes.
    Stored(Digest),
    /// A directory under construction.
    Open(OpenDirectory),
}

/// A directory under construction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OpenDirectory {
    entries: BTreeMap<String, Node>,
    properties: Option<NodeProperties>,
}

/// A tree under construction, with the stored directories that it may open.
#[derive(Debug, Clone)]
pub struct Tree<'a> {
    directories: &'a Directories,
    root: Node,
}

/// A finished tree.
#[derive(Debug, Clone)]
pub struct FinishedTree {
    /// Digest of the root Directory.
    pub root: Digest,
    /// The new Directory messages. Those that were [`Node::Stored`] are in the store already.
    pub blobs: Vec<(Digest, Bytes)>,
}

impl<'a> Tree<'a> {
    /// Creates an empty tree.
    pub fn new(directories: &'a Directories) -> Self {
        Self {
            directories,
            root: Node::Open(OpenDirectory::default()),
        }
    }

    /// Creates a tree that starts as a stored directory.
    pub fn stored(directories: &'a Directories, root: Digest) -> Self {
        Self {
            directories,
            root: Node::Stored(root),
        }
    }

    /// Returns the node at `path`; `None` if there is none.
    pub fn get(&self, path: &str) -> Result<Option<Node>, TreeError> {
        let mut node = self.root.clone();
        for segment in segments(path) {
            if !is_directory(&node) {
                return Ok(None);
            }
            let Some(child) = open(self.directories, node, path)?.entries.remove(segment) else {
                return Ok(None);
            };
            node = child;
        }
        Ok(Some(node))
    }

    /// Puts a node at `path`. Parents are created, and an existing node is replaced.
    pub fn put(&mut self, path: &str, node: Node) -> Result<(), TreeError> {
        self.edit(path, |_| Ok(Some(node)))
    }

    /// Puts a small file at `path` and returns its blob for upload.
    pub fn put_file(&mut self, path: &str, content: Bytes) -> Result<(Digest, Bytes), TreeError> {
        let digest = DIGEST_FUNCTION.digest(&content);
        let node = FileNode {
            digest: Some(digest.to_wire()),
            ..FileNode::default()
        };
        self.put(path, Node::File(node))?;
        Ok((digest, content))
    }

    /// Applies the changes from `base` to `result` at `path`.
    ///
    /// Without a `base` this is a union: every node of `result` must be new, or equal to the one that exists. With a base
    /// it is a three-way merge: unchanged nodes are left alone, so that changes of others stay; deleted nodes are deleted;
    /// and only nodes that both sides changed differently are a conflict. `may_replace` allows conflicts by path; `result`
    /// replaces the existing node there. Files that differ only in time are equal.
    pub fn merge(
        &mut self,
        path: &str,
        base: Option<&Node>,
        result: Option<&Node>,
        may_replace: &dyn Fn(&str) -> bool,
    ) -> Result<(), TreeError> {
        let merge = Merge {
            directories: self.directories,
            may_replace,
        };
        self.edit(path, |current| {
            merge.merge(path, current, base.cloned(), result.cloned())
        })
    }

    /// Encodes the opened directories.
    pub fn finish(self) -> FinishedTree {
        let mut blobs = Vec::new();
        let root = match self.root {
            Node::Open(directory) => encode(directory, &mut blobs),
            Node::Stored(root) => root,
            // `edit` never replaces the root itself by anything but a directory.
            Node::File(_) | Node::Symlink(_) => encode(OpenDirectory::default(), &mut blobs),
        };
        FinishedTree { root, blobs }
    }

    fn edit(
        &mut self,
        path: &str,
        change: impl FnOnce(Option<Node>) -> Result<Option<Node>, TreeError>,
    ) -> Result<(), TreeError> {
        let segments: Vec<&str> = segments(path).collect();
        let root = std::mem::replace(&mut self.root, Node::Open(OpenDirectory::default()));
        let edited = edit(self.directories, Some(root), &segments, path, change)?;
        self.root = match edited {
            Some(root @ (Node::Open(_) | Node::Stored(_))) => root,
            Some(Node::File(_) | Node::Symlink(_)) => return Err(TreeError::NotADirectory("/".to_owned())),
            None => Node::Open(OpenDirectory::default()),
        };
        Ok(())
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// Replaces the node at `path` below `node` by the result of `change`, and opens the directories on the way.
fn edit(
    directories: &Directories,
    node: Option<Node>,
    path: &[&str],
    whole_path: &str,
    change: impl FnOnce(Option<Node>) -> Result<Option<Node>, TreeError>,
) -> Result<Option<Node>, TreeError> {
    let Some((first, rest)) = path.split_first() else {
        return change(node);
    };
    let mut directory = match node {
        Some(node) => open(directories, node, whole_path)?,
        None => OpenDirectory::default(),
    };
    let child = directory.entries.remove(*first);
    if let Some(child) = edit(directories, child, rest, whole_path, change)? {
        directory.entries.insert((*first).to_owned(), child);
    }
    Ok(Some(Node::Open(directory)))
}

/// Opens a directory node.
fn open(directories: &Directories, node: Node, path: &str) -> Result<OpenDirectory, TreeError> {
    match node {
        Node::Open(directory) => Ok(directory),
        Node::Stored(digest) if digest.is_empty_blob() => Ok(OpenDirectory::default()),
        Node::Stored(digest) => {
            let directory = directories
                .get(&digest)
                .ok_or(TreeError::UnknownDirectory(digest))?;
            OpenDirectory::of(directory, path)
        }
        Node::File(_) | Node::Symlink(_) => Err(TreeError::NotADirectory(path.to_owned())),
    }
}

impl OpenDirectory {
    fn of(directory: &Directory, path: &str) -> Result<Self, TreeError> {
        let mut entries = BTreeMap::new();
        for child in &directory.directories {
            let digest = Digest::from_wire_field(DIGEST_FUNCTION, child.digest.as_ref())
                .map_err(|_| TreeError::MalformedDigest(path.to_owned()))?;
            entries.insert(child.name.clone(), Node::Stored(digest));
        }
        // The name is the key of the map. Without a copy of it in the node, equal content at two paths is equal.
        for file in &directory.files {
            let node = FileNode {
                name: String::new(),
                ..file.clone()
            };
            entries.insert(file.name.clone(), Node::File(node));
        }
        for symlink in &directory.symlinks {
            let node = SymlinkNode {
                name: String::new(),
                ..symlink.clone()
            };
            entries.insert(symlink.name.clone(), Node::Symlink(node));
        }
        Ok(Self {
            entries,
            properties: directory.node_properties.clone(),
        })
    }
}

/// Encodes a directory and all opened ones below it, children first.
fn encode(directory: OpenDirectory, blobs: &mut Vec<(Digest, Bytes)>) -> Digest {
    let mut encoder = DirectoryEncoder::new(directory.properties);
    for (name, node) in directory.entries {
        match node {
            Node::File(file) => encoder.add_file(name, file),
            Node::Symlink(symlink) => encoder.add_symlink(name, symlink),
            Node::Stored(digest) => encoder.add_directory(name, digest),
            Node::Open(child) => encoder.add_directory(name, encode(child, blobs)),
        }
    }
    let encoded = encoder.encode(DIGEST_FUNCTION);
    blobs.push((encoded.digest, encoded.bytes.into()));
    encoded.digest
}

/// A three-way merge.
struct Merge<'a> {
    directories: &'a Directories,
    may_replace: &'a dyn Fn(&str) -> bool,
}

impl Merge<'_> {
    fn merge(
        &self,
        path: &str,
        current: Option<Node>,
        base: Option<Node>,
        result: Option<Node>,
    ) -> Result<Option<Node>, TreeError> {
        if base == result || current == result {
            return Ok(current);
        }
        match (current, base, result) {
            // Only this side changed it.
            (current, base, result) if same_without_times(current.as_ref(), base.as_ref()) => Ok(result),
            (current, _, result) if same_without_times(current.as_ref(), result.as_ref()) => Ok(result),
            // A missing node counts as an empty directory, so that removing a directory is removing its files.
            (current, base, result) if [&current, &base, &result].into_iter().flatten().all(is_directory) => {
                self.merge_directories(path, current, base, result)
            }
            (_, _, result) if (self.may_replace)(path) => Ok(result),
            _ => Err(MergeConflict {
                path: path.to_owned(),
            }
            .into()),
        }
    }

    fn merge_directories(
        &self,
        path: &str,
        current: Option<Node>,
        base: Option<Node>,
        result: Option<Node>,
    ) -> Result<Option<Node>, TreeError> {
        let removed = current.is_none() || result.is_none();
        let entries = |node: Option<Node>| {
            node.map_or_else(
                || Ok(OpenDirectory::default()),
                |node| open(self.directories, node, path),
            )
        };
        let (mut current, mut base, mut result) = (entries(current)?, entries(base)?, entries(result)?);
        let names: Vec<String> = result
            .entries
            .keys()
            .chain(base.entries.keys())
            .cloned()
            .collect();
        for name in names {
            let (before, after) = (base.entries.remove(&name), result.entries.remove(&name));
            if before == after {
                // This is also the second visit of a name that is in both.
                continue;
            }
            let child = current.entries.remove(&name);
            if let Some(merged) = self.merge(&format!("{path}/{name}"), child, before, after)? {
                current.entries.insert(name, merged);
            }
        }
        if result.properties != base.properties {
            current.properties = result.properties;
        }
        let nothing_left = removed && current.entries.is_empty();
        Ok((!nothing_left).then_some(Node::Open(current)))
    }
}

fn is_directory(node: &Node) -> bool {
    matches!(node, Node::Stored(_) | Node::Open(_))
}

/// True if two nodes differ at most in times.
fn same_without_times(one: Option<&Node>, other: Option<&Node>) -> bool {
    match (one, other) {
        (Some(Node::File(one)), Some(Node::File(other))) => {
            let mode = |file: &FileNode| {
                file.node_properties
                    .as_ref()
                    .and_then(|properties| properties.unix_mode)
            };
            one.digest == other.digest && one.is_executable == other.is_executable && mode(one) == mode(other)
        }
        (Some(Node::Symlink(one)), Some(Node::Symlink(other))) => one.target == other.target,
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests;
