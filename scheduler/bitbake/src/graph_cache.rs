//! Graphs that were exported before.

use std::fs;
use std::path::{Path, PathBuf};

use bitzel_proto::graph::TaskGraph;
use prost::Message as _;

use super::error::FrontEndError;
use super::exporter::Bytecode;
use super::pruning::mark_used;
use super::{ExportRequest, FrontEndConfig, LocalTree, SnapshotDirectory, environment};

/// The version of the graph's meaning, as the exporter writes it into every graph.
pub(crate) const GRAPH_FORMAT_VERSION: u32 = 2;

/// Files that are kept, two a graph; older ones are dropped. A graph of 5,000 tasks takes about a megabyte.
const KEPT_FILES: usize = 128;

/// Zstandard level: the graph is written once and read often.
const COMPRESSION_LEVEL: i32 = 3;

/// The cache: two files a graph, the graph as zstd-compressed protobuf and the list of compiled Python as JSON.
pub(crate) struct GraphCache {
    directory: PathBuf,
}

/// A digest of all that a graph follows from.
pub(crate) fn key(
    config: &FrontEndConfig,
    request: &ExportRequest,
    metadata: &LocalTree,
    code_digest: &str,
) -> String {
    // JSON keeps the parts apart: no value can run into the next.
    let parts = serde_json::json!([
        GRAPH_FORMAT_VERSION,
        code_digest,
        metadata.root.to_string(),
        environment::passed_through(&config.environment),
        config.source_date_epoch,
        request,
    ]);
    bitzel_proto::DigestFunction::Sha256
        .digest(parts.to_string().as_bytes())
        .hash_hex()
}

impl GraphCache {
    pub(crate) fn new(cache: &Path) -> Self {
        Self {
            directory: cache.join("graphs"),
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.pb.zst"))
    }

    fn bytecode_path(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.bytecode.json"))
    }

    /// The graph, if it is there, whole, and all files that it names are.
    pub(crate) fn load(&self, key: &str, snapshots: &SnapshotDirectory) -> Option<(TaskGraph, Bytecode)> {
        let path = self.path(key);
        let bytecode: Bytecode = serde_json::from_slice(&fs::read(self.bytecode_path(key)).ok()?).ok()?;
        let bytes = zstd::decode_all(fs::File::open(&path).ok()?).ok()?;
        let graph = TaskGraph::decode(bytes.as_slice()).ok()?;
        let base = graph
            .settings
            .iter()
            .flat_map(|settings| &settings.base_snapshots);
        let recipes = graph.recipes.iter().filter_map(|recipe| recipe.snapshot.as_ref());
        let compiled = bytecode.iter().map(|(_, sha256)| sha256);
        let complete = base
            .chain(recipes)
            .map(|snapshot| &snapshot.sha256)
            .chain(compiled)
            .all(|sha256| mark_used(&snapshots.path(sha256)));
        if !complete || graph.format_version != GRAPH_FORMAT_VERSION {
            return None;
        }
        mark_used(&path);
        mark_used(&self.bytecode_path(key));
        Some((graph, bytecode))
    }

    pub(crate) fn store(
        &self,
        key: &str,
        graph: &TaskGraph,
        bytecode: &Bytecode,
    ) -> Result<(), FrontEndError> {
        fs::create_dir_all(&self.directory).map_err(FrontEndError::io(&self.directory))?;
        let path = self.path(key);
        let bytes = zstd::encode_all(graph.encode_to_vec().as_slice(), COMPRESSION_LEVEL)
            .map_err(FrontEndError::io(&path))?;
        // The graph comes last: it is what a reader takes for whole.
        let list = serde_json::json!(bytecode).to_string();
        replace(&self.bytecode_path(key), list.as_bytes())?;
        replace(&path, &bytes)?;
        self.drop_old()
    }

    fn drop_old(&self) -> Result<(), FrontEndError> {
        let mut graphs = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(FrontEndError::io(&self.directory))? {
            let entry = entry.map_err(FrontEndError::io(&self.directory))?;
            // Another bitzel may be dropping the same file.
            if let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) {
                graphs.push((modified, entry.path()));
            }
        }
        graphs.sort_unstable();
        let surplus = graphs.len().saturating_sub(KEPT_FILES);
        for (_, path) in &graphs[..surplus] {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }
}

/// Writes a file so that it is never seen half written.
fn replace(path: &Path, contents: &[u8]) -> Result<(), FrontEndError> {
    let temporary = path.with_extension(format!("new.{}", std::process::id()));
    fs::write(&temporary, contents).map_err(FrontEndError::io(&temporary))?;
    fs::rename(&temporary, path).map_err(FrontEndError::io(path))
}

#[cfg(test)]
mod tests;
