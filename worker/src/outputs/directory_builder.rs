//! Encoder of scanned directories as Directory and Tree messages.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bitzel_cas::{BlobSource, DirectoryTree};
use bitzel_proto::reapi::{Directory, SymlinkNode, Tree};
use bitzel_proto::{Digest, DigestFunction, DirectoryEncoder};

use super::hashed_files::HashedFiles;
use super::scan::{ScannedDirectory, ScannedNode};
use crate::bounds::{Bound, BoundReached, size};
use crate::error::Error;
use crate::input_tree::{child_digest, directory_of};
use crate::node_properties::OutputProperties;

/// Size of all Trees of an Action together, which are in memory until they are uploaded. The largest output that
/// [`Bounds::output_entries`](crate::Bounds::output_entries) allows has a Tree of about a quarter of this.
const MAX_TREE_BYTES: u64 = 1 << 30;

/// Encodes messages and keeps those that are not in the input.
#[derive(Debug)]
pub(super) struct DirectoryBuilder<'build> {
    function: DigestFunction,
    input: &'build DirectoryTree,
    files: &'build HashedFiles,
    properties: OutputProperties,
    new: HashMap<Digest, (Arc<Directory>, Vec<u8>)>,
    /// Encoded Trees by the digest of their root. Many declared outputs can be the same directory.
    trees: HashMap<Digest, (Digest, Vec<u8>)>,
    tree_bytes: u64,
    budget: OutputBudget,
}

/// Size of the outputs so far, and its bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutputBudget {
    pub used: u64,
    pub allowed: u64,
}

impl<'build> DirectoryBuilder<'build> {
    pub(super) fn new(
        function: DigestFunction,
        input: &'build DirectoryTree,
        files: &'build HashedFiles,
        properties: OutputProperties,
        budget: OutputBudget,
    ) -> Self {
        Self {
            function,
            input,
            files,
            properties,
            new: HashMap::new(),
            trees: HashMap::new(),
            tree_bytes: 0,
            budget,
        }
    }

    /// Encodes a directory, its children first, and returns its digest.
    pub(super) fn build(&mut self, scanned: &ScannedDirectory) -> Result<Digest, Error> {
        let (entries, attributes) = match scanned {
            ScannedDirectory::Input(digest) => return Ok(*digest),
            ScannedDirectory::Changed { entries, attributes } => (entries, attributes),
        };
        let (mode, mtime) = (attributes.mode, attributes.mtime);
        let mut encoder = DirectoryEncoder::new(self.properties.node_properties(mode, mtime, None));
        for (name, node) in entries {
            let name = name.clone();
            match node {
                ScannedNode::File(file) => encoder.add_file(name, self.files.node(file).clone()),
                ScannedNode::Symlink(symlink) => {
                    let node = SymlinkNode {
                        target: symlink.target.clone(),
                        node_properties: symlink.properties(self.properties),
                        ..SymlinkNode::default()
                    };
                    encoder.add_symlink(name, node);
                }
                ScannedNode::Directory(child) => encoder.add_directory(name, self.build(child)?),
            }
        }
        let encoded = encoder.encode(self.function);
        let directory = (Arc::new(encoded.message), encoded.bytes);
        self.new.insert(encoded.digest, directory);
        Ok(encoded.digest)
    }

    /// Encodes the Tree of a directory, the output at `path`, and returns its digest. Trees of unchanged directories
    /// count for the size of the outputs too: nested ones could take far more memory than the input itself.
    pub(super) fn tree(&mut self, root: Digest, path: &str) -> Result<Digest, Error> {
        if let Some((digest, _)) = self.trees.get(&root) {
            return Ok(*digest);
        }
        let mut tree = Tree {
            root: Some((*self.directory(root)?).clone()),
            children: vec![],
        };
        let mut seen = HashSet::new();
        let mut pending = vec![root];
        while let Some(parent) = pending.pop() {
            for node in &self.directory(parent)?.directories {
                let child = child_digest(self.function, node)?;
                if seen.insert(child) {
                    tree.children.push((*self.directory(child)?).clone());
                    pending.push(child);
                }
            }
        }
        let (digest, bytes) = Digest::of_message(self.function, &tree);
        self.count_tree(digest.size_bytes(), path)?;
        self.trees.insert(root, (digest, bytes));
        Ok(digest)
    }

    fn count_tree(&mut self, bytes: u64, path: &str) -> Result<(), Error> {
        let OutputBudget { used, allowed } = &mut self.budget;
        *used = used.saturating_add(bytes);
        self.tree_bytes = self.tree_bytes.saturating_add(bytes);
        if *used > *allowed {
            return Err(Error::BoundReached(BoundReached {
                bound: Bound::OutputBytes,
                used: Some(*used),
                allowed: *allowed,
            }));
        }
        if self.tree_bytes > MAX_TREE_BYTES {
            return Err(Error::InvalidOutput {
                path: path.to_owned(),
                reason: format!(
                    "makes the Tree messages of the outputs larger than {} together; declare fewer nested directories, \
                     or ask for DIRECTORY_ONLY",
                    size(MAX_TREE_BYTES)
                ),
            });
        }
        Ok(())
    }

    fn directory(&self, digest: Digest) -> Result<Arc<Directory>, Error> {
        match self.new.get(&digest) {
            Some((directory, _)) => Ok(Arc::clone(directory)),
            None => directory_of(self.input, digest).cloned(),
        }
    }

    /// The blobs to upload: the Trees and, if `with_directories` is true, the new Directories.
    pub(super) fn into_blobs(self, with_directories: bool) -> Vec<(Digest, BlobSource)> {
        let directories = self.new.into_iter().map(|(digest, (_, bytes))| (digest, bytes));
        let directories = directories.filter(|_| with_directories);
        let blobs = self.trees.into_values().chain(directories);
        blobs
            .map(|(digest, bytes)| (digest, BlobSource::Bytes(bytes.into())))
            .collect()
    }
}
