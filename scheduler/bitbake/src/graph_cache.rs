//! Cache of exported graphs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bitzel_graph::walk::build_files;
use bitzel_proto::DigestFunction;
use bitzel_proto::graph::TaskGraph;
use prost::Message as _;

use super::atomic_file;
use super::cache_eviction::{self, GRAPH_LIMITS, mark_used};
use super::environment;
use super::error::FrontEndError;
use super::export_request::ExportRequest;
use super::exported_graph::{Bytecode, GRAPH_FORMAT_VERSION};
use super::front_end_config::FrontEndConfig;
use super::local_tree::LocalTree;
use super::snapshot_directory::SnapshotDirectory;

/// Zstandard level: the graph is written once and read often.
const COMPRESSION_LEVEL: i32 = 3;

/// Directory of graphs with two files for each: the graph as zstd-compressed protobuf, and the list of compiled Python
/// as JSON.
pub(crate) struct GraphCache {
    directory: PathBuf,
}

/// Digest of all inputs of a graph.
pub(crate) fn key(
    config: &FrontEndConfig,
    request: &ExportRequest,
    metadata: &LocalTree,
    code_digest: &str,
) -> String {
    // JSON separates the parts: the end of one value cannot pass for the start of the next.
    let parts = serde_json::json!([
        GRAPH_FORMAT_VERSION,
        code_digest,
        metadata.root.to_string(),
        environment::passed_through(&config.environment),
        config.source_date_epoch,
        config.root.identity,
        request,
    ]);
    DigestFunction::Sha256
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

    /// Loads a graph, if it is complete and all files that it names exist.
    pub(crate) fn load(&self, key: &str, snapshots: &SnapshotDirectory) -> Option<(TaskGraph, Bytecode)> {
        let path = self.path(key);
        let bytecode: Bytecode = serde_json::from_slice(&fs::read(self.bytecode_path(key)).ok()?).ok()?;
        let bytes = zstd::decode_all(fs::File::open(&path).ok()?).ok()?;
        let graph = TaskGraph::decode(bytes.as_slice()).ok()?;
        let compiled = bytecode.iter().map(|(_, sha256)| sha256.as_str());
        let complete = build_files::snapshots(&graph)
            .map(|snapshot| snapshot.sha256.as_str())
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
        // The graph comes last: a reader takes its presence for completeness.
        let list = serde_json::json!(bytecode).to_string();
        let bytecode_path = self.bytecode_path(key);
        atomic_file::replace(&bytecode_path, list.as_bytes()).map_err(FrontEndError::io(&bytecode_path))?;
        atomic_file::replace(&path, &bytes).map_err(FrontEndError::io(&path))?;
        cache_eviction::evict(&self.directory, GRAPH_LIMITS, SystemTime::now())
    }
}

#[cfg(test)]
mod tests;
