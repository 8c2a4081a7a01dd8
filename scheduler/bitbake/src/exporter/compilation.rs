//! Compilation of the Python that tasks need, in a sandbox in which no metadata runs.

use std::process::{Output, Stdio};

use bitzel_cas::blocking::run_blocking;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{BUBBLEWRAP_ADVICE, Exporter, malformed};
use crate::error::FrontEndError;
use crate::exported_graph::Bytecode;
use crate::layers::{ExternalSource, LayerGroup};
use crate::relative_path::stays_below;
use crate::snapshot_directory::SnapshotDirectory;

impl Exporter<'_> {
    /// Compiles packages, which metadata has named, and brings the compiled files into the directory of the snapshots.
    pub(super) async fn compile(
        &self,
        packages: &[String],
        groups: &[LayerGroup],
        external: &[ExternalSource],
        snapshots: SnapshotDirectory,
    ) -> Result<Bytecode, FrontEndError> {
        let mut command = self.base_sandbox(groups, external)?;
        command.arg("--unshare-net").arg("--bind");
        command.arg(self.cache.bytecode()).arg("/work/bytecode");
        command.args([
            "--chdir",
            "/work",
            "/usr/bin/python3",
            "-I",
            "/work/exporter/bytecode.py",
        ]);
        let output = feed(command, serde_json::json!(packages).to_string().as_bytes())
            .await
            .map_err(|source| FrontEndError::Program {
                program: self.config.bubblewrap.display().to_string(),
                advice: BUBBLEWRAP_ADVICE,
                source,
            })?;
        if !output.status.success() {
            return Err(FrontEndError::Malformed {
                reason: format!(
                    "Python cannot be compiled: {}",
                    String::from_utf8_lossy(&output.stderr)
                ),
            });
        }
        let compiled: Vec<(String, String, String)> =
            serde_json::from_slice(&output.stdout).map_err(malformed)?;
        let directory = self.cache.bytecode();
        run_blocking(move || {
            let mut bytecode = Bytecode::new();
            for (sandbox_path, file, sha256) in compiled {
                if !stays_below(&sandbox_path) || !stays_below(&file) {
                    return Err(FrontEndError::Malformed {
                        reason: format!("compiled Python at {sandbox_path:?}"),
                    });
                }
                snapshots.adopt(&sha256, &directory.join(file))?;
                bytecode.push((sandbox_path, sha256));
            }
            Ok(bytecode)
        })
        .await
    }
}

/// Runs a program with this standard input.
async fn feed(mut command: Command, input: &[u8]) -> std::io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that ends early says why itself.
            let _ = stdin.write_all(input).await;
        }
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    output
}
