//! Processes of the exporter: a small one that reads the build directory's configuration, and the export in its sandbox.

mod build_events;
mod compilation;
mod description;
mod root;
mod sandbox;
mod sandbox_file;
mod shared_state;

use std::fs;
use std::path::{Path, PathBuf};

use bitzel_cas::blocking::run_blocking;
use bitzel_graph::walk::build_files;
use bitzel_proto::graph::{Snapshot, TaskGraph};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use super::error::FrontEndError;
use super::export_cache::ExportCache;
use super::export_request::ExportRequest;
use super::exported_graph::{ExportedGraph, GRAPH_FORMAT_VERSION};
use super::front_end_config::{FrontEndConfig, FrontEndEvent};
use super::layers::{ExternalSource, LayerGroup};
use super::python_files::PythonFiles;
use super::snapshot_directory::SnapshotDirectory;
pub(crate) use sandbox_file::open_regular;
use sandbox_file::read_json;

/// Advice when bubblewrap cannot be started.
pub(crate) const BUBBLEWRAP_ADVICE: &str = "install bubblewrap (Debian: apt install bubblewrap)";

/// Exit code of the exporter when `BitBake` reported an error.
const BITBAKE_ERROR_EXIT_CODE: i32 = 1;

/// Runner of the exporter's Python processes.
pub(crate) struct Exporter<'a> {
    pub(crate) config: &'a FrontEndConfig,
    pub(crate) cache: &'a ExportCache,
    pub(crate) python: &'a PythonFiles,
    pub(crate) library: &'a Path,
    /// See [`super::bitbake::modules`].
    pub(crate) modules: &'a [(PathBuf, String)],
}

impl Exporter<'_> {
    /// Runs `BitBake` and reads the graph.
    pub(crate) async fn export(
        &self,
        request: &ExportRequest,
        groups: &[LayerGroup],
        external: &[ExternalSource],
    ) -> Result<ExportedGraph, FrontEndError> {
        let output = tempfile::tempdir_in(self.cache.directory())
            .map_err(FrontEndError::io(self.cache.directory()))?;
        let request_file = output.path().join("request.json");
        let request = serde_json::json!({
            "request": request,
            "source_date_epoch": self.config.source_date_epoch,
            // Cached recipes of another root may have values that its programs gave.
            "code_digest": format!("{} {}", self.python.digest, self.config.root.identity),
            "external_sources": external,
        });
        fs::write(&request_file, request.to_string()).map_err(FrontEndError::io(&request_file))?;
        let written = output.path().join("snapshots");
        fs::create_dir(&written).map_err(FrontEndError::io(&written))?;
        let cacheable = self.run(self.sandbox(output.path(), groups, external)?).await?;
        let (graph_file, packages_file) = (
            output.path().join("graph.json"),
            output.path().join("packages.json"),
        );
        let snapshots = SnapshotDirectory::new(self.cache.snapshots());
        let adopted = snapshots.clone();
        let (graph, packages) = run_blocking(move || {
            let graph = read_json::<TaskGraph>(&graph_file)?;
            for Snapshot { sha256, .. } in build_files::snapshots(&graph) {
                adopted.adopt(sha256, &written.join(sha256))?;
            }
            Ok((graph, read_json::<Vec<String>>(&packages_file)?))
        })
        .await?;
        if graph.format_version != GRAPH_FORMAT_VERSION {
            return Err(FrontEndError::Malformed {
                reason: format!("format version {}", graph.format_version),
            });
        }
        let bytecode = self.compile(&packages, groups, external, snapshots).await?;
        Ok(ExportedGraph {
            graph,
            bytecode,
            cacheable,
        })
    }

    /// Runs the exporter and reports its events. Returns true if its graph may be cached.
    async fn run(&self, mut command: Command) -> Result<bool, FrontEndError> {
        let mut child = command.spawn().map_err(|source| FrontEndError::Program {
            program: self.config.bubblewrap.display().to_string(),
            advice: BUBBLEWRAP_ADVICE,
            source,
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let phases = async {
            let mut cacheable = true;
            if let Some(stdout) = stdout {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    match line.as_str() {
                        "uncacheable" => cacheable = false,
                        phase => (self.config.observer)(FrontEndEvent::Phase(phase)),
                    }
                }
            }
            cacheable
        };
        let messages = async {
            let mut messages = Vec::new();
            if let Some(mut stderr) = stderr {
                // Text that was read before an error is still shown.
                let _ = stderr.read_to_end(&mut messages).await;
            }
            String::from_utf8_lossy(&messages).into_owned()
        };
        let (cacheable, messages, status) = tokio::join!(phases, messages, child.wait());
        let status = status.map_err(FrontEndError::io(&self.config.bubblewrap))?;
        if status.code() == Some(BITBAKE_ERROR_EXIT_CODE) {
            return Err(FrontEndError::BitBake { messages });
        }
        if !status.success() {
            return Err(FrontEndError::BitBake {
                messages: format!("{messages}\nthe BitBake exporter ended with {status}"),
            });
        }
        for line in messages.lines() {
            (self.config.observer)(FrontEndEvent::Message(line));
        }
        Ok(cacheable)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err calls")]
fn malformed(error: serde_json::Error) -> FrontEndError {
    FrontEndError::Malformed {
        reason: error.to_string(),
    }
}
