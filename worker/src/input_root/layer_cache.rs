//! Cache of the assembled layers of input roots.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::layer_selection::LayerKey;
use bitzel_cas::blocking::run_blocking;

use crate::file_cache::FileLease;
use crate::worker_directories::{self, WorkerDirectories};

/// The layers of this worker: assembled, being assembled, and in use.
#[derive(Debug)]
pub(super) struct LayerCache {
    directories: Arc<WorkerDirectories>,
    /// Limit of the entries of all layers.
    max_entries: u64,
    state: Mutex<State>,
    claims_ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    layers: HashMap<LayerKey, Layer>,
    /// Counter of uses, in place of a time.
    clock: u64,
}

#[derive(Debug)]
struct Layer {
    relative_path: String,
    leases: u32,
    last_used: u64,
    /// True if it was leased as an image root. These are evicted last: every Action of a build needs one.
    is_image_root: bool,
    /// Cached files that the layer links to. `None` while the layer is being assembled.
    files: Option<FileLease>,
    /// Directories and symlinks of the layer. Each takes an inode, and a block or more.
    entries: u64,
}

/// A layer in use: it is not evicted.
#[derive(Debug)]
pub(crate) struct LayerLease {
    cache: Arc<LayerCache>,
    key: LayerKey,
    relative_path: String,
}

/// The exclusive right to assemble a layer. If it is dropped unfinished, the next Action with the layer assembles it.
#[derive(Debug)]
pub(super) struct AssemblyClaim {
    cache: Arc<LayerCache>,
    key: LayerKey,
    relative_path: String,
    is_finished: bool,
}

/// Result of a claim.
pub(super) enum LayerClaim {
    /// The layer is assembled.
    Ready(LayerLease),
    /// The caller has to assemble the layer.
    Assemble(AssemblyClaim),
}

impl LayerCache {
    pub(super) fn new(directories: Arc<WorkerDirectories>, max_entries: u64) -> Arc<Self> {
        Arc::new(Self {
            directories,
            max_entries,
            state: Mutex::default(),
            claims_ended: Notify::new(),
        })
    }

    /// True if the layers have more directories and symlinks than their limit.
    pub(super) fn is_over_limit(&self) -> bool {
        let state = self.state.lock();
        let entries = state.layers.values().map(|layer| layer.entries);
        entries.fold(0, u64::saturating_add) > self.max_entries
    }

    /// True if a layer is assembled or being assembled.
    pub(super) fn contains(&self, key: &LayerKey) -> bool {
        self.state.lock().layers.contains_key(key)
    }

    /// Leases a layer. Waits while another Action assembles it.
    pub(super) async fn claim(self: &Arc<Self>, key: &LayerKey) -> LayerClaim {
        loop {
            let ended = self.claims_ended.notified();
            tokio::pin!(ended);
            // Before the claim: an end between the claim and the wait must not be missed.
            ended.as_mut().enable();
            if let Some(claim) = self.try_claim(key) {
                return claim;
            }
            ended.await;
        }
    }

    fn try_claim(self: &Arc<Self>, key: &LayerKey) -> Option<LayerClaim> {
        let mut state = self.state.lock();
        state.clock += 1;
        let last_used = state.clock;
        match state.layers.entry(key.clone()) {
            MapEntry::Occupied(mut entry) => {
                let layer = entry.get_mut();
                layer.files.as_ref()?;
                layer.leases += 1;
                layer.last_used = last_used;
                Some(LayerClaim::Ready(LayerLease {
                    cache: Arc::clone(self),
                    key: key.clone(),
                    relative_path: layer.relative_path.clone(),
                }))
            }
            MapEntry::Vacant(entry) => {
                let relative_path = self.directories.fresh_path("layers");
                entry.insert(Layer {
                    relative_path: relative_path.clone(),
                    leases: 0,
                    last_used,
                    is_image_root: false,
                    files: None,
                    entries: 0,
                });
                Some(LayerClaim::Assemble(AssemblyClaim {
                    cache: Arc::clone(self),
                    key: key.clone(),
                    relative_path,
                    is_finished: false,
                }))
            }
        }
    }

    /// Leases a layer that is assembled, as an image root.
    pub(super) fn lease_image_root(self: &Arc<Self>, key: &LayerKey) -> Option<LayerLease> {
        let mut state = self.state.lock();
        state.clock += 1;
        let last_used = state.clock;
        let layer = state.layers.get_mut(key)?;
        layer.files.as_ref()?;
        layer.leases += 1;
        layer.last_used = last_used;
        layer.is_image_root = true;
        Some(LayerLease {
            cache: Arc::clone(self),
            key: key.clone(),
            relative_path: layer.relative_path.clone(),
        })
    }

    /// Removes the layer that was not used for longest, image roots last, so that the file cache can evict its files.
    /// False if all layers are in use.
    pub(super) async fn evict_one(&self) -> bool {
        let Some(layer) = self.take_victim() else {
            return false;
        };
        let path = self.directories.cache().join(&layer.relative_path);
        let removed = run_blocking(move || {
            let removed = worker_directories::remove(&path);
            drop(layer);
            removed
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "cannot remove a layer");
        }
        true
    }

    fn take_victim(&self) -> Option<Layer> {
        let mut state = self.state.lock();
        let idle = state
            .layers
            .iter()
            .filter(|(_, layer)| layer.leases == 0 && layer.files.is_some());
        let key = idle
            .min_by_key(|(_, layer)| (layer.is_image_root, layer.last_used))
            .map(|(key, _)| key.clone())?;
        state.layers.remove(&key)
    }
}

impl LayerLease {
    /// The layer's directory, relative to the cache directory.
    pub(crate) fn relative_path(&self) -> &str {
        &self.relative_path
    }
}

impl Drop for LayerLease {
    fn drop(&mut self) {
        if let Some(layer) = self.cache.state.lock().layers.get_mut(&self.key) {
            layer.leases = layer.leases.saturating_sub(1);
        }
    }
}

impl AssemblyClaim {
    /// The directory of the layer, relative to the cache directory.
    pub(super) fn relative_path(&self) -> &str {
        &self.relative_path
    }

    /// Marks the layer, of a number of directories and symlinks, as assembled. It keeps `files` in the file cache:
    /// unlinking them there would free nothing.
    pub(super) fn finish(mut self, files: FileLease, entries: u64) -> LayerLease {
        self.is_finished = true;
        if let Some(layer) = self.cache.state.lock().layers.get_mut(&self.key) {
            layer.files = Some(files);
            layer.entries = entries;
            layer.leases = 1;
        }
        self.cache.claims_ended.notify_waiters();
        LayerLease {
            cache: Arc::clone(&self.cache),
            key: self.key.clone(),
            relative_path: self.relative_path.clone(),
        }
    }
}

impl Drop for AssemblyClaim {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        // An unfinished directory stays until the next start of a worker. Nothing refers to it.
        self.cache.state.lock().layers.remove(&self.key);
        self.cache.claims_ended.notify_waiters();
    }
}
