//! Executes Actions in sandboxes on this machine.
#![expect(
    deprecated,
    reason = "clients of older versions of the specification set and read these fields"
)]

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bitzel_cas::blob_store::read_whole;
use bitzel_cas::error::with_causes;
use bitzel_cas::{
    BlobSource, BlobStore, DirectoryCache, DirectoryTree, fetch_directory_tree, upload_missing,
};
use bitzel_proto::Digest;
use bitzel_proto::missing_blobs::to_rpc_status;
use bitzel_proto::reapi::{Action, ActionResult, Command, ExecuteResponse, Platform, execution_stage};
use prost::Message;
use tokio_util::sync::CancellationToken;

use crate::action_executor::{ActionExecutor, ActionRequest};
use crate::blob_stores::BlobStores;
use crate::blocking::{self, unless_cancelled};
use crate::config::ExecutorConfig;
use crate::error::Error;
use crate::file_cache::{FileCache, FileKey, OutputCopy};
use crate::grpc_status::grpc_status;
use crate::input_root::InputRoots;
use crate::node_properties::now;
use crate::outputs::{
    OutputDeclaration, Outputs, check_size, collect_outputs, components, digest_of, leave_changes,
    prepare_upper, undeclared_writes,
};
use crate::sandbox::{Sandbox, SandboxedCommand};
use crate::scratch::{ActionDirectory, Scratch};

/// Actions and Commands are small; whatever is larger is not one.
const MAXIMUM_MESSAGE_BYTES: u64 = 16 << 20;

/// Executes Actions in sandboxes on this machine.
pub struct SandboxedActionExecutor {
    config: ExecutorConfig,
    stores: Arc<dyn BlobStores>,
    scratch: Arc<Scratch>,
    directories: DirectoryCache,
    files: Arc<FileCache>,
    input_roots: InputRoots,
    sandbox: Sandbox,
}

/// Decoded Directory messages that are kept in memory, in bytes of their encoding.
const DIRECTORY_CACHE_BYTES: u64 = 64 << 20;

/// An Action that was read and checked.
struct Prepared {
    command: Command,
    declaration: OutputDeclaration,
    tree: Arc<DirectoryTree>,
    directory: Arc<ActionDirectory>,
    timeout: Duration,
    network: bool,
    user_namespaces: bool,
    undeclared_writes_fail: bool,
}

/// How a command ended.
enum Ending {
    Exited(i32),
    TimedOut,
    Cancelled,
}

impl SandboxedActionExecutor {
    /// Opens the cache directory and tries whether this machine can run sandboxes.
    ///
    /// [`Error::SandboxUnavailable`] says what to install or to set, [`Error::CacheInUse`] that another worker has one of
    /// the directories, [`Error::SharedDirectory`] that the scratch directory is not for a worker alone.
    pub async fn open(config: ExecutorConfig, stores: Arc<dyn BlobStores>) -> Result<Self, Error> {
        let (root, limit) = (config.cache_directory.clone(), config.cache_size_bytes);
        let elsewhere = config.scratch_directory.clone();
        let (scratch, files) = blocking::run(move || {
            let scratch = Scratch::open(&root, elsewhere.as_deref())?;
            let files = FileCache::open(Arc::clone(&scratch), limit)?;
            Ok((scratch, files))
        })
        .await?;
        let sandbox = Sandbox::open(Arc::clone(&scratch), &config.host_directories).await?;
        Ok(Self {
            config,
            stores,
            input_roots: InputRoots::new(Arc::clone(&scratch), Arc::clone(&files)),
            files,
            scratch,
            directories: DirectoryCache::new(DIRECTORY_CACHE_BYTES),
            sandbox,
        })
    }

    async fn run(&self, request: &ActionRequest, result: &mut ActionResult) -> Result<(), Error> {
        let store = self.stores.store(&request.instance).await?;
        let store = &*store;
        let action: Action = read_message(store, request.action, "Action").await?;
        let timeout = self.timeout(&action)?;
        let digest_in = |field, digest| {
            Digest::from_wire_field(request.action.function(), digest).map_err(Error::digest(field))
        };
        let command_digest = digest_in("Action.command_digest", action.command_digest.as_ref())?;
        let root = digest_in("Action.input_root_digest", action.input_root_digest.as_ref())?;
        let command: Command = read_message(store, command_digest, "Command").await?;
        if command.arguments.is_empty() {
            return Err(Error::InvalidAction("the Command has no arguments".into()));
        }
        let declaration = OutputDeclaration::of_command(&command)?;
        let platform = action.platform.as_ref().or(command.platform.as_ref());

        metadata(result).input_fetch_start_timestamp = Some(now());
        let fetch = async {
            let tree = fetch_directory_tree(store, root, &self.directories).await;
            tree.map_err(Error::input_root)
        };
        let tree = Arc::new(unless_cancelled(&request.cancellation, fetch).await?);
        check_working_directory(&tree, &command.working_directory)?;
        let scratch = Arc::clone(&self.scratch);
        let directory = Arc::new(blocking::run(move || scratch.action_directory()).await?);
        let prepared = Prepared {
            timeout,
            undeclared_writes_fail: property(platform, "undeclared-writes") == Some("error"),
            network: property(platform, "network") == Some("on"),
            user_namespaces: property(platform, "user-namespaces") == Some("on"),
            command,
            declaration,
            tree,
            directory: Arc::clone(&directory),
        };
        let network = prepared.network;
        let outcome = self.run_prepared(store, request, prepared, result).await;
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
        outcome.and(blocking::run(remove).await)
    }

    async fn run_prepared(
        &self,
        store: &dyn BlobStore,
        request: &ActionRequest,
        prepared: Prepared,
        result: &mut ActionResult,
    ) -> Result<(), Error> {
        let Prepared {
            command,
            declaration,
            tree,
            directory,
            timeout,
            ..
        } = &prepared;
        // With network somebody outside may have the command's files and change them while they are compared.
        let may_copy = !prepared.network && self.scratch.is_bindable();
        let make_parents = {
            let (tree, directory) = (Arc::clone(tree), Arc::clone(directory));
            let outputs = declaration.component_paths();
            move || prepare_upper(&tree, &directory.path("upper"), &outputs)
        };
        let input_root = self
            .input_roots
            .assemble(
                store,
                tree,
                directory,
                may_copy,
                &request.cancellation,
                make_parents,
            )
            .await?;
        metadata(result).input_fetch_completed_timestamp = Some(now());

        let sandboxed = SandboxedCommand {
            lower: input_root.lower.clone(),
            arguments: command.arguments.clone(),
            environment: command
                .environment_variables
                .iter()
                .map(|variable| (variable.name.clone(), variable.value.clone()))
                .collect(),
            working_directory: command.working_directory.clone(),
            network: prepared.network,
            user_namespaces: prepared.user_namespaces,
        };
        if let Some(stages) = &request.stages {
            let _ = stages.send(execution_stage::Value::Executing);
        }
        let ending = self
            .run_command(&sandboxed, directory, *timeout, request, result)
            .await?;
        if let Ending::Cancelled = ending {
            return Err(Error::Cancelled);
        }

        metadata(result).output_upload_start_timestamp = Some(now());
        let copied = input_root.lower.is_empty();
        let collected = self
            .upload_outputs(store, request, &prepared, copied, result)
            .await;
        metadata(result).output_upload_completed_timestamp = Some(now());
        let undeclared = match ending {
            Ending::Exited(0) if prepared.undeclared_writes_fail => {
                find_undeclared(&prepared, &request.cancellation).await
            }
            _ => Ok(()),
        };
        let collected = match collected {
            Ok(copies) if copies.is_empty() => Ok(()),
            Ok(copies) => {
                let cache = Arc::clone(&self.files);
                blocking::run(move || {
                    cache.adopt(copies);
                    Ok(())
                })
                .await
            }
            Err(error) => Err(error),
        };
        match ending {
            // What was there at the time is better than nothing, and its absence no second error.
            Ending::TimedOut => Err(Error::TimedOut(*timeout)),
            _ => collected.and(undeclared),
        }
    }

    fn timeout(&self, action: &Action) -> Result<Duration, Error> {
        let Some(timeout) = &action.timeout else {
            return Ok(self.config.default_timeout);
        };
        let maximum = self.config.maximum_timeout;
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(timeout.seconds), u32::try_from(timeout.nanos)) else {
            return Err(Error::InvalidAction("Action.timeout is negative".into()));
        };
        // Saturates instead of overflowing: whatever is this long is beyond the maximum.
        let timeout = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()));
        if timeout > maximum {
            return Err(Error::InvalidAction(format!(
                "Action.timeout is {timeout:?}, but this worker allows at most {maximum:?}"
            )));
        }
        Ok(timeout)
    }

    async fn run_command(
        &self,
        command: &SandboxedCommand,
        directory: &ActionDirectory,
        timeout: Duration,
        request: &ActionRequest,
        result: &mut ActionResult,
    ) -> Result<Ending, Error> {
        metadata(result).execution_start_timestamp = Some(now());
        let start = Instant::now();
        let mut timed_out = false;
        let stop = async {
            tokio::select! {
                () = tokio::time::sleep(timeout) => timed_out = true,
                () = request.cancellation.cancelled() => {}
            }
        };
        let exit = self.sandbox.run_until(command, directory, stop).await;
        metadata(result).execution_completed_timestamp = Some(now());
        metadata(result).virtual_execution_duration = Some(to_wire(start.elapsed()));
        Ok(match exit? {
            Some(code) => {
                result.exit_code = code;
                Ending::Exited(code)
            }
            None if timed_out => {
                // As a shell reports a process that SIGKILL ended.
                result.exit_code = 128 + 9;
                Ending::TimedOut
            }
            None => Ending::Cancelled,
        })
    }

    /// Uploads what the command left, and gives copies that the file cache can keep. `copied` says whether the input root
    /// is there, too.
    async fn upload_outputs(
        &self,
        store: &dyn BlobStore,
        request: &ActionRequest,
        prepared: &Prepared,
        copied: bool,
        result: &mut ActionResult,
    ) -> Result<Vec<(FileKey, OutputCopy)>, Error> {
        let function = request.action.function();
        let upload = async |blobs: Vec<(Digest, BlobSource)>| {
            let upload = async { Ok(upload_missing(store, blobs).await?) };
            unless_cancelled(&request.cancellation, upload).await
        };
        let (tree, directory) = (Arc::clone(&prepared.tree), Arc::clone(&prepared.directory));
        let declaration = prepared.declaration.clone();
        let cancellation = request.cancellation.clone();
        // With the machine's network somebody else may write to the files while they are hashed: see
        // `ActionDirectory::discard`.
        let cache = (!prepared.network).then(|| Arc::clone(&self.files));
        let (logs, collected) = blocking::run(move || {
            let log = |name| log(function, &directory, name, &cancellation);
            let logs = [log("stdout")?, log("stderr")?];
            let upper = directory.path("upper");
            let collect = || {
                if copied {
                    leave_changes(&tree, &upper, &cancellation)?;
                }
                let (upper, cache) = (upper.clone(), cache.as_deref());
                collect_outputs(function, &tree, upper, &declaration, cache, &cancellation)
            };
            Ok((logs, collect()))
        })
        .await?;
        let [stdout, stderr] = &logs;
        result.stdout_digest = stdout.as_ref().map(|(digest, _)| digest.to_wire());
        result.stderr_digest = stderr.as_ref().map(|(digest, _)| digest.to_wire());
        let logs = logs.into_iter().flatten();
        let collected = match collected {
            Ok(Outputs {
                result: outputs,
                blobs,
                copies,
            }) => {
                upload(blobs.into_iter().chain(logs).collect()).await?;
                Ok((outputs, copies))
            }
            Err(error) => {
                // The logs may tell why.
                upload(logs.collect()).await?;
                Err(error)
            }
        };
        let (outputs, copies) = collected?;
        result.output_files = outputs.output_files;
        result.output_directories = outputs.output_directories;
        result.output_symlinks = outputs.output_symlinks;
        result.output_file_symlinks = outputs.output_file_symlinks;
        result.output_directory_symlinks = outputs.output_directory_symlinks;
        Ok(copies)
    }
}

#[async_trait]
impl ActionExecutor for SandboxedActionExecutor {
    async fn execute(&self, request: ActionRequest) -> ExecuteResponse {
        let mut result = ActionResult::default();
        metadata(&mut result).worker.clone_from(&self.config.worker_name);
        metadata(&mut result).queued_timestamp = request.queued;
        metadata(&mut result).worker_start_timestamp = Some(now());
        let outcome = self.run(&request, &mut result).await;
        metadata(&mut result).worker_completed_timestamp = Some(now());
        match outcome {
            Ok(()) => ExecuteResponse {
                result: Some(result),
                status: Some(bitzel_proto::google::rpc::Status::default()),
                ..ExecuteResponse::default()
            },
            Err(error) => {
                let started = metadata(&mut result).execution_start_timestamp.is_some();
                ExecuteResponse {
                    // A partial result: logs, exit code, times.
                    result: started.then_some(result),
                    status: Some(to_rpc_status(&grpc_status(&error))),
                    message: with_causes(&error),
                    ..ExecuteResponse::default()
                }
            }
        }
    }
}

fn metadata(result: &mut ActionResult) -> &mut bitzel_proto::reapi::ExecutedActionMetadata {
    result.execution_metadata.get_or_insert_default()
}

fn to_wire(duration: Duration) -> bitzel_proto::google::protobuf::Duration {
    bitzel_proto::google::protobuf::Duration {
        seconds: duration.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().try_into().unwrap_or(0),
    }
}

async fn read_message<M: Message + Default>(
    store: &dyn BlobStore,
    digest: Digest,
    name: &str,
) -> Result<M, Error> {
    if digest.size_bytes() > MAXIMUM_MESSAGE_BYTES {
        return Err(Error::InvalidAction(format!(
            "{name} {digest} is larger than {MAXIMUM_MESSAGE_BYTES} bytes"
        )));
    }
    let bytes = read_whole(store, digest).await?;
    M::decode(bytes)
        .map_err(|source| Error::InvalidAction(format!("{name} {digest} cannot be decoded: {source}")))
}

/// The specification wants the working directory in the input tree.
fn check_working_directory(tree: &DirectoryTree, path: &str) -> Result<(), Error> {
    let mut digest = tree.root;
    for name in components("working_directory", path)? {
        let directory = tree.directories.get(&digest);
        let mut children = directory.into_iter().flat_map(|directory| &directory.directories);
        let child = children.find(|node| node.name == name).ok_or_else(|| {
            Error::InvalidAction(format!("the working directory {path:?} is not in the input root"))
        })?;
        digest = Digest::from_wire_field(digest.function(), child.digest.as_ref())
            .map_err(Error::digest("DirectoryNode.digest"))?;
    }
    Ok(())
}

async fn find_undeclared(prepared: &Prepared, cancellation: &CancellationToken) -> Result<(), Error> {
    let (tree, directory) = (Arc::clone(&prepared.tree), Arc::clone(&prepared.directory));
    let outputs = prepared.declaration.component_paths();
    let cancellation = cancellation.clone();
    let undeclared = move || undeclared_writes(&tree, directory.path("upper"), &outputs, &cancellation);
    let paths = blocking::run(undeclared).await?;
    if paths.is_empty() {
        Ok(())
    } else {
        Err(Error::UndeclaredWrites { paths })
    }
}

/// The digest of a log; `None` when nothing was written.
fn log(
    function: bitzel_proto::DigestFunction,
    directory: &ActionDirectory,
    name: &str,
    cancellation: &CancellationToken,
) -> Result<Option<(Digest, BlobSource)>, Error> {
    let path = directory.path(name);
    let size = fs::metadata(&path)
        .map_err(Error::io(format!("read {}", path.display())))?
        .len();
    check_size(name, size)?;
    let digest = digest_of(function, &path, size, cancellation)?;
    Ok((!digest.is_empty_blob()).then_some((digest, BlobSource::File(path))))
}

/// The value of a platform property.
fn property<'a>(platform: Option<&'a Platform>, name: &str) -> Option<&'a str> {
    let property = platform?
        .properties
        .iter()
        .find(|property| property.name == name)?;
    Some(&property.value)
}
