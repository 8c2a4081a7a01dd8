//! Executes Actions in sandboxes on this machine.
//!
//! The steps of one Action, each with a file of its own: read and check it (`action_reader`), assemble its input root
//! ([`InputRoots`]), run its command until it exits, is cancelled or times out (`command_runner`), upload its outputs
//! (`output_uploader`), and check it for undeclared writes (`undeclared_writes`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bitzel_cas::BlobStore;
use bitzel_cas::blocking::run_blocking;
use bitzel_proto::missing_blobs::to_rpc_status;
use bitzel_proto::platform_property::RootFileSystem;
use bitzel_proto::reapi::{ActionResult, ExecuteResponse, execution_stage};
use bitzel_proto::timestamp::now;
use bitzel_proto::with_causes;
use tokio_util::sync::CancellationToken;

use crate::action_executor::{ActionExecutor, ActionRequest};
use crate::blob_stores::BlobStores;
use crate::cancellation::unless_cancelled;
use crate::config::ExecutorConfig;
use crate::error::Error;
use crate::file_cache::FileCache;
use crate::grpc_status::grpc_status;
use crate::image_root::ImageRoot;
use crate::input_root::{InputRoot, InputRoots, PrefetchBudget, RunningFetches};
use crate::outputs::create_output_parents;
use crate::sandbox::Sandbox;
use crate::worker_directories::{ActionDirectory, WorkerDirectories};

mod action_reader;
mod command_runner;
mod execution;
mod execution_timeout;
mod input_deadline;
mod input_prefetch;
mod output_uploader;
mod sandbox_properties;
mod undeclared_writes;

use action_reader::{ActionReader, CheckedAction};
use command_runner::{CommandEnd, CommandRunner};
use execution::{Execution, metadata};
use execution_timeout::ExecutionTimeouts;
use input_deadline::InputDeadline;
use output_uploader::OutputUploader;
use undeclared_writes::refuse_undeclared_writes;

/// Executes Actions in sandboxes on this machine.
pub struct SandboxedActionExecutor {
    stores: Arc<dyn BlobStores>,
    directories: Arc<WorkerDirectories>,
    reader: ActionReader,
    input_roots: InputRoots,
    runner: CommandRunner,
    max_input_entries: u64,
    input_time: Duration,
    max_output_entries: u64,
    uploader: OutputUploader,
    running_fetches: RunningFetches,
    prefetch_budget: PrefetchBudget,
    /// Held while the inputs of one upcoming Action are fetched.
    prefetch_turn: tokio::sync::Mutex<()>,
}

impl SandboxedActionExecutor {
    /// Opens the directories of the worker and checks that this machine can run sandboxes.
    ///
    /// [`Error::SandboxUnavailable`] names what to install or to configure. [`Error::DirectoryInUse`] means that another
    /// worker uses one of the directories, [`Error::SharedDirectory`] that others can write to the scratch directory.
    pub async fn open(config: ExecutorConfig, stores: Arc<dyn BlobStores>) -> Result<Self, Error> {
        let (cache, scratch) = (config.cache_directory, config.scratch_directory);
        let (directories, files) = run_blocking(move || {
            let directories = WorkerDirectories::open(&cache, scratch.as_deref())?;
            let files = FileCache::open(Arc::clone(&directories), config.cache_size_bytes)?;
            Ok::<_, Error>((directories, files))
        })
        .await?;
        let bounds = config.bounds;
        let sandbox = Sandbox::open(
            Arc::clone(&directories),
            &config.host_directories,
            config.user_access.clone(),
            bounds.clone(),
        )
        .await?;
        let timeouts = ExecutionTimeouts {
            default: config.default_timeout,
            maximum: config.maximum_timeout,
        };
        Ok(Self {
            stores,
            reader: ActionReader::new(timeouts, &bounds),
            input_roots: InputRoots::new(
                Arc::clone(&directories),
                Arc::clone(&files),
                config.max_layer_entries,
            ),
            runner: CommandRunner::new(sandbox, config.user_access),
            max_input_entries: bounds.input_entries,
            input_time: bounds.input_time,
            max_output_entries: bounds.output_entries,
            uploader: OutputUploader::new(files, bounds),
            running_fetches: RunningFetches::default(),
            prefetch_budget: PrefetchBudget::new(config.prefetch_bytes),
            prefetch_turn: tokio::sync::Mutex::default(),
            directories,
        })
    }

    /// Space on disk for the changes of all Actions together.
    pub(crate) async fn space_for_changes(&self) -> Result<u64, Error> {
        let (directories, growth) = (Arc::clone(&self.directories), self.input_roots.cache_growth());
        run_blocking(move || directories.space_for_changes(growth)).await
    }

    /// Executes an Action in a directory of its own and removes that at the end.
    async fn run(&self, request: &ActionRequest, result: &mut ActionResult) -> Result<(), Error> {
        let store = self.stores.store(&request.instance).await?;
        let read = self.reader.read(&*store, request.action);
        let action = unless_cancelled(&request.cancellation, read).await?;
        metadata(result).input_fetch_start_timestamp = Some(now());
        let deadline = InputDeadline::start(
            &request.cancellation,
            self.input_time,
            self.running_fetches.begin(),
        );
        let fetched = async {
            let tree = self.reader.fetch_input_tree(&*store, &action, deadline.token());
            let tree = tree.await?;
            Ok((tree, self.image_root(&*store, &action, deadline.token()).await?))
        };
        let (tree, image_root) = deadline.outcome(fetched.await)?;
        let directories = Arc::clone(&self.directories);
        let directory = Arc::new(run_blocking(move || ActionDirectory::create(&directories)).await?);
        let network = action.properties.network;
        let execution = Execution {
            store: &*store,
            request,
            action,
            tree,
            directory: Arc::clone(&directory),
            image_root,
        };
        let outcome = self.run_in_directory(&execution, deadline, result).await;
        drop(execution);
        let Ok(directory) = Arc::try_unwrap(directory) else {
            return outcome;
        };
        let remove = move || {
            if network {
                directory.discard()
            } else {
                directory.remove()
            }
        };
        outcome.and(run_blocking(remove).await)
    }

    /// Leases the image root that the Action names. Fetches it if no Action has named it before.
    async fn image_root(
        &self,
        store: &dyn BlobStore,
        action: &CheckedAction,
        cancellation: &CancellationToken,
    ) -> Result<Option<Arc<ImageRoot>>, Error> {
        let RootFileSystem::Image(digest) = action.properties.root else {
            return Ok(None);
        };
        if let Some(root) = self.input_roots.assembled_image_root(digest) {
            return Ok(Some(root));
        }
        let tree = self.reader.fetch_tree(store, digest, cancellation).await?;
        let root = self.input_roots.image_root(store, &tree, cancellation).await?;
        Ok(Some(root))
    }

    async fn run_in_directory(
        &self,
        execution: &Execution<'_>,
        deadline: InputDeadline,
        result: &mut ActionResult,
    ) -> Result<(), Error> {
        let cancellation = &execution.request.cancellation;
        let assembled = self.assemble(execution, deadline.token()).await;
        let input_root = deadline.outcome(assembled)?;
        drop(deadline);
        metadata(result).input_fetch_completed_timestamp = Some(now());

        if let Some(stages) = &execution.request.stages {
            let _ = stages.send(execution_stage::Value::Executing);
        }
        let end = self.runner.run(execution, &input_root, result).await?;
        match end {
            CommandEnd::Cancelled => return Err(Error::Cancelled),
            CommandEnd::BoundReached(reached) => {
                // The logs may tell what used so much. The error is about the bound, whatever happens to them.
                let _ = self.uploader.upload_logs(execution, result).await;
                return Err(Error::BoundReached(reached));
            }
            CommandEnd::Exited(code) if code != 0 => {
                let directories = Arc::clone(&self.directories);
                run_blocking(move || directories.check_free_space()).await?;
            }
            _ => {}
        }

        metadata(result).output_upload_start_timestamp = Some(now());
        let is_copied = input_root.lower.is_empty();
        let uploaded = self.uploader.upload(execution, is_copied, result).await;
        metadata(result).output_upload_completed_timestamp = Some(now());
        let declared = match end {
            CommandEnd::Exited(0) if execution.action.properties.undeclared_writes_fail => {
                refuse_undeclared_writes(execution, self.max_output_entries, cancellation).await
            }
            _ => Ok(()),
        };
        let uploaded = match uploaded {
            Ok(copies) => {
                self.uploader.keep(copies).await;
                Ok(())
            }
            Err(error) => Err(error),
        };
        match end {
            // The outputs at that time are better than none, and their absence is no second error.
            CommandEnd::TimedOut => Err(Error::TimedOut(execution.action.timeout)),
            _ => uploaded.and(declared),
        }
    }

    /// Assembles the input root and the parents of the outputs.
    async fn assemble(
        &self,
        execution: &Execution<'_>,
        cancellation: &CancellationToken,
    ) -> Result<InputRoot, Error> {
        // With network a process outside the sandbox may hold the command's files and change them while they are
        // compared.
        let may_copy = !execution.action.properties.network && self.directories.scratch_is_bindable();
        let outputs = execution.action.declaration.component_paths();
        let (tree, directory) = (Arc::clone(&execution.tree), Arc::clone(&execution.directory));
        let (max_directories, cancelled) = (self.max_input_entries, cancellation.clone());
        let create_parents = move || {
            let upper = directory.path("upper");
            create_output_parents(&tree, &upper, &outputs, max_directories, &cancelled)
        };
        let input_root = self.input_roots.assemble(
            execution.store,
            &execution.tree,
            &execution.directory,
            may_copy,
            cancellation,
            create_parents,
        );
        let input_root = input_root.await?;
        // Last, because the next Action in such a root waits for it: image roots that only idle launchers hold.
        if self.input_roots.is_over_limit() && self.runner.release_image_roots().await? {
            self.input_roots.enforce_cache_limit().await;
        }
        Ok(input_root)
    }
}

#[async_trait]
impl ActionExecutor for SandboxedActionExecutor {
    async fn execute(&self, request: ActionRequest) -> ExecuteResponse {
        let mut result = ActionResult::default();
        match self.run(&request, &mut result).await {
            Ok(()) => ExecuteResponse {
                result: Some(result),
                status: Some(bitzel_proto::google::rpc::Status::default()),
                ..ExecuteResponse::default()
            },
            Err(error) => {
                // The Action's own directory is removed. If the caches filled the disk, the next one would fail like it.
                if error.is_full_disk() || (error.is_exhaustion() && self.directories.is_low_on_space().await)
                {
                    self.input_roots.free_space().await;
                }
                let is_started = metadata(&mut result).execution_start_timestamp.is_some();
                ExecuteResponse {
                    // A partial result: logs, exit code, times.
                    result: is_started.then_some(result),
                    status: Some(to_rpc_status(&grpc_status(&error))),
                    message: with_causes(&error),
                    ..ExecuteResponse::default()
                }
            }
        }
    }
}
