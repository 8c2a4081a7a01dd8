//! The user's layers and their paths in the sandbox.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::FrontEndError;

/// Description of a build directory by its own configuration, read by `host/describe_build.py`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BuildDescription {
    pub(crate) bitbake_version: String,
    pub(crate) topdir: PathBuf,
    pub(crate) layers: Vec<Layer>,
    /// The user's `DL_DIR`.
    pub(crate) downloads: PathBuf,
    /// Directories outside of the build directory that the configuration makes `BitBake` write to, as far as the build
    /// directory's own files name them.
    pub(crate) written: Vec<PathBuf>,
    /// Source trees outside of the layers that recipes build from.
    pub(crate) external_sources: Vec<ExternalSource>,
    /// Shared state caches.
    pub(crate) shared_state: SharedStateDescription,
}

/// Shared state caches of the user's configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct SharedStateDescription {
    /// `SSTATE_DIR`.
    pub(crate) directory: PathBuf,
    /// `SSTATE_MIRRORS`.
    pub(crate) mirrors: String,
    /// Directory of the user's keys for signatures of archives.
    pub(crate) keys: PathBuf,
}

/// Source tree of OE's `externalsrc` class.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExternalSource {
    /// Path on the client.
    pub(crate) path: PathBuf,
    /// Path relative to `/work`.
    pub(crate) sandbox_path: String,
}

/// One entry of BBLAYERS.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub(crate) path: PathBuf,
    /// The names that its `conf/layer.conf` adds to `BBFILE_COLLECTIONS`.
    pub(crate) collections: Vec<String>,
}

/// Layers of one checkout. They keep their paths relative to each other, because metadata uses relative paths
/// (`COREBASE` is `meta/..`).
///
/// A group is named after a layer in it, not after directories of the client, so that the same metadata has the same
/// path in every sandbox wherever it was checked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerGroup {
    pub(crate) name: String,
    pub(crate) root: PathBuf,
    /// True if the whole checkout belongs to the metadata (it is `COREBASE`), false if only the layers in it do.
    pub(crate) whole: bool,
    /// The layers' real directories.
    pub(crate) layers: Vec<PathBuf>,
}

impl LayerGroup {
    /// Path of a file of this group in the sandbox, relative to `/work`.
    pub(crate) fn sandbox_path(&self, path: &Path) -> String {
        let relative = path.strip_prefix(&self.root).unwrap_or(Path::new(""));
        format!("layers/{}/{}", self.name, relative.display())
            .trim_end_matches('/')
            .to_owned()
    }

    /// Directories that the sandbox gets: paths on the client, and in the sandbox relative to `/work`.
    pub(crate) fn directories(&self) -> Vec<(&Path, String)> {
        if self.whole {
            return vec![(&self.root, self.sandbox_path(&self.root))];
        }
        self.layers
            .iter()
            .map(|layer| (layer.as_path(), self.sandbox_path(layer)))
            .collect()
    }
}

/// Groups the layers, in the order of BBLAYERS, and returns the path of each layer in the sandbox.
pub(crate) fn group_layers(layers: &[Layer]) -> Result<(Vec<LayerGroup>, Vec<String>), FrontEndError> {
    let mut groups: Vec<LayerGroup> = Vec::new();
    let mut sandbox_paths = Vec::new();
    for layer in layers {
        let path = layer
            .path
            .canonicalize()
            .map_err(FrontEndError::io(&layer.path))?;
        let (root, whole) = enclosing_checkout(&path);
        let known = groups.iter().position(|group| group.root == root);
        let index = if let Some(index) = known {
            index
        } else {
            let name = group_name(layer, &path);
            if let Some(other) = groups.iter().find(|group| group.name == name) {
                return Err(FrontEndError::LayerNameClash {
                    name,
                    first: other.root.clone(),
                    second: root,
                });
            }
            groups.push(LayerGroup {
                name,
                root,
                whole,
                layers: Vec::new(),
            });
            groups.len() - 1
        };
        sandbox_paths.push(groups[index].sandbox_path(&path));
        groups[index].layers.push(path);
    }
    Ok((groups, sandbox_paths))
}

fn group_name(layer: &Layer, path: &Path) -> String {
    let directory_name = || path.file_name().map(|name| name.to_string_lossy().into_owned());
    layer
        .collections
        .first()
        .cloned()
        .or_else(directory_name)
        .map(|name| name.replace(['/', ' ', '\0'], "_"))
        // Layers choose their names, which are directories in the sandbox.
        .filter(|name| !matches!(name.as_str(), "" | "." | ".."))
        .unwrap_or_else(|| "layer".to_owned())
}

/// Finds the nearest directory at or above `path` that is a checkout. True if all of it is metadata.
fn enclosing_checkout(path: &Path) -> (PathBuf, bool) {
    for ancestor in path.ancestors() {
        if ancestor.join("oe-init-build-env").exists() {
            return (ancestor.to_owned(), true);
        }
        if ancestor.join(".git").exists() {
            return (ancestor.to_owned(), false);
        }
    }
    (path.to_owned(), false)
}

/// True if a directory inside a whole checkout does not belong to it: a build directory, or another checkout.
pub(crate) fn is_foreign(directory: &Path) -> bool {
    fs::exists(directory.join("conf/bblayers.conf")).unwrap_or(false)
        || fs::exists(directory.join(".git")).unwrap_or(false)
}

#[cfg(test)]
mod tests;
