//! Export cache of one build directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bitzel_cas::DirectoryLock;
use bitzel_cas::blocking::run_blocking;
use bitzel_proto::DigestFunction;

use super::atomic_file;
use super::error::FrontEndError;
use super::layers::Layer;

mod unused_parts;

/// Directory of `BitBake`'s own caches.
const BITBAKE_CACHE: &str = "bitbake-cache";
/// Directory of the exporter's cached recipes.
const RECIPES: &str = "recipes";

/// Part of the export cache that belongs to one build directory in one root file system, locked against a second bitzel.
pub(crate) struct ExportCache {
    cache: PathBuf,
    directory: PathBuf,
    /// Held until this is dropped.
    _lock: DirectoryLock,
}

impl ExportCache {
    /// Opens the part below `cache`, and creates it if it does not exist. Waits while another bitzel uses it.
    pub(crate) async fn open(
        cache: &Path,
        build_directory: &Path,
        root_identity: &str,
    ) -> Result<Self, FrontEndError> {
        let cache = cache.to_owned();
        let mut hasher = DigestFunction::Sha256.hasher();
        hasher.update(build_directory.as_os_str().as_encoded_bytes());
        // No path has it.
        hasher.update(b"\0");
        hasher.update(root_identity.as_bytes());
        let name = hasher.finish().hash_hex();
        run_blocking(move || {
            let builds = cache.join("builds");
            let directory = builds.join(&name[..16]);
            let lock = loop {
                for path in [
                    directory.join(BITBAKE_CACHE),
                    directory.join(RECIPES),
                    directory.join("bytecode"),
                    cache.join("snapshots"),
                ] {
                    fs::create_dir_all(&path).map_err(FrontEndError::io(path))?;
                }
                let lock = DirectoryLock::wait(&directory).map_err(FrontEndError::io(&directory))?;
                // Another bitzel may have removed it as unused before this one had the lock.
                if directory.join(BITBAKE_CACHE).is_dir() {
                    break lock;
                }
            };
            unused_parts::remove(&builds, SystemTime::now());
            Ok(Self {
                cache,
                directory,
                _lock: lock,
            })
        })
        .await
    }

    /// The part of this build directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// `BitBake`'s own caches.
    pub(crate) fn bitbake_cache(&self) -> PathBuf {
        self.directory.join(BITBAKE_CACHE)
    }

    /// Empties the caches that metadata can write to, if other layers than these wrote them: what a layer has left there
    /// must not live on without it.
    pub(crate) fn keep_for_layers(&self, layers: &[Layer]) -> Result<(), FrontEndError> {
        let mut paths: Vec<_> = layers
            .iter()
            .map(|layer| layer.path.display().to_string())
            .collect();
        paths.sort();
        let paths = serde_json::json!(paths).to_string();
        let list = self.directory.join("layers.json");
        if fs::read_to_string(&list).is_ok_and(|known| known == paths) {
            return Ok(());
        }
        for path in [self.bitbake_cache(), self.recipes()] {
            fs::remove_dir_all(&path)
                .and_then(|()| fs::create_dir(&path))
                .map_err(FrontEndError::io(path))?;
        }
        atomic_file::replace(&list, paths.as_bytes()).map_err(FrontEndError::io(list))
    }

    /// Data store snapshots, shared by all build directories.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.cache.join("snapshots")
    }

    /// The exporter's cached recipes.
    pub(crate) fn recipes(&self) -> PathBuf {
        self.directory.join(RECIPES)
    }

    /// Compiled Python, by the digest of its source.
    pub(crate) fn bytecode(&self) -> PathBuf {
        self.directory.join("bytecode")
    }

    /// The generated `conf/`.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.directory.join("conf")
    }

    /// File of the stat cache.
    pub(crate) fn stat_cache(&self) -> PathBuf {
        self.directory.join("stat-cache.json")
    }

    /// File of the cached build description.
    pub(crate) fn description(&self) -> PathBuf {
        self.directory.join("description.json")
    }
}

#[cfg(test)]
mod tests;
