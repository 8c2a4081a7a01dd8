//! Assembly of input roots from the file cache.
//!
//! An input root is a stack of directories that overlayfs merges. Big subtrees that recur are *layers*: each is
//! assembled once for a path and a Directory digest, and shared by all Actions that have the subtree at that path. The
//! rest is a small *skeleton* on top, which belongs to the Action. See `docs/decisions/0004-input-roots-and-sandbox.md`.
//!
//! A small input root is copied instead, into the directory where the command writes. See
//! `docs/decisions/0028-small-input-roots-are-copied.md`.

use std::path::PathBuf;
use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;
use bitzel_cas::{BlobStore, DirectoryTree};
use bitzel_proto::Digest;
use tokio_util::sync::CancellationToken;

use crate::cancellation::unless_cancelled;
use crate::error::Error;
use crate::file_cache::{FileCache, FileKey, FileLease};
use crate::image_root::ImageRoot;
use crate::worker_directories::{self, ActionDirectory, WorkerDirectories};

mod assembly;
mod layer_cache;
mod layer_selection;
mod prefetch;
mod running_fetches;
mod small_tree;

use assembly::Assembly;
pub(crate) use assembly::{DEFAULT_DIRECTORY_MODE, set_attributes};
pub(crate) use layer_cache::LayerLease;
use layer_cache::{LayerCache, LayerClaim};
use layer_selection::{LayerKey, select_layers};
pub(crate) use prefetch::{PrefetchBudget, PrefetchedInputs};
pub(crate) use running_fetches::{RunningFetch, RunningFetches};
use small_tree::is_small;

/// Number of attempts to assemble one tree, each after a file of the cache was lost.
const MAX_ASSEMBLIES: usize = 3;

/// Assembler of input roots.
#[derive(Debug)]
pub struct InputRoots {
    directories: Arc<WorkerDirectories>,
    files: Arc<FileCache>,
    layers: Arc<LayerCache>,
}

/// An assembled input root. Its files and layers stay in place while it lives.
#[derive(Debug)]
pub struct InputRoot {
    /// Lower directories of the overlay, uppermost first, relative to the cache directory. Empty if the input root was
    /// copied into the directory where the command writes.
    pub lower: Vec<String>,
    _layers: Vec<LayerLease>,
    _files: FileLease,
}

impl InputRoots {
    /// An assembler that takes files from a file cache. Its layers have `max_layer_entries` directories and symlinks at most,
    /// but for those that are in use.
    pub fn new(directories: Arc<WorkerDirectories>, files: Arc<FileCache>, max_layer_entries: u64) -> Self {
        Self {
            layers: LayerCache::new(Arc::clone(&directories), max_layer_entries),
            directories,
            files,
        }
    }

    /// Assembles `tree`. The part that belongs to the Action is placed in `directory`: in the entry `lower` or, if `may_copy`
    /// is true and the tree is small, in `upper`. Runs `then` at the end, where it may block.
    pub async fn assemble(
        &self,
        store: &dyn BlobStore,
        tree: &Arc<DirectoryTree>,
        directory: &ActionDirectory,
        may_copy: bool,
        cancellation: &CancellationToken,
        then: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<InputRoot, Error> {
        if may_copy && is_small(tree)? {
            let copy = Assembly::copy(tree);
            let (keys, entries) = copy.contents(cancellation)?;
            let planned = PlannedAssembly {
                keys,
                entries,
                assembly: copy,
                path: directory.path("upper"),
            };
            let files = self.place(store, planned, cancellation, then).await?;
            self.enforce_cache_limit().await;
            return Ok(InputRoot {
                lower: vec![],
                _layers: vec![],
                _files: files,
            });
        }
        let selected = {
            let (tree, layers) = (Arc::clone(tree), Arc::clone(&self.layers));
            run_blocking(move || select_layers(&tree, |key| layers.contains(key))).await?
        };
        let mut leases = vec![];
        for key in &selected {
            leases.push(self.layer(store, tree, key, cancellation).await?);
        }
        let skeleton = Assembly::skeleton(tree, selected);
        let planned = PlannedAssembly::new(skeleton, directory.path("lower"), cancellation).await?;
        let files = self.place(store, planned, cancellation, then).await?;
        self.enforce_cache_limit().await;
        let lower = std::iter::once(directory.relative("lower"))
            .chain(leases.iter().map(|lease| lease.relative_path().to_owned()))
            .collect();
        Ok(InputRoot {
            lower,
            _layers: leases,
            _files: files,
        })
    }

    /// The image root of a Directory, if it is assembled.
    pub fn assembled_image_root(&self, digest: Digest) -> Option<Arc<ImageRoot>> {
        let lease = self.layers.lease_image_root(&LayerKey::of_root(digest))?;
        Some(Arc::new(ImageRoot::new(digest, lease)))
    }

    /// Leases the image root of a tree. Assembles it if it is not assembled yet.
    pub async fn image_root(
        &self,
        store: &dyn BlobStore,
        tree: &Arc<DirectoryTree>,
        cancellation: &CancellationToken,
    ) -> Result<Arc<ImageRoot>, Error> {
        let key = LayerKey::root(tree);
        // Kept until the second lease, which marks the layer as an image root.
        let assembled = self.layer(store, tree, &key, cancellation).await?;
        let lease = self.layers.lease_image_root(&key).unwrap_or(assembled);
        Ok(Arc::new(ImageRoot::new(tree.root, lease)))
    }

    /// Bytes by which the file cache may grow.
    pub fn cache_growth(&self) -> u64 {
        self.files.free_bytes()
    }

    /// True if the file cache or the layers hold more than their limit because they are in use.
    pub fn is_over_limit(&self) -> bool {
        self.files.is_over_limit() || self.layers.is_over_limit()
    }

    /// Evicts layers while they have too many entries, while their files keep the file cache over its limit, and while
    /// space is low; those of image roots last.
    pub async fn enforce_cache_limit(&self) {
        while (self.is_over_limit() || self.directories.is_low_on_space().await)
            && self.layers.evict_one().await
        {
            let files = Arc::clone(&self.files);
            run_blocking(move || files.evict()).await;
        }
    }

    /// Frees space after an Action found the disk full: removes all idle layers, and half of the cached files if there is
    /// no idle layer or if space is low even then. So repeated calls remove everything that is not in use.
    pub async fn free_space(&self) {
        let mut layers = 0_u32;
        while self.layers.evict_one().await {
            layers += 1;
        }
        let evicts_files = layers == 0 || self.directories.is_low_on_space().await;
        tracing::warn!(
            layers,
            evicts_files,
            "the disk was full; idle parts of the cache are removed"
        );
        if evicts_files {
            let files = Arc::clone(&self.files);
            run_blocking(move || files.evict_half()).await;
        }
    }

    /// Leases a layer. Assembles it if it is not assembled yet.
    async fn layer(
        &self,
        store: &dyn BlobStore,
        tree: &Arc<DirectoryTree>,
        key: &LayerKey,
        cancellation: &CancellationToken,
    ) -> Result<LayerLease, Error> {
        match unless_cancelled(cancellation, async { Ok(self.layers.claim(key).await) }).await? {
            LayerClaim::Ready(lease) => Ok(lease),
            LayerClaim::Assemble(claim) => {
                let assembly = Assembly::layer(Arc::clone(tree), key.clone());
                let path = self.directories.cache().join(claim.relative_path());
                let planned = PlannedAssembly::new(assembly, path.clone(), cancellation).await?;
                let entries = planned.entries;
                match self.place(store, planned, cancellation, || Ok(())).await {
                    Ok(files) => Ok(claim.finish(files, entries)),
                    Err(error) => {
                        // Nothing refers to the unfinished directory, and it can have many entries.
                        if let Err(error) = run_blocking(move || worker_directories::remove(&path)).await {
                            tracing::warn!(%error, "cannot remove an unfinished layer");
                        }
                        Err(error)
                    }
                }
            }
        }
    }

    /// Fetches the files of a planned assembly and assembles them.
    async fn place(
        &self,
        store: &dyn BlobStore,
        planned: PlannedAssembly,
        cancellation: &CancellationToken,
        then: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<FileLease, Error> {
        let PlannedAssembly {
            assembly, keys, path, ..
        } = planned;
        let (assembly, mut then) = (Arc::new(assembly), Some(then));
        let mut attempt = 0;
        loop {
            attempt += 1;
            let fetch = self.files.fetch(store, keys.iter().copied());
            let lease = unless_cancelled(cancellation, fetch).await?;
            let (directories, cancellation) = (Arc::clone(&self.directories), cancellation.clone());
            let (assembly, path, files) = (Arc::clone(&assembly), path.clone(), Arc::clone(&self.files));
            let last = then.take();
            let placed = run_blocking(move || match assembly.run(&directories, &path, &cancellation) {
                Err(Error::LostFile(key)) if attempt < MAX_ASSEMBLIES => {
                    files.forget_lost(&key);
                    worker_directories::remove(&path)?;
                    Ok(last)
                }
                other => {
                    other?;
                    last.map_or(Ok(()), |then| then())?;
                    Ok::<_, Error>(None)
                }
            });
            then = placed.await?;
            if then.is_none() {
                return Ok(lease);
            }
        }
    }
}

/// An assembly with its files and its target directory.
struct PlannedAssembly {
    assembly: Assembly,
    keys: Vec<FileKey>,
    /// Number of directories and symlinks.
    entries: u64,
    path: PathBuf,
}

impl PlannedAssembly {
    /// Lists the files, which takes a while for large trees.
    async fn new(assembly: Assembly, path: PathBuf, cancellation: &CancellationToken) -> Result<Self, Error> {
        let cancellation = cancellation.clone();
        run_blocking(move || {
            let (keys, entries) = assembly.contents(&cancellation)?;
            Ok(Self {
                assembly,
                keys,
                entries,
                path,
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests;
