//! Uploads the logs and outputs of an Action.
#![expect(
    deprecated,
    reason = "clients of older versions of the specification set and read these fields"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;
use bitzel_cas::{BlobSource, upload_missing};
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, DigestFunction};
use tokio_util::sync::CancellationToken;

use super::execution::Execution;
use crate::bounds::{Bound, BoundReached, Bounds};
use crate::cancellation::unless_cancelled;
use crate::error::Error;
use crate::file_cache::{FileCache, FileKey, OutputCopy};
use crate::outputs::{Outputs, collect_outputs, derive_upper_directory, hash_file};
use crate::worker_directories::ActionDirectory;

/// Uploader of logs and outputs, which the file cache keeps as inputs of later Actions.
pub(super) struct OutputUploader {
    files: Arc<FileCache>,
    bounds: Bounds,
}

/// Digest and source of a log, or `None` if it is empty.
type Log = Option<(Digest, BlobSource)>;

/// Logs and outputs of a command. Its logs may explain why its outputs cannot be collected.
struct Collected {
    logs: [Log; 2],
    outputs: Result<Outputs, Error>,
}

impl OutputUploader {
    pub(super) fn new(files: Arc<FileCache>, bounds: Bounds) -> Self {
        Self { files, bounds }
    }

    /// Uploads logs and outputs and records them in `result`. Returns copies of outputs for the file cache.
    ///
    /// `is_copied` is true if the input root was copied into the directory where the command wrote.
    pub(super) async fn upload(
        &self,
        execution: &Execution<'_>,
        is_copied: bool,
        result: &mut ActionResult,
    ) -> Result<Vec<(FileKey, OutputCopy)>, Error> {
        let Collected { logs, outputs } = self.collect(execution, is_copied).await?;
        record_logs(&logs, result);
        let upload = async |blobs| upload(execution, blobs).await;
        let logs = logs.into_iter().flatten();
        let outputs = match outputs {
            Ok(outputs) => outputs,
            Err(error) => {
                upload(logs.collect()).await?;
                return Err(error);
            }
        };
        upload(outputs.blobs.into_iter().chain(logs).collect()).await?;
        result.output_files = outputs.result.output_files;
        result.output_directories = outputs.result.output_directories;
        result.output_symlinks = outputs.result.output_symlinks;
        result.output_file_symlinks = outputs.result.output_file_symlinks;
        result.output_directory_symlinks = outputs.result.output_directory_symlinks;
        Ok(outputs.copies)
    }

    /// Uploads the logs alone and records them in `result`.
    pub(super) async fn upload_logs(
        &self,
        execution: &Execution<'_>,
        result: &mut ActionResult,
    ) -> Result<(), Error> {
        let function = execution.request.action.function();
        let directory = Arc::clone(&execution.directory);
        let cancellation = execution.request.cancellation.clone();
        let allowed = self.bounds.log_bytes;
        let read = move || read_logs(function, &directory, allowed, &cancellation);
        let logs = run_blocking(read).await?;
        record_logs(&logs, result);
        upload(execution, logs.into_iter().flatten().collect()).await
    }

    /// Hands copies of outputs to the file cache.
    pub(super) async fn keep(&self, copies: Vec<(FileKey, OutputCopy)>) {
        if !copies.is_empty() {
            let files = Arc::clone(&self.files);
            run_blocking(move || files.adopt(copies)).await;
        }
    }

    async fn collect(&self, execution: &Execution<'_>, is_copied: bool) -> Result<Collected, Error> {
        let function = execution.request.action.function();
        let (tree, directory) = (Arc::clone(&execution.tree), Arc::clone(&execution.directory));
        let declaration = execution.action.declaration.clone();
        let cancellation = execution.request.cancellation.clone();
        // With the machine's network a process outside the sandbox may write to the files while they are hashed: see
        // `ActionDirectory::discard`.
        let cache = (!execution.action.properties.network).then(|| Arc::clone(&self.files));
        let bounds = self.bounds.clone();
        run_blocking(move || {
            let logs = read_logs(function, &directory, bounds.log_bytes, &cancellation)?;
            let upper = directory.path("upper");
            let collect = || {
                if is_copied {
                    derive_upper_directory(&tree, &upper, &cancellation)?;
                }
                let (upper, cache) = (upper.clone(), cache.as_deref());
                collect_outputs(
                    function,
                    &tree,
                    upper,
                    &declaration,
                    &bounds,
                    cache,
                    &cancellation,
                )
            };
            let outputs = collect();
            Ok(Collected { logs, outputs })
        })
        .await
    }
}

async fn upload(execution: &Execution<'_>, blobs: Vec<(Digest, BlobSource)>) -> Result<(), Error> {
    let upload = async { Ok(upload_missing(execution.store, blobs).await?) };
    let uploaded = unless_cancelled(&execution.request.cancellation, upload).await;
    uploaded.map(drop)
}

fn record_logs([stdout, stderr]: &[Log; 2], result: &mut ActionResult) {
    result.stdout_digest = stdout.as_ref().map(|(digest, _)| digest.to_wire());
    result.stderr_digest = stderr.as_ref().map(|(digest, _)| digest.to_wire());
}

/// Hashes standard output and standard error, unless they are larger than `allowed` together.
fn read_logs(
    function: DigestFunction,
    directory: &ActionDirectory,
    allowed: u64,
    cancellation: &CancellationToken,
) -> Result<[Log; 2], Error> {
    let size = |path: &Path| {
        let metadata = fs::metadata(path).map_err(Error::io_at("read", path));
        metadata.map(|metadata| metadata.len())
    };
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| directory.path(name));
    let sizes = [size(&stdout)?, size(&stderr)?];
    let used = sizes[0].saturating_add(sizes[1]);
    if used > allowed {
        return Err(Error::BoundReached(BoundReached {
            bound: Bound::LogBytes,
            used: Some(used),
            allowed,
        }));
    }
    let read = |path: PathBuf, size| -> Result<Log, Error> {
        let digest = hash_file(function, &path, size, cancellation)?;
        Ok((!digest.is_empty_blob()).then_some((digest, BlobSource::File(path))))
    };
    Ok([read(stdout, sizes[0])?, read(stderr, sizes[1])?])
}
