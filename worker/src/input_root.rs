//! Assembles input roots out of the file cache.
//!
//! An input root is a stack of directories that overlayfs merges: big subtrees that recur are *layers*, assembled
//! once for a path and a Directory digest and shared by all Actions that have that subtree at that path; the rest is
//! a small *skeleton* of the Action's own, on top. See `docs/decisions/0004-input-roots-and-sandbox.md`.

use std::sync::Arc;

use bitzel_cas::BlobStore;
use bitzel_proto::Digest;
use tokio_util::sync::CancellationToken;

use crate::blocking::{self, unless_cancelled};
use crate::error::Error;
use crate::file_cache::{FileCache, FileKey, FileLease};
use crate::scratch::{ActionDirectory, Scratch};
use bitzel_cas::DirectoryTree;

mod assembly;
mod layer_cache;
mod layer_selection;

use assembly::Assembly;
pub(crate) use assembly::restore;
use layer_cache::{LayerCache, LayerClaim, LayerLease};
use layer_selection::{LayerKey, select_layers};

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
    /// Directories to stack, uppermost first, relative to the worker's directory.
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

    /// Assembles `tree`, the Action's own part of it in `directory`.
    pub async fn assemble(
        &self,
        store: &dyn BlobStore,
        tree: &Arc<DirectoryTree>,
        directory: &ActionDirectory,
        cancellation: &CancellationToken,
    ) -> Result<InputRoot, Error> {
        let selected = {
            let (tree, layers) = (Arc::clone(tree), Arc::clone(&self.layers));
            blocking::run(move || select_layers(&tree, |key| layers.contains(key))).await?
        };
        let mut leases = vec![];
        for key in &selected {
            leases.push(self.layer(store, tree, key, cancellation).await?);
        }
        let skeleton = Assembly::skeleton(Arc::clone(tree), selected);
        let relative = directory.relative("lower");
        let files = self.link(store, skeleton, relative.clone(), cancellation).await?;
        while self.files.is_over_limit() && self.layers.evict_one().await {
            let files = Arc::clone(&self.files);
            blocking::run(move || {
                files.evict();
                Ok(())
            })
            .await?;
        }
        let lower = std::iter::once(relative)
            .chain(leases.iter().map(LayerLease::relative))
            .collect();
        Ok(InputRoot {
            lower,
            _layers: leases,
            _files: files,
        })
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
                let files = self
                    .link(store, assembly, claim.relative().to_owned(), cancellation)
                    .await?;
                Ok(claim.finish(files))
            }
        }
    }

    async fn link(
        &self,
        store: &dyn BlobStore,
        assembly: Assembly,
        relative: String,
        cancellation: &CancellationToken,
    ) -> Result<FileLease, Error> {
        let (assembly, keys) = blocking::run(move || {
            let keys: Vec<FileKey> = assembly.file_keys()?;
            Ok((assembly, keys))
        })
        .await?;
        let lease = unless_cancelled(cancellation, self.files.fetch(store, keys)).await?;
        let scratch = Arc::clone(&self.scratch);
        blocking::run(move || assembly.run(&scratch, &relative)).await?;
        Ok(lease)
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
