//! Assembles input roots out of the file cache.
//!
//! An input root is a stack of directories that overlayfs merges: big subtrees that recur are *layers*, assembled
//! once for a path and a Directory digest and shared by all Actions that have that subtree at that path; the rest is
//! a small *skeleton* of the Action's own, on top. See `docs/decisions/0004-input-roots-and-sandbox.md`.
//!
//! A small input root is copied instead, to where the command writes. See
//! `docs/decisions/0028-small-input-roots-are-copied.md`.

use std::path::PathBuf;
use std::sync::Arc;

use bitzel_cas::BlobStore;
use bitzel_cas::blocking::run_blocking;
use bitzel_proto::Digest;
use tokio_util::sync::CancellationToken;

use crate::cancellation::unless_cancelled;
use crate::error::Error;
use crate::file_cache::{FileCache, FileKey, FileLease};
use crate::scratch::{ActionDirectory, Scratch};
use bitzel_cas::DirectoryTree;

mod assembly;
mod layer_cache;
mod layer_selection;
mod small_tree;

use assembly::Assembly;
pub(crate) use assembly::{DEFAULT_DIRECTORY_MODE, restore};
use layer_cache::{LayerCache, LayerClaim, LayerLease};
use layer_selection::{LayerKey, select_layers};
use small_tree::is_small;

/// Makes input roots.
#[derive(Debug)]
pub struct InputRoots {
    scratch: Arc<Scratch>,
    files: Arc<FileCache>,
    layers: Arc<LayerCache>,
}

/// An assembled input root. What it consists of stays in place while this lives.
#[derive(Debug)]
pub struct InputRoot {
    /// Directories to stack, uppermost first, relative to the worker's directory. None if the input root was copied to
    /// where the command writes.
    pub lower: Vec<String>,
    _layers: Vec<LayerLease>,
    _files: FileLease,
}

impl InputRoots {
    /// Input roots on top of a file cache.
    pub fn new(scratch: Arc<Scratch>, files: Arc<FileCache>) -> Self {
        Self {
            layers: LayerCache::new(Arc::clone(&scratch)),
            scratch,
            files,
        }
    }

    /// Assembles `tree`, the Action's own part of it in `directory`, in the entry `lower` or, if `may_copy` and it is
    /// small, in `upper`. `then` runs when all is in place, where it may block.
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
            let keys = copy.file_keys()?;
            let planned = PlannedAssembly {
                keys,
                assembly: copy,
                path: directory.path("upper"),
            };
            let files = self.place(store, planned, cancellation, then).await?;
            self.keep_limit().await;
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
        let planned = PlannedAssembly::find(skeleton, directory.path("lower")).await?;
        let files = self.place(store, planned, cancellation, then).await?;
        self.keep_limit().await;
        let lower = std::iter::once(directory.relative("lower"))
            .chain(leases.iter().map(LayerLease::relative))
            .collect();
        Ok(InputRoot {
            lower,
            _layers: leases,
            _files: files,
        })
    }

    /// Evicts layers as long as the file cache is over its limit because of the files in them.
    async fn keep_limit(&self) {
        while self.files.is_over_limit() && self.layers.evict_one().await {
            let files = Arc::clone(&self.files);
            run_blocking(move || files.evict()).await;
        }
    }

    /// Leases a layer, and assembles it if nobody has.
    async fn layer(
        &self,
        store: &dyn BlobStore,
        tree: &Arc<DirectoryTree>,
        key: &LayerKey,
        cancellation: &CancellationToken,
    ) -> Result<LayerLease, Error> {
        match unless_cancelled(cancellation, async { Ok(self.layers.claim(key).await) }).await? {
            LayerClaim::Ready(lease) => Ok(lease),
            LayerClaim::Build(claim) => {
                let assembly = Assembly::layer(Arc::clone(tree), key.clone());
                let planned =
                    PlannedAssembly::find(assembly, self.scratch.root().join(claim.relative())).await?;
                let files = self.place(store, planned, cancellation, || Ok(())).await?;
                Ok(claim.finish(files))
            }
        }
    }

    /// Assembles in a directory, after fetching what it takes.
    async fn place(
        &self,
        store: &dyn BlobStore,
        planned: PlannedAssembly,
        cancellation: &CancellationToken,
        then: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<FileLease, Error> {
        let PlannedAssembly { assembly, keys, path } = planned;
        let lease = unless_cancelled(cancellation, self.files.fetch(store, keys)).await?;
        let scratch = Arc::clone(&self.scratch);
        run_blocking(move || {
            assembly.run(&scratch, &path)?;
            then()
        })
        .await?;
        Ok(lease)
    }
}

/// What is to be assembled, of which files, and in which directory.
struct PlannedAssembly {
    assembly: Assembly,
    keys: Vec<FileKey>,
    path: PathBuf,
}

impl PlannedAssembly {
    /// Looks up the files, which takes a while where there are many.
    async fn find(assembly: Assembly, path: PathBuf) -> Result<Self, Error> {
        run_blocking(move || {
            let keys = assembly.file_keys()?;
            Ok(Self { assembly, keys, path })
        })
        .await
    }
}

/// The Directory of `digest`. It is there: a tree is only made whole.
fn directory_of(tree: &DirectoryTree, digest: Digest) -> Result<&Arc<bitzel_proto::reapi::Directory>, Error> {
    tree.directories
        .get(&digest)
        .ok_or_else(|| Error::MissingBlobs(vec![digest]))
}

#[cfg(test)]
mod tests;
