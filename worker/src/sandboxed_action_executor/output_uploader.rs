//! Uploads the logs and outputs of an Action.
#![expect(
    deprecated,
    reason = "clients of older versions of the specification set and read these fields"
)]

use std::fs;
use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;
use bitzel_cas::{BlobSource, upload_missing};
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, DigestFunction};
use tokio_util::sync::CancellationToken;

use super::execution::Execution;
use crate::cancellation::unless_cancelled;
use crate::error::Error;
use crate::file_cache::{FileCache, FileKey, OutputCopy};
use crate::outputs::{Outputs, check_size, collect_outputs, derive_upper_directory, hash_file};
use crate::worker_directories::ActionDirectory;

/// Uploader of logs and outputs, which the file cache keeps as inputs of later Actions.
pub(super) struct OutputUploader {
    files: Arc<FileCache>,
}

/// Digest and source of a log, or `None` if it is empty.
type Log = Option<(Digest, BlobSource)>;

/// Logs and outputs of a command. Its logs may explain why its outputs cannot be collected.
struct Collected {
    logs: [Log; 2],
    outputs: Result<Outputs, Error>,
}

impl OutputUploader {
    pub(super) fn new(files: Arc<FileCache>) -> Self {
        Self { files }
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
        let [stdout, stderr] = &logs;
        result.stdout_digest = stdout.as_ref().map(|(digest, _)| digest.to_wire());
        result.stderr_digest = stderr.as_ref().map(|(digest, _)| digest.to_wire());
        let upload = async |blobs: Vec<(Digest, BlobSource)>| {
            let upload = async { Ok(upload_missing(execution.store, blobs).await?) };
            unless_cancelled(&execution.request.cancellation, upload).await
        };
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
        run_blocking(move || {
            let read_log = |name| read_log(function, &directory, name, &cancellation);
            let logs = [read_log("stdout")?, read_log("stderr")?];
            let upper = directory.path("upper");
            let collect = || {
                if is_copied {
                    derive_upper_directory(&tree, &upper, &cancellation)?;
                }
                let (upper, cache) = (upper.clone(), cache.as_deref());
                collect_outputs(function, &tree, upper, &declaration, cache, &cancellation)
            };
            let outputs = collect();
            Ok(Collected { logs, outputs })
        })
        .await
    }
}

fn read_log(
    function: DigestFunction,
    directory: &ActionDirectory,
    name: &str,
    cancellation: &CancellationToken,
) -> Result<Log, Error> {
    let path = directory.path(name);
    let size = fs::metadata(&path).map_err(Error::io_at("read", &path))?.len();
    check_size(name, size)?;
    let digest = hash_file(function, &path, size, cancellation)?;
    Ok((!digest.is_empty_blob()).then_some((digest, BlobSource::File(path))))
}
