//! Output of the exporter.

use bitzel_proto::graph::TaskGraph;

/// Version of the graph's meaning. The exporter writes it into every graph (`python/exporter/graph.py`).
pub(crate) const GRAPH_FORMAT_VERSION: u32 = 5;

/// Compiled Python: paths relative to `/work`, each with the SHA-256 that names the file in the snapshot directory.
pub(crate) type Bytecode = Vec<(String, String)>;

/// Output of one run of the exporter.
pub(crate) struct ExportedGraph {
    pub(crate) graph: TaskGraph,
    /// Compiled Python for every task's sandbox.
    pub(crate) bytecode: Bytecode,
    /// False if the graph depends on something outside the metadata, such as the newest revision upstream.
    pub(crate) cacheable: bool,
}
