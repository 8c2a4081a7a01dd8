//! Inputs of the metadata tree.

use std::path::{Path, PathBuf};

use bitzel_proto::DigestFunction;

use super::configuration;
use super::error::FrontEndError;
use super::exported_graph::Bytecode;
use super::layers::{self, BuildDescription, LayerGroup};
use super::local_tree::{LocalTree, LocalTreeBuilder};
use super::snapshot_directory::SnapshotDirectory;
use super::stat_cache::StatCache;

/// Files and directories of this client that the metadata tree is built from.
pub(crate) struct MetadataInputs {
    pub(crate) build_directory: PathBuf,
    /// The user's `conf/`.
    pub(crate) user_configuration: PathBuf,
    /// The directory that the sandbox gets in its place.
    pub(crate) sandbox_configuration: PathBuf,
    /// File of the stat cache.
    pub(crate) stat_cache: PathBuf,
    /// See [`super::bitbake::modules`].
    pub(crate) modules: Vec<(PathBuf, String)>,
    pub(crate) runner: PathBuf,
    pub(crate) digest_function: DigestFunction,
    pub(crate) source_date_epoch: u64,
    pub(crate) description: BuildDescription,
    pub(crate) groups: Vec<LayerGroup>,
    /// Path of each layer in the sandbox, in the order of BBLAYERS.
    pub(crate) layer_paths: Vec<String>,
}

impl MetadataInputs {
    /// Writes the generated configuration and hashes everything that changed since the last time.
    pub(crate) fn tree(
        &self,
        bytecode: &Bytecode,
        snapshots: &SnapshotDirectory,
    ) -> Result<LocalTree, FrontEndError> {
        let layers = &self.description.layers;
        let sandbox_paths: Vec<(PathBuf, String)> = layers
            .iter()
            .map(|layer| layer.path.clone())
            .zip(self.layer_paths.iter().cloned())
            .collect();
        configuration::write(
            &self.user_configuration,
            &self.sandbox_configuration,
            &sandbox_paths,
            self.source_date_epoch,
        )?;
        let mut stat_cache = StatCache::load(&self.stat_cache);
        let mut builder = LocalTreeBuilder::new(self.digest_function, &mut stat_cache);
        let is_excluded = |directory: &Path| {
            directory == self.build_directory
                || directory == self.description.downloads
                || layers::is_foreign(directory)
        };
        for group in &self.groups {
            for (directory, sandbox_path) in group.directories() {
                builder.add_directory(directory, &sandbox_path, &is_excluded)?;
            }
        }
        for source in &self.description.external_sources {
            builder.add_directory(&source.path, &source.sandbox_path, &|_| false)?;
        }
        let is_test = |directory: &Path| directory.ends_with("bb/tests");
        for (path, name) in &self.modules {
            let sandbox_path = format!("bitbake/lib/{name}");
            if path.is_dir() {
                builder.add_directory(path, &sandbox_path, &is_test)?;
            } else {
                builder.add_file(path, &sandbox_path)?;
            }
        }
        builder.add_directory(&self.sandbox_configuration, "build/conf", &|_| false)?;
        builder.add_directory(&self.runner, "bitzel", &|_| false)?;
        for (sandbox_path, sha256) in bytecode {
            builder.add_file(&snapshots.path(sha256), sandbox_path)?;
        }
        let tree = builder.finish();
        stat_cache
            .save(&self.stat_cache)
            .map_err(FrontEndError::io(&self.stat_cache))?;
        Ok(tree)
    }
}
