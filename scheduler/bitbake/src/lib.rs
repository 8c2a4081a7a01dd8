//! Runs `BitBake` as the front end: parse, choose providers, sign, and hand the task graph over.
//!
//! `BitBake`'s `bb` library is GPL-2.0-only, so it stays behind a process boundary: Python in a sandbox writes the
//! graph as JSON, and everything from there on is Rust. In that sandbox the metadata is where it is in the sandbox
//! of every task, below `/work`, and nothing of the client's own paths, names and environment is visible, so two
//! machines with the same metadata get the same graph.
//!
//! The graph is cached under a digest of everything that it follows from: if nothing changed, no Python runs.

mod bitbake;
mod client_files;
mod configuration;
mod environment;
mod error;
mod exporter;
mod graph_cache;
mod layers;
mod local_tree;
mod pruning;
mod python_files;
mod stat_cache;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bitzel_cas::blocking::run_blocking;
use bitzel_graph::walk::BuildInputs;
use bitzel_proto::DigestFunction;
use bitzel_proto::graph::TaskGraph;
use serde::Serialize;

use self::client_files::ClientFiles;
pub use self::error::FrontEndError;
use self::exporter::{Bytecode, Exporter, Session};
use self::graph_cache::GraphCache;
use self::layers::{BuildDescription, LayerGroup};
pub use self::local_tree::LocalTree;
use self::local_tree::LocalTreeBuilder;
use self::python_files::PythonFiles;
use self::stat_cache::StatCache;

/// The time that stands for "now" wherever a build would write the current time, unless the user sets another:
/// `BitBake`'s own default for `SOURCE_DATE_EPOCH_FALLBACK`-less metadata is arbitrary too, this one is fixed.
pub const DEFAULT_SOURCE_DATE_EPOCH: u64 = 1_520_598_896;

/// What the front end says while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontEndEvent<'a> {
    /// A new phase began: "configuration", "parsing", "run-queue", "recipes", "graph", "components", "writing",
    /// or "cached" when nothing has to be done.
    Phase(&'a str),
    /// A line that `BitBake` printed and that did not stop it: a warning.
    Message(&'a str),
}

/// Gets the events.
pub type FrontEndObserver = Arc<dyn Fn(FrontEndEvent<'_>) + Send + Sync>;

/// Where things are.
#[derive(Clone)]
pub struct FrontEndConfig {
    /// The initialised `BitBake` build directory.
    pub build_directory: PathBuf,
    /// What the user named as `BitBake`: a checkout, or a directory that holds the package `bb`.
    pub bitbake: Option<PathBuf>,
    /// For graphs, snapshots and `BitBake`'s own caches. May be deleted at any time.
    pub cache_directory: PathBuf,
    /// The program bubblewrap.
    pub bubblewrap: PathBuf,
    /// The Python that reads the configuration on the client. In the sandbox it is always `/usr/bin/python3`.
    pub python: PathBuf,
    /// The user's environment. `BitBake` sees what `BB_ENV_PASSTHROUGH` and `BB_ENV_PASSTHROUGH_ADDITIONS` name.
    pub environment: BTreeMap<String, String>,
    /// The digest function of [`Export::metadata`].
    pub digest_function: DigestFunction,
    /// Seconds since the epoch; see [`DEFAULT_SOURCE_DATE_EPOCH`].
    pub source_date_epoch: u64,
    /// Gets the events.
    pub observer: FrontEndObserver,
}

impl FrontEndConfig {
    /// A configuration with the usual programs and an empty environment.
    pub fn new(build_directory: PathBuf, cache_directory: PathBuf) -> Self {
        Self {
            build_directory,
            bitbake: None,
            cache_directory,
            bubblewrap: PathBuf::from("bwrap"),
            python: PathBuf::from("/usr/bin/python3"),
            environment: BTreeMap::new(),
            digest_function: DigestFunction::Sha256,
            source_date_epoch: DEFAULT_SOURCE_DATE_EPOCH,
            observer: Arc::new(|_| {}),
        }
    }
}

/// What to build, in `BitBake`'s own words.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExportRequest {
    /// Targets: `TARGET`, `TARGET:do_TASK`, `mc:CONFIGURATION:TARGET`, `virtual/…`.
    pub targets: Vec<String>,
    /// The task for targets that do not name one (`-c`); `None` for the metadata's default.
    pub task: Option<String>,
    /// Tasks to run for every recipe in the targets' graph that has them (`--runall`).
    pub run_all: Vec<String>,
    /// Tasks of the targets' graph to run, with what they need, and no others (`--runonly`).
    pub run_only: Vec<String>,
    /// Run the targets' tasks even if there are results (`-f`).
    pub force: bool,
    /// Further tasks of the targets to run even if there are results (`-C`), separated by commas.
    pub invalidate: Option<String>,
}

impl ExportRequest {
    /// Whether every export gives other signatures: `BitBake` taints forced tasks with a random number.
    fn is_unrepeatable(&self) -> bool {
        self.force || self.invalidate.is_some()
    }
}

/// The result.
#[derive(Debug, Clone)]
pub struct Export {
    /// The task graph.
    pub graph: TaskGraph,
    /// What every task's sandbox holds: `layers/`, `bitbake/`, `build/conf/` and `bitzel/` (the runner).
    pub metadata: LocalTree,
    /// The snapshots that the graph names.
    pub snapshots: SnapshotDirectory,
    /// The user's own `DL_DIR`, where sources marked as present are.
    pub downloads: PathBuf,
    /// Whether the graph came from the cache, without `BitBake` having run.
    pub cached: bool,
}

impl Export {
    /// The inputs that the walk of the graph needs beside the graph, read from this client's disk.
    pub fn build_inputs(&self) -> Result<BuildInputs, FrontEndError> {
        Ok(BuildInputs {
            metadata: self.metadata.root,
            directories: self.metadata.decode_directories()?,
            files: Arc::new(ClientFiles::new(
                self.metadata.clone(),
                self.snapshots.directory().to_owned(),
                self.downloads.clone(),
            )),
        })
    }
}

/// Data store snapshots, content-addressed files.
#[derive(Debug, Clone)]
pub struct SnapshotDirectory {
    directory: PathBuf,
}

impl SnapshotDirectory {
    /// Where the snapshots are, each named by its SHA-256 in hex.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the snapshot with this SHA-256 is.
    pub fn path(&self, sha256: &str) -> PathBuf {
        self.directory.join(sha256)
    }
}

/// Exports the task graph for `request`.
pub async fn export(config: &FrontEndConfig, request: &ExportRequest) -> Result<Export, FrontEndError> {
    let build_directory = config.build_directory.clone();
    if !build_directory.join("conf/bblayers.conf").is_file() {
        return Err(FrontEndError::NotABuildDirectory { build_directory });
    }
    let build_directory = build_directory
        .canonicalize()
        .map_err(FrontEndError::io(&build_directory))?;
    let cache = config.cache_directory.clone();
    let session = Session::open(&cache, &build_directory).await?;
    let python = run_blocking(move || PythonFiles::install(&cache)).await?;
    let library = bitbake::find(config).await?;
    let modules = bitbake::modules(&library)?;
    let exporter = Exporter {
        config,
        session: &session,
        python: &python,
        library: &library,
        modules: &modules,
    };
    let description = exporter.describe(&build_directory).await?;
    let (groups, places) = layers::group_layers(&description.layers)?;

    let inputs = Arc::new(MetadataInputs {
        user_conf: build_directory.join("conf"),
        build_directory,
        conf: session.configuration(),
        stat_cache: session.stat_cache(),
        modules: modules.clone(),
        runner: python.path("runner"),
        digest_function: config.digest_function,
        source_date_epoch: config.source_date_epoch,
        description,
        groups,
        places,
    });
    let snapshots = SnapshotDirectory {
        directory: session.snapshots(),
    };
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
        let exported = exporter.export(request, &inputs.groups).await?;
        if exported.cacheable && !request.is_unrepeatable() {
            graphs.store(&key, &exported.graph, &exported.bytecode)?;
        }
        let grown = [session.snapshots(), session.recipes()];
        run_blocking(move || {
            grown.iter().try_for_each(|directory| {
                pruning::prune(directory, pruning::EXPORT_LIMITS, SystemTime::now())
            })
        })
        .await?;
        (exported.graph, exported.bytecode)
    };
    let metadata = tree_of(bytecode).await?;
    let downloads = inputs.description.downloads.clone();
    mark_present_sources(&mut graph, &downloads);
    // Of the sources: compiled Python differs between clients with different Pythons, and they shall share results.
    let runner = sources
        .subdirectory("bitzel")
        .ok_or_else(|| FrontEndError::Malformed {
            reason: "the metadata tree has no runner".to_owned(),
        })?;
    graph.settings.get_or_insert_default().runner_version = runner;
    Ok(Export {
        graph,
        metadata,
        snapshots,
        downloads,
        cached,
    })
}

/// What the metadata tree is made of.
struct MetadataInputs {
    build_directory: PathBuf,
    user_conf: PathBuf,
    conf: PathBuf,
    stat_cache: PathBuf,
    /// See [`bitbake::modules`].
    modules: Vec<(PathBuf, String)>,
    runner: PathBuf,
    digest_function: DigestFunction,
    source_date_epoch: u64,
    description: BuildDescription,
    groups: Vec<LayerGroup>,
    /// Each layer's place in the sandbox, in the order of BBLAYERS.
    places: Vec<String>,
}

impl MetadataInputs {
    /// Writes the generated configuration and hashes everything that changed since the last time.
    fn tree(&self, bytecode: &Bytecode, snapshots: &SnapshotDirectory) -> Result<LocalTree, FrontEndError> {
        let layers = &self.description.layers;
        let layer_places: Vec<(PathBuf, String)> = layers
            .iter()
            .map(|layer| layer.path.clone())
            .zip(self.places.iter().cloned())
            .collect();
        configuration::write(&self.user_conf, &self.conf, &layer_places, self.source_date_epoch)?;
        let mut stat_cache = StatCache::load(&self.stat_cache);
        let mut builder = LocalTreeBuilder::new(self.digest_function, &mut stat_cache);
        let is_excluded = |directory: &Path| {
            directory == self.build_directory
                || directory == self.description.downloads
                || layers::is_foreign(directory)
        };
        for group in &self.groups {
            for (directory, place) in group.directories() {
                builder.add_directory(directory, &place, &is_excluded)?;
            }
        }
        let is_test = |directory: &Path| directory.ends_with("bb/tests");
        for (path, name) in &self.modules {
            let place = format!("bitbake/lib/{name}");
            if path.is_dir() {
                builder.add_directory(path, &place, &is_test)?;
            } else {
                builder.add_file(path, &place)?;
            }
        }
        builder.add_directory(&self.conf, "build/conf", &|_| false)?;
        builder.add_directory(&self.runner, "bitzel", &|_| false)?;
        for (place, sha256) in bytecode {
            builder.add_file(&snapshots.path(sha256), place)?;
        }
        let tree = builder.finish();
        stat_cache
            .save(&self.stat_cache)
            .map_err(FrontEndError::io(&self.stat_cache))?;
        Ok(tree)
    }
}

/// Sources come and go in the user's `DL_DIR` without any metadata changing, so this is looked up every time.
fn mark_present_sources(graph: &mut TaskGraph, downloads: &Path) {
    for source in graph.recipes.iter_mut().flat_map(|recipe| &mut recipe.sources) {
        let name = Path::new(&source.download_name);
        // The name comes from the metadata: it must not lead out of DL_DIR.
        let stays_inside = name
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        source.present = !source.download_name.is_empty()
            && stays_inside
            && fs::exists(downloads.join(name)).unwrap_or(false);
    }
}

#[cfg(test)]
mod tests;
