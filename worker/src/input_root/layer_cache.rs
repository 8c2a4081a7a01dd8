//! Layers that are assembled, being assembled, and in use.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::layer_selection::LayerKey;
use bitzel_cas::blocking::run_blocking;

use crate::file_cache::FileLease;
use crate::scratch::{self, Scratch};

/// All layers of this worker.
#[derive(Debug)]
pub(super) struct LayerCache {
    scratch: Arc<Scratch>,
    state: Mutex<State>,
    built: Notify,
}

#[derive(Debug, Default)]
struct State {
    layers: HashMap<LayerKey, Layer>,
    /// Counts uses; stands for time.
    clock: u64,
}

#[derive(Debug)]
struct Layer {
    relative: String,
    leases: u32,
    last_used: u64,
    /// `None` while somebody is building it.
    files: Option<FileLease>,
}

/// A layer in use: it is not evicted.
#[derive(Debug)]
pub(super) struct LayerLease {
    cache: Arc<LayerCache>,
    key: LayerKey,
    relative: String,
}

/// The right, and the duty, to build a layer. Dropped unfinished, the next one who wants the layer builds it.
#[derive(Debug)]
pub(super) struct BuildClaim {
    cache: Arc<LayerCache>,
    key: LayerKey,
    relative: String,
    finished: bool,
}

/// What somebody who wants a layer gets.
pub(super) enum LayerClaim {
    /// The layer.
    Ready(LayerLease),
    /// The task to build it.
    Build(BuildClaim),
}

impl LayerCache {
    pub(super) fn new(scratch: Arc<Scratch>) -> Arc<Self> {
        Arc::new(Self {
            scratch,
            state: Mutex::default(),
            built: Notify::new(),
        })
    }

    /// Whether a layer is there or will be soon.
    pub(super) fn contains(&self, key: &LayerKey) -> bool {
        self.state.lock().layers.contains_key(key)
    }

    /// Leases a layer; waits while somebody else builds it.
    pub(super) async fn claim(self: &Arc<Self>, key: &LayerKey) -> LayerClaim {
        loop {
            let built = self.built.notified();
            tokio::pin!(built);
            built.as_mut().enable();
            if let Some(claim) = self.try_claim(key) {
                return claim;
            }
            built.await;
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
                    relative: layer.relative.clone(),
                }))
            }
            MapEntry::Vacant(entry) => {
                let relative = self.scratch.fresh("layers");
                entry.insert(Layer {
                    relative: relative.clone(),
                    leases: 0,
                    last_used,
                    files: None,
                });
                Some(LayerClaim::Build(BuildClaim {
                    cache: Arc::clone(self),
                    key: key.clone(),
                    relative,
                    finished: false,
                }))
            }
        }
    }

    /// Removes the layer that was not used for longest, so that the file cache may evict its files. `false` when all
    /// are in use.
    pub(super) async fn evict_one(&self) -> bool {
        let Some(layer) = self.take_victim() else {
            return false;
        };
        let path = self.scratch.root().join(&layer.relative);
        let removed = run_blocking(move || {
            let removed = scratch::remove(&path);
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
            .min_by_key(|(_, layer)| layer.last_used)
            .map(|(key, _)| key.clone())?;
        state.layers.remove(&key)
    }
}

impl LayerLease {
    /// The layer's directory, relative to the worker's directory.
    pub(super) fn relative(&self) -> String {
        self.relative.clone()
    }
}

impl Drop for LayerLease {
    fn drop(&mut self) {
        if let Some(layer) = self.cache.state.lock().layers.get_mut(&self.key) {
            layer.leases = layer.leases.saturating_sub(1);
        }
    }
}

impl BuildClaim {
    /// Where to build, relative to the worker's directory.
    pub(super) fn relative(&self) -> &str {
        &self.relative
    }

    /// The layer is there. It keeps `files` in the file cache: unlinking them there would free nothing.
    pub(super) fn finish(mut self, files: FileLease) -> LayerLease {
        self.finished = true;
        if let Some(layer) = self.cache.state.lock().layers.get_mut(&self.key) {
            layer.files = Some(files);
            layer.leases = 1;
        }
        self.cache.built.notify_waiters();
        LayerLease {
            cache: Arc::clone(&self.cache),
            key: self.key.clone(),
            relative: self.relative.clone(),
        }
    }
}

impl Drop for BuildClaim {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // A half-built directory stays until the worker's next start; nothing refers to it.
        self.cache.state.lock().layers.remove(&self.key);
        self.cache.built.notify_waiters();
    }
}
