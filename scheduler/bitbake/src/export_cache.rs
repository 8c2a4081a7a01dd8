//! Export cache of one build directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bitzel_cas::DirectoryLock;
use bitzel_cas::blocking::run_blocking;
use bitzel_proto::DigestFunction;

use super::error::FrontEndError;

mod unused_parts;

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
                    directory.join("bitbake-cache"),
                    cache.join("snapshots"),
                    cache.join("recipes"),
                ] {
                    fs::create_dir_all(&path).map_err(FrontEndError::io(path))?;
                }
                let lock = DirectoryLock::wait(&directory).map_err(FrontEndError::io(&directory))?;
                // Another bitzel may have removed it as unused before this one had the lock.
                if directory.join("bitbake-cache").is_dir() {
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
        self.directory.join("bitbake-cache")
    }

    /// Data store snapshots, shared by all build directories.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.cache.join("snapshots")
    }

    /// The exporter's cached recipes, shared by all build directories.
    pub(crate) fn recipes(&self) -> PathBuf {
        self.cache.join("recipes")
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
