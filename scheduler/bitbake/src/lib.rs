//! Front end for `BitBake`: parses the metadata, chooses providers, computes signatures, and exports the task graph.
//!
//! `BitBake`'s `bb` library is GPL-2.0-only, so it stays behind a process boundary: Python in a sandbox writes the
//! graph as JSON, and everything from there on is Rust. In that sandbox the metadata has the same paths as in the
//! sandbox of every task, below `/work`, and nothing of the client's own paths, names and environment is visible, so
//! two machines with the same metadata get the same graph.
//!
//! The graph is cached under a digest of all of its inputs, the identity of the root file system among them: if nothing
//! changed, no Python runs.

mod atomic_file;
mod bitbake;
mod build_events;
mod cache_eviction;
mod client_files;
mod configuration;
mod environment;
mod error;
mod export_cache;
mod export_request;
mod exported_graph;
mod exporter;
mod front_end_config;
mod graph_cache;
mod layers;
mod local_tree;
mod metadata_inputs;
mod original_program;
mod python_files;
mod relative_path;
mod sandbox_program;
mod shared_state;
mod snapshot_directory;
mod stat_cache;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bitzel_cas::blocking::run_blocking;
use bitzel_graph::walk::{BuildInputs, SharedState};
use bitzel_proto::graph::TaskGraph;

pub use self::build_events::{BuildEnd, BuildEvents, BuildEventsProgram};
pub use self::error::FrontEndError;
pub use self::export_request::ExportRequest;
pub use self::front_end_config::{
    DEFAULT_SOURCE_DATE_EPOCH, FrontEndConfig, FrontEndEvent, FrontEndObserver, FrontEndRoot,
};
pub use self::local_tree::LocalTree;
pub use self::original_program::run_original_program;
pub use self::snapshot_directory::SnapshotDirectory;

use self::client_files::ClientFiles;
use self::export_cache::ExportCache;
use self::exported_graph::Bytecode;
use self::exporter::Exporter;
use self::graph_cache::GraphCache;
use self::metadata_inputs::MetadataInputs;
use self::python_files::PythonFiles;
use self::relative_path::stays_below;
use self::shared_state::SharedStateProgram;

/// Result of an export.
#[derive(Debug, Clone)]
pub struct Export {
    /// The task graph.
    pub graph: TaskGraph,
    /// The tree that every task's sandbox holds: `layers/`, `bitbake/`, `build/conf/` and `bitzel/` (the runner).
    pub metadata: LocalTree,
    /// The data store snapshots that the graph names.
    pub snapshots: SnapshotDirectory,
    /// The user's own `DL_DIR`, which holds the sources that are marked as present.
    pub downloads: PathBuf,
    /// True if the graph came from the cache and `BitBake` did not run.
    pub cached: bool,
    /// True if tasks run in the root file system in which the metadata was parsed, so that shared state archives of native
    /// recipes that this root's name leads to can be used.
    pub is_root_of_tasks: bool,
    /// Program that fires events of `BitBake`'s server, if a handler of the metadata waits for the end of a build.
    pub build_events: Option<BuildEventsProgram>,
    /// Program that searches the shared state caches of the configuration, if it has any.
    shared_state: Option<SharedStateProgram>,
}

impl Export {
    /// Inputs that the walk of the graph needs beside the graph, read from this client's disk.
    pub fn build_inputs(&self) -> Result<BuildInputs, FrontEndError> {
        Ok(BuildInputs {
            metadata: self.metadata.root,
            directories: self.metadata.decode_directories()?,
            files: Arc::new(ClientFiles::new(
                self.metadata.clone(),
                self.snapshots.directory().to_owned(),
                self.downloads.clone(),
            )),
            shared_state: self.shared_state.clone().map(|program| {
                let caches: Arc<dyn SharedState> = Arc::new(program.into_caches(self.is_root_of_tasks));
                caches
            }),
        })
    }
}

/// Exports the task graph for `request`.
pub async fn export(config: &FrontEndConfig, request: &ExportRequest) -> Result<Export, FrontEndError> {
    let build_directory = config.canonical_build_directory()?;
    let directory = config.cache_directory.clone();
    let cache = ExportCache::open(&directory, &build_directory, &config.root.identity).await?;
    let python = run_blocking(move || PythonFiles::install(&directory)).await?;
    let library = bitbake::find(config).await?;
    let modules = bitbake::modules(&library)?;
    let exporter = Exporter {
        config,
        cache: &cache,
        python: &python,
        library: &library,
        modules: &modules,
    };
    let description = exporter.describe(&build_directory).await?;
    cache.keep_for_layers(&description.layers)?;
    let (groups, layer_paths) = layers::group_layers(&description.layers)?;

    let inputs = Arc::new(MetadataInputs {
        user_configuration: build_directory.join("conf"),
        build_directory,
        sandbox_configuration: cache.configuration(),
        stat_cache: cache.stat_cache(),
        modules: modules.clone(),
        runner: python.path("runner"),
        digest_function: config.digest_function,
        source_date_epoch: config.source_date_epoch,
        description,
        groups,
        layer_paths,
    });
    let snapshots = SnapshotDirectory::new(cache.snapshots());
    let tree_of = |bytecode: Bytecode| {
        let (inputs, snapshots) = (Arc::clone(&inputs), snapshots.clone());
        run_blocking(move || inputs.tree(&bytecode, &snapshots))
    };

    let graphs = GraphCache::new(&config.cache_directory);
    let sources = tree_of(Bytecode::new()).await?;
    let key = graph_cache::key(config, request, &sources, &python.digest);
    let stored = (!request.is_unrepeatable())
        .then(|| graphs.load(&key, &snapshots))
        .flatten();
    let cached = stored.is_some();
    let (mut graph, bytecode) = if let Some(stored) = stored {
        (config.observer)(FrontEndEvent::Phase("cached"));
        stored
    } else {
        let exported = exporter
            .export(request, &inputs.groups, &inputs.description.external_sources)
            .await?;
        if exported.cacheable && !request.is_unrepeatable() {
            graphs.store(&key, &exported.graph, &exported.bytecode)?;
        }
        let grown = [cache.snapshots(), cache.recipes(), cache.bytecode()];
        run_blocking(move || {
            grown.iter().try_for_each(|directory| {
                cache_eviction::evict(directory, cache_eviction::EXPORT_LIMITS, SystemTime::now())
            })
        })
        .await?;
        (exported.graph, exported.bytecode)
    };
    let metadata = tree_of(bytecode).await?;
    let downloads = inputs.description.downloads.clone();
    mark_present_sources(&mut graph, &downloads);
    // Version of the sources alone: compiled Python differs between clients with different Pythons, which share results.
    let runner = sources
        .subdirectory("bitzel")
        .ok_or_else(|| FrontEndError::Malformed {
            reason: "the metadata tree has no runner".to_owned(),
        })?;
    let settings = graph.settings.get_or_insert_default();
    settings.runner_version = runner;
    let shared_state = exporter.shared_state(
        &inputs.description.shared_state,
        &inputs.build_directory,
        settings,
        &inputs.groups,
        &inputs.description.external_sources,
    )?;
    let build_events = exporter.build_events(
        &inputs.build_directory,
        &request.targets,
        settings,
        &inputs.groups,
        &inputs.description.external_sources,
    )?;
    Ok(Export {
        graph,
        metadata,
        snapshots,
        downloads,
        cached,
        is_root_of_tasks: true,
        build_events,
        shared_state,
    })
}

/// Marks the sources that exist in the user's `DL_DIR`. They come and go without any change of the metadata, so this is
/// done for every export.
fn mark_present_sources(graph: &mut TaskGraph, downloads: &Path) {
    for source in graph.recipes.iter_mut().flat_map(|recipe| &mut recipe.sources) {
        let name = &source.download_name;
        // The name comes from the metadata: it must not lead out of DL_DIR.
        source.present = stays_below(name) && fs::exists(downloads.join(name)).unwrap_or(false);
    }
}

#[cfg(test)]
mod tests;
