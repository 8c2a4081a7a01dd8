//! Portable Actions: executions on services of the Remote Execution API that know nothing of bitzel.
//!
//! [`PortableExecutions`] is a decorator. It wraps each Action into one that carries the launcher (`wrapping`), lets the
//! engine execute that, and turns the outcome into the result that a worker of bitzel would have left (`unwrapping`).
//! Planning and recording know nothing of it, so the keys of results are the same. See
//! `docs/decisions/0050-any-execution-engine.md`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bitzel_cas::blob_store::read_whole;
use bitzel_cas::{
    BlobSource, BlobStore, DirectoryCache, DirectoryTree, fetch_directory_tree, upload_missing,
};
use bitzel_launcher::LaunchReport;
use bitzel_launcher::portable::PortableOutcome;
use bitzel_proto::missing_blobs::missing_blobs_status;
use bitzel_proto::reapi::{Action, ActionResult, Command, ExecuteResponse};
use bitzel_proto::{Digest, with_causes};
use bytes::Bytes;
use prost::Message;
use tokio::sync::OnceCell;
use tonic::{Code, Status};

use crate::plan::tree::DIGEST_FUNCTION;
use crate::walk::{ExecutionRequest, Executions};

mod engine_outputs;
mod unwrapping;
mod wrapping;

use engine_outputs::EngineOutputs;
use unwrapping::{describe_undeclared, unwrap_outputs};
use wrapping::{PortableAction, Wrapping, check_action, wrap};

/// Memory for Directories of input roots.
const DIRECTORY_CACHE_BYTES: u64 = 64 << 20;
/// Largest message that an engine may leave: the outcome, or a Tree.
const MAX_MESSAGE_BYTES: u64 = 256 << 20;
/// Description of the check for people.
const CHECK: &str = "bitzel:check";

/// Settings of portable Actions.
#[derive(Debug, Clone)]
pub struct PortableSettings {
    /// Program of the launcher, linked statically, for the processors of the engine's workers.
    pub launcher: Bytes,
    /// Platform properties that the engine asks for.
    pub properties: Vec<(String, String)>,
    /// Image root in which all tasks run. `None` for the root of the engine's workers.
    pub image_root: Option<Digest>,
}

/// Executor of Actions on an engine that does not know their platform properties.
pub struct PortableExecutions {
    inner: Arc<dyn Executions>,
    store: Arc<dyn BlobStore>,
    launcher: (Digest, Bytes),
    settings: PortableSettings,
    directory_cache: DirectoryCache,
    /// Outcome of the first Action, which does nothing but try the sandbox.
    check: OnceCell<Result<(), Status>>,
}

impl PortableExecutions {
    /// Executor that runs portable Actions on `inner`, whose store is `store`.
    pub fn new(inner: Arc<dyn Executions>, store: Arc<dyn BlobStore>, settings: PortableSettings) -> Self {
        let launcher = settings.launcher.clone();
        Self {
            inner,
            store,
            launcher: (DIGEST_FUNCTION.digest(&launcher), launcher),
            settings,
            directory_cache: DirectoryCache::new(DIRECTORY_CACHE_BYTES),
            check: OnceCell::new(),
        }
    }

    fn wrapping(&self) -> Wrapping<'_> {
        Wrapping {
            launcher: self.launcher.0,
            properties: &self.settings.properties,
            image_root: self.settings.image_root,
        }
    }

    /// Runs the check once. Its error is that of all tasks.
    async fn check(&self) -> Result<(), Status> {
        let check = || async {
            let action = check_action(&self.wrapping());
            let root = DIGEST_FUNCTION.digest(&[]);
            let tree = DirectoryTree {
                root,
                directories: std::iter::once((root, Arc::default())).collect(),
            };
            let run = self
                .run(
                    &action,
                    &Action::default(),
                    &Command::default(),
                    &tree,
                    false,
                    CHECK,
                )
                .await
                .map_err(|status| of_the_check(&status))?;
            let status = run.status.unwrap_or_default();
            let result = run.result.unwrap_or_default();
            let problem = if status.code != Code::Ok as i32 {
                format!("{} {}", status.message, run.message)
            } else if result.exit_code != 0 {
                format!("the command of the check ended with code {}", result.exit_code)
            } else {
                return Ok(());
            };
            Err(of_the_check(&Status::new(Code::from_i32(status.code), problem)))
        };
        self.check.get_or_init(check).await.clone()
    }

    /// Executes a portable Action and unwraps its outcome.
    async fn run(
        &self,
        action: &PortableAction,
        native: &Action,
        command: &Command,
        tree: &DirectoryTree,
        skip_cache_lookup: bool,
        task: &str,
    ) -> Result<ExecuteResponse, Status> {
        let launcher = std::iter::once(self.launcher.clone());
        let blobs = action.blobs.iter().cloned().chain(launcher);
        let blobs = blobs.map(|(digest, bytes)| (digest, BlobSource::Bytes(bytes)));
        upload_missing(&*self.store, blobs).await.map_err(store_status)?;
        let mut request = ExecutionRequest {
            action: action.action,
            skip_cache_lookup,
            task,
            // Hints for the queue of our own server.
            remaining_path: Duration::ZERO,
            input_trees: &[],
        };
        loop {
            let response = self.inner.execute(request).await?;
            if response.status.as_ref().is_some_and(|status| status.code != 0) {
                return Ok(response);
            }
            let is_repeatable = response.cached_result && !request.skip_cache_lookup;
            match self.unwrap(response, native, command, tree).await {
                // The engine has lost outputs of a result that it still has.
                Err(UnwrapError::Missing(_)) if is_repeatable => request.skip_cache_lookup = true,
                Err(UnwrapError::Missing(digests)) => return Err(missing_blobs_status(&digests)),
                Err(UnwrapError::Other(status)) => return Err(status),
                Ok(response) => return Ok(response),
            }
        }
    }

    async fn unwrap(
        &self,
        response: ExecuteResponse,
        native: &Action,
        command: &Command,
        tree: &DirectoryTree,
    ) -> Result<ExecuteResponse, UnwrapError> {
        let result = response.result.clone().unwrap_or_default();
        let Some(outputs) = EngineOutputs::read(&*self.store, &result).await? else {
            return Err(self.without_outcome(&result).await.into());
        };
        let outcome = outputs.outcome(&*self.store).await?;
        if response.cached_result {
            outputs.require_contents(&*self.store).await?;
        }
        let exit_code = match &outcome.report {
            LaunchReport::Exited(code) => *code,
            report => {
                return Err(launcher_failed(report).into());
            }
        };
        if let Some(status) = undeclared_writes(native, &outcome) {
            return Ok(ExecuteResponse {
                status: Some(bitzel_proto::missing_blobs::to_rpc_status(&status)),
                ..response
            });
        }
        let unwrapped = unwrap_outputs(&outcome, &outputs, command, tree)
            .map_err(|error| Status::data_loss(with_causes(&error)))?;
        let blobs = unwrapped.blobs.into_iter();
        upload_missing(
            &*self.store,
            blobs.map(|(digest, bytes)| (digest, BlobSource::Bytes(bytes))),
        )
        .await
        .map_err(store_status)?;
        Ok(ExecuteResponse {
            result: Some(ActionResult {
                exit_code,
                stdout_raw: result.stdout_raw,
                stdout_digest: result.stdout_digest,
                stderr_raw: result.stderr_raw,
                stderr_digest: result.stderr_digest,
                execution_metadata: result.execution_metadata,
                ..unwrapped.result
            }),
            ..response
        })
    }

    /// The error of an Action whose launcher left nothing: it did not start, or was killed.
    async fn without_outcome(&self, result: &ActionResult) -> Status {
        let mut text = String::from_utf8_lossy(&result.stderr_raw).into_owned();
        if let Some(digest) = Digest::from_wire_field(DIGEST_FUNCTION, result.stderr_digest.as_ref())
            .ok()
            .filter(|digest| digest.size_bytes() <= MAX_MESSAGE_BYTES)
            && let Ok(bytes) = read_whole(&*self.store, digest).await
        {
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        Status::internal(format!(
            "the launcher left no outcome on a worker of the engine; it ended with code {}: {}",
            result.exit_code,
            text.trim()
        ))
    }
}

#[async_trait]
impl Executions for PortableExecutions {
    async fn execute(&self, request: ExecutionRequest<'_>) -> Result<ExecuteResponse, Status> {
        self.check().await?;
        let action: Action = self.read(request.action).await?;
        let digest = |digest| {
            Digest::from_wire_field(request.action.function(), digest)
                .map_err(|error| Status::invalid_argument(error.to_string()))
        };
        let command: Command = self.read(digest(action.command_digest.as_ref())?).await?;
        let input_root = digest(action.input_root_digest.as_ref())?;
        let tree = fetch_directory_tree(&*self.store, input_root, &self.directory_cache)
            .await
            .map_err(store_status)?;
        let portable = wrap(&self.wrapping(), &action, &command, &tree);
        self.run(
            &portable,
            &action,
            &command,
            &tree,
            request.skip_cache_lookup,
            request.task,
        )
        .await
    }
}

impl PortableExecutions {
    async fn read<M: Message + Default>(&self, digest: Digest) -> Result<M, Status> {
        let bytes = read_whole(&*self.store, digest).await.map_err(store_status)?;
        M::decode(bytes)
            .map_err(|error| Status::data_loss(format!("blob {digest} cannot be decoded: {error}")))
    }
}

/// Error of an outcome.
#[derive(Debug)]
enum UnwrapError {
    /// Blobs of the outcome that the engine's store has lost.
    Missing(Vec<Digest>),
    /// Any other.
    Other(Status),
}

impl From<Status> for UnwrapError {
    fn from(status: Status) -> Self {
        Self::Other(status)
    }
}

impl From<bitzel_cas::Error> for UnwrapError {
    fn from(error: bitzel_cas::Error) -> Self {
        match error {
            bitzel_cas::Error::NotFound(digest) => Self::Missing(vec![digest]),
            other => Self::Other(store_status(other)),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn store_status(error: bitzel_cas::Error) -> Status {
    match &error {
        bitzel_cas::Error::NotFound(digest) => missing_blobs_status(&[*digest]),
        _ => Status::unavailable(with_causes(&error)),
    }
}

fn launcher_failed(report: &LaunchReport) -> Status {
    match report {
        LaunchReport::CommandNotStarted(reason) => {
            Status::invalid_argument(format!("the command cannot be started: {reason}"))
        }
        LaunchReport::Failed { step, reason, .. } => Status::internal(format!(
            "the launcher failed on a worker of the engine: {step}: {reason}"
        )),
        other => Status::internal(format!("the launcher reports {other:?}")),
    }
}

/// The error of a check, for people.
fn of_the_check(status: &Status) -> Status {
    Status::new(
        match status.code() {
            Code::Ok => Code::FailedPrecondition,
            code => code,
        },
        format!(
            "the execution service runs no tasks of this build: {}. Its workers need processors of the kind {}, user \
             namespaces for ordinary users, a /proc that nothing covers, and, without an image root (--root), \
             /usr/bin/python3",
            status.message(),
            std::env::consts::ARCH
        ),
    )
}

/// The error of an Action that wrote outside of its outputs, if it asked for one.
fn undeclared_writes(native: &Action, outcome: &PortableOutcome) -> Option<Status> {
    let properties = &native.platform.as_ref()?.properties;
    let fails = properties
        .iter()
        .any(|property| property.name == "undeclared-writes" && property.value == "error");
    (fails && outcome.undeclared_count > 0).then(|| Status::failed_precondition(describe_undeclared(outcome)))
}

#[cfg(test)]
mod tests;
