//! The blobs that the result of an Action depends on.

use std::collections::HashSet;
use std::sync::Arc;

use bitzel_proto::message_memory::decode_message;
use bitzel_proto::reapi::{ActionResult, OutputDirectory, Tree};
use bitzel_proto::{Digest, DigestFunction, InvalidDigest, reapi};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::blob_store::{BlobStore, read_whole};
use crate::directory_tree::{DirectoryCache, MAX_TREE_SIZE, fetch_directory_tree};
use crate::error::Error;
use crate::weighted_cache::weighted_cache;

/// Digests that all cached Trees may name together: 48 bytes each.
const MAX_TREE_CACHE_DIGESTS: u64 = 1 << 21;
/// Digests that one Tree names, roughly.
const TYPICAL_TREE_DIGESTS: u64 = 64;
/// Limit of the distinct blobs that one result depends on: 48 bytes each. It is that of the Directories of a tree.
const MAX_RESULT_BLOBS: usize = 1 << 20;
/// Limit of the names in all distinct trees of one result. Output directories share blobs, so there may be more of these
/// than blobs; each takes time only.
const MAX_RESULT_NAMES: usize = 4 << 20;
/// Blobs of a result from which on few results are looked at at the same time: each may take a hundred megabytes.
const LARGE_RESULT_BLOBS: usize = 1 << 14;
/// Size of a Tree from which on the same holds: in memory, it is several times as large.
const LARGE_TREE_BYTES: u64 = 1 << 20;
/// Large results that are looked at at the same time.
const MAX_CONCURRENT_LARGE_RESULTS: usize = 4;
/// Memory for Directories of outputs, in bytes.
const DIRECTORY_CACHE_SIZE: u64 = 128 << 20;

/// Finds the blobs that results name. Reads Trees and Directories from the store of a call, and remembers those of all
/// stores. So a caller whose store is the view of a tenant searches in it for [`root_digests`] before, and for the blobs
/// that a result names afterwards.
pub(crate) struct ResultBlobs {
    directories: DirectoryCache,
    /// The files of Trees, so that only the first check of an output directory reads its Tree.
    trees: Cache<Digest, Arc<Vec<Digest>>, DigestCount>,
    /// Permits of large results.
    large_results: Arc<Semaphore>,
}

/// Blobs that a result depends on, each once.
pub(crate) struct ResultDigests {
    pub(crate) digests: Vec<Digest>,
    /// Permit of a large result, until the digests are used.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Weighs a Tree by its digest and those that it names.
#[derive(Clone, Copy)]
struct DigestCount;

impl Weighter<Digest, Arc<Vec<Digest>>> for DigestCount {
    fn weight(&self, _: &Digest, files: &Arc<Vec<Digest>>) -> u64 {
        files.len() as u64 + 1
    }
}

impl Default for ResultBlobs {
    fn default() -> Self {
        Self {
            directories: DirectoryCache::new(DIRECTORY_CACHE_SIZE),
            trees: weighted_cache(MAX_TREE_CACHE_DIGESTS, TYPICAL_TREE_DIGESTS, DigestCount),
            large_results: Arc::new(Semaphore::new(MAX_CONCURRENT_LARGE_RESULTS)),
        }
    }
}

impl ResultBlobs {
    /// Every blob that a result depends on, once. [`Error::NotFound`] when a Tree or Directory is missing already.
    ///
    /// The result is hostile: a command of some bytes makes one that names the same large directory a hundred thousand
    /// times. So each tree is read once, the number of blobs and of their names is limited, and large results wait for each
    /// other.
    pub(crate) async fn needed(
        &self,
        store: &dyn BlobStore,
        function: DigestFunction,
        result: &ActionResult,
    ) -> Result<ResultDigests, Error> {
        let mut needed = NeededBlobs::default();
        for file in &result.output_files {
            needed.add(parse(function, file.digest.as_ref(), &file.path)?)?;
        }
        for (name, named) in [
            ("stdout", &result.stdout_digest),
            ("stderr", &result.stderr_digest),
        ] {
            if named.is_some() {
                needed.add(parse(function, named.as_ref(), name)?)?;
            }
        }
        for directory in &result.output_directories {
            self.add_directory(store, function, directory, &mut needed)
                .await?;
            // Trees in the cache are read without a wait.
            tokio::task::consume_budget().await;
        }
        Ok(ResultDigests {
            digests: needed.blobs.into_iter().collect(),
            _permit: needed.permit,
        })
    }

    /// Waits for a permit if the result is large.
    async fn admit(&self, needed: &mut NeededBlobs, is_large: bool) {
        if is_large && needed.permit.is_none() {
            // The semaphore is never closed.
            needed.permit = Arc::clone(&self.large_results).acquire_owned().await.ok();
        }
    }

    async fn add_directory(
        &self,
        store: &dyn BlobStore,
        function: DigestFunction,
        directory: &OutputDirectory,
        needed: &mut NeededBlobs,
    ) -> Result<(), Error> {
        let path = &directory.path;
        if directory.tree_digest.is_none() && directory.root_directory_digest.is_none() {
            return Err(malformed(path, &InvalidDigest::Missing));
        }
        if directory.tree_digest.is_some() {
            let tree = parse(function, directory.tree_digest.as_ref(), path)?;
            if needed.trees.insert(tree) {
                needed.add(tree)?;
                self.admit(needed, tree.size_bytes() > LARGE_TREE_BYTES).await;
                let files = self.files_of_tree(store, tree).await?;
                self.admit(needed, needed.blobs.len() + files.len() > LARGE_RESULT_BLOBS)
                    .await;
                for file in files.iter() {
                    needed.add(*file)?;
                }
            }
        }
        if directory.root_directory_digest.is_some() {
            let root = parse(function, directory.root_directory_digest.as_ref(), path)?;
            if needed.roots.insert(root) {
                self.admit(needed, root.size_bytes() > LARGE_TREE_BYTES).await;
                let tree = fetch_directory_tree(store, root, &self.directories).await?;
                let directories = tree.directories.values();
                let names: usize = directories.map(|directory| 1 + directory.files.len()).sum();
                self.admit(needed, needed.blobs.len() + names > LARGE_RESULT_BLOBS)
                    .await;
                for (digest, directory) in &tree.directories {
                    needed.add(*digest)?;
                    needed.add_names(directory.directories.len() + directory.symlinks.len())?;
                    for file in &directory.files {
                        needed.add(parse(function, file.digest.as_ref(), &file.name)?)?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn files_of_tree(&self, store: &dyn BlobStore, digest: Digest) -> Result<Arc<Vec<Digest>>, Error> {
        if let Some(files) = self.trees.get(&digest) {
            return Ok(files);
        }
        if digest.size_bytes() > MAX_TREE_SIZE {
            return Err(Error::TreeTooLarge {
                root: digest,
                what: format!("a Tree message of more than {MAX_TREE_SIZE} bytes"),
            });
        }
        let blob = read_whole(store, digest).await?;
        let tree = decode_message::<Tree>(&blob).map_err(|source| Error::Decode {
            context: format!("blob {digest} is not a Tree"),
            source,
        })?;
        let mut files = Vec::new();
        for directory in tree.root.iter().chain(&tree.children) {
            add_files(digest.function(), directory, &mut files)?;
        }
        let files = Arc::new(files);
        self.trees.insert(digest, Arc::clone(&files));
        Ok(files)
    }
}

/// Distinct blobs of a result as they are found.
#[derive(Default)]
struct NeededBlobs {
    blobs: HashSet<Digest>,
    /// Trees that were read.
    trees: HashSet<Digest>,
    /// Root Directories whose trees were read.
    roots: HashSet<Digest>,
    /// Names that were read, with repetitions.
    names: usize,
    /// Permit of a large result.
    permit: Option<OwnedSemaphorePermit>,
}

impl NeededBlobs {
    fn add(&mut self, digest: Digest) -> Result<(), Error> {
        self.blobs.insert(digest);
        self.add_names(1)
    }

    /// Counts names, and checks both limits.
    fn add_names(&mut self, names: usize) -> Result<(), Error> {
        self.names += names;
        if self.blobs.len() > MAX_RESULT_BLOBS || self.names > MAX_RESULT_NAMES {
            return Err(Error::InvalidArgument(format!(
                "the outputs have more than {MAX_RESULT_BLOBS} blobs, or {MAX_RESULT_NAMES} names"
            )));
        }
        Ok(())
    }
}

/// Digests of the Trees and root Directories of a result, each once. Malformed ones are left out.
pub(crate) fn root_digests(function: DigestFunction, result: &ActionResult) -> Vec<Digest> {
    let directories = result.output_directories.iter();
    let digests: HashSet<Digest> = directories
        .flat_map(|directory| [&directory.tree_digest, &directory.root_directory_digest])
        .filter_map(|digest| Digest::from_wire_field(function, digest.as_ref()).ok())
        .collect();
    digests.into_iter().collect()
}

fn add_files(
    function: DigestFunction,
    directory: &reapi::Directory,
    files: &mut Vec<Digest>,
) -> Result<(), Error> {
    for file in &directory.files {
        files.push(parse(function, file.digest.as_ref(), &file.name)?);
    }
    Ok(())
}

fn parse(function: DigestFunction, digest: Option<&reapi::Digest>, path: &str) -> Result<Digest, Error> {
    Digest::from_wire_field(function, digest).map_err(|error| malformed(path, &error))
}

fn malformed(path: &str, error: &InvalidDigest) -> Error {
    Error::InvalidArgument(format!("output {path:?}: {error}"))
}

#[cfg(test)]
mod tests;
