//! Trees of Directory messages: input roots and outputs.

mod cache;

use std::collections::HashMap;
use std::sync::Arc;

use bitzel_proto::message_memory::decode_message;
use bitzel_proto::{Digest, InvalidDirectory, reapi, validate_directory};
use bytes::Bytes;

pub use cache::DirectoryCache;

use crate::blob_store::BlobStore;
use crate::blob_store::verification::verify;
use crate::error::Error;

/// Limit of the levels of a tree. Linux paths end at 4096 bytes, so no usable tree comes close.
pub const MAX_DEPTH: usize = 512;
/// Limit of the distinct Directories in one tree.
pub const MAX_DIRECTORIES: usize = 1 << 20;
/// Limit of the Directories in one tree with every occurrence counted: a small message can name the same child many
/// times, level by level, and so describe more directories than any disk holds.
pub const MAX_OCCURRENCES: u64 = 1 << 23;
/// Limit of one Directory message in bytes: some hundred thousand files.
pub const MAX_DIRECTORY_SIZE: u64 = 64 << 20;
/// Limit of all Directory messages of one tree in bytes: some million files. Decoded they take several times that.
pub const MAX_TREE_SIZE: u64 = 128 << 20;
/// Directories that are read in one batch.
const MAX_BATCH_DIRECTORIES: usize = 2048;
/// Bytes of Directories that are read in one batch.
const MAX_BATCH_BYTES: u64 = 4 << 20;

/// All Directories of a tree, validated: digests match, names are valid, limits are kept.
#[derive(Debug, Clone)]
pub struct DirectoryTree {
    /// The digest of the root.
    pub root: Digest,
    /// The root and every Directory below it. Every digest that one of them names as a child is a key.
    pub directories: HashMap<Digest, Arc<reapi::Directory>>,
}

/// Fetches a tree level by level, each Directory once and those in `cache` not at all.
///
/// [`Error::NotFound`] names a Directory that is missing. The store is not trusted: digests are verified, Directories
/// validated, depth and number limited.
pub async fn fetch_directory_tree(
    store: &dyn BlobStore,
    root: Digest,
    cache: &DirectoryCache,
) -> Result<DirectoryTree, Error> {
    let mut directories: HashMap<Digest, Arc<reapi::Directory>> = HashMap::new();
    let mut level = vec![root];
    let mut depth = 0;
    let mut bytes = 0_u64;
    while !level.is_empty() {
        depth += 1;
        if depth > MAX_DEPTH {
            return Err(too_deep(root));
        }
        if directories.len() + level.len() > MAX_DIRECTORIES {
            return Err(Error::TreeTooLarge {
                root,
                what: format!("more than {MAX_DIRECTORIES} directories"),
            });
        }
        for digest in &level {
            bytes = bytes.saturating_add(digest.size_bytes());
        }
        if bytes > MAX_TREE_SIZE {
            return Err(Error::TreeTooLarge {
                root,
                what: format!("directories of more than {MAX_TREE_SIZE} bytes together"),
            });
        }
        fetch_level(store, &level, cache, &mut directories).await?;
        let mut next = Vec::new();
        for digest in &level {
            for child in children(*digest, &directories[digest]) {
                let child = child?;
                if !directories.contains_key(&child) {
                    next.push(child);
                }
            }
        }
        next.sort_unstable();
        next.dedup();
        level = next;
    }
    let tree = DirectoryTree { root, directories };
    tree.check_shape()?;
    Ok(tree)
}

async fn fetch_level(
    store: &dyn BlobStore,
    level: &[Digest],
    cache: &DirectoryCache,
    directories: &mut HashMap<Digest, Arc<reapi::Directory>>,
) -> Result<(), Error> {
    let mut unknown = Vec::new();
    for digest in level {
        match cache.get(digest) {
            Some(directory) => {
                directories.insert(*digest, directory);
            }
            None if digest.size_bytes() > MAX_DIRECTORY_SIZE => {
                return Err(Error::TreeTooLarge {
                    root: *digest,
                    what: format!("a directory of more than {MAX_DIRECTORY_SIZE} bytes"),
                });
            }
            None => unknown.push(*digest),
        }
    }
    let mut unknown = unknown.as_slice();
    while !unknown.is_empty() {
        let (digests, later) = unknown.split_at(batch_length(unknown, MAX_BATCH_DIRECTORIES));
        unknown = later;
        let blobs = store.read_batch(digests).await;
        for (digest, blob) in digests.iter().zip(blobs) {
            let directory = Arc::new(decode(*digest, blob?)?);
            cache.insert(*digest, Arc::clone(&directory));
            directories.insert(*digest, directory);
        }
    }
    Ok(())
}

/// Counts the first `digests` that fit into one batch: at least one, at most `max_blobs`, and of bounded size.
pub fn batch_length<'a>(digests: impl IntoIterator<Item = &'a Digest>, max_blobs: usize) -> usize {
    let mut bytes = 0_u64;
    let fitting = digests.into_iter().take(max_blobs).take_while(|digest| {
        bytes = bytes.saturating_add(digest.size_bytes());
        bytes <= MAX_BATCH_BYTES
    });
    fitting.count().max(1)
}

fn decode(digest: Digest, blob: Bytes) -> Result<reapi::Directory, Error> {
    let blob = verify(digest, blob)?;
    let directory = decode_message::<reapi::Directory>(&blob).map_err(|source| Error::Decode {
        context: format!("blob {digest} is not a Directory"),
        source,
    })?;
    validate_directory(&directory).map_err(|source| Error::InvalidDirectory { digest, source })?;
    Ok(directory)
}

/// The digests of the children of a Directory, under its own digest function.
fn children(parent: Digest, directory: &reapi::Directory) -> impl Iterator<Item = Result<Digest, Error>> {
    directory.directories.iter().map(move |child| {
        Digest::from_wire_field(parent.function(), child.digest.as_ref()).map_err(|error| {
            Error::InvalidDirectory {
                digest: parent,
                source: InvalidDirectory::Digest {
                    name: child.name.clone(),
                    source: error,
                },
            }
        })
    })
}

fn too_deep(root: Digest) -> Error {
    Error::TreeTooLarge {
        root,
        what: format!("directories more than {MAX_DEPTH} levels deep"),
    }
}

/// Size of the tree below a Directory when every occurrence is counted.
#[derive(Clone, Copy)]
struct Extent {
    depth: usize,
    occurrences: u64,
}

impl DirectoryTree {
    /// Checks the longest path to each Directory, where the fetch counted the shortest, and the number of directories on
    /// disk. Verified digests rule out cycles, so children can be finished before their parents.
    fn check_shape(&self) -> Result<(), Error> {
        let mut extents: HashMap<Digest, Extent> = HashMap::with_capacity(self.directories.len());
        let mut stack = vec![(self.root, false)];
        while let Some((digest, children_done)) = stack.pop() {
            if extents.contains_key(&digest) {
                continue;
            }
            let directory = &self.directories[&digest];
            if !children_done {
                stack.push((digest, true));
                for child in children(digest, directory) {
                    stack.push((child?, false));
                }
                continue;
            }
            let mut extent = Extent {
                depth: 1,
                occurrences: 1,
            };
            for child in children(digest, directory) {
                let child = extents[&child?];
                extent.depth = extent.depth.max(child.depth + 1);
                extent.occurrences = extent.occurrences.saturating_add(child.occurrences);
            }
            if extent.depth > MAX_DEPTH {
                return Err(too_deep(self.root));
            }
            if extent.occurrences > MAX_OCCURRENCES {
                return Err(Error::TreeTooLarge {
                    root: self.root,
                    what: format!("more than {MAX_OCCURRENCES} directories, repeated ones counted"),
                });
            }
            extents.insert(digest, extent);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
