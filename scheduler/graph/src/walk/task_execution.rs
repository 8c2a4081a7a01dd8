//! One task from its inputs to its recorded result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bitzel_cas::{ActionCache, BlobSource, BlobStore, DirectoryCache, fetch_directory_tree, upload_missing};
use bitzel_proto::graph::{Snapshot, Task};
use bitzel_proto::reapi::{ActionResult, ExecuteResponse};
use bitzel_proto::{Digest, InstanceName};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tonic::{Code, Status};

use super::build_files::BuildInputs;
use super::error::BuildError;
use super::executions::{ExecutionRequest, Executions};
use super::log;
use crate::plan::closure::{TaskIndex, TaskInputs};
use crate::plan::input_root::{Fixed, input_root};
use crate::plan::outputs_digest::{Timeless, outputs_digest};
use crate::plan::private_tree::{BESIDE, private_paths, private_trees, roots};
use crate::plan::signature::{Environment, last_run_key, outputs_key, signature_key};
use crate::plan::task_action::{always_runs, task_action};
use crate::plan::task_result::{TaskResult, outputs};
use crate::plan::tree::{Directories, FUNCTION, Node};

/// What all executions of a build share.
pub(super) struct Context {
    pub(super) index: Arc<TaskIndex>,
    pub(super) environment: Environment,
    pub(super) inputs: BuildInputs,
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) action_cache: Arc<dyn ActionCache>,
    pub(super) executions: Arc<dyn Executions>,
    pub(super) instance: InstanceName,
    pub(super) directory_cache: DirectoryCache,
    pub(super) timeless: Mutex<Timeless>,
    /// Replaced when blobs turn out to be lost, so that the next execution uploads what is missing.
    pub(super) metadata_uploaded: Mutex<Arc<OnceCell<()>>>,
}

/// One execution, with everything that had to be taken from the schedule's state.
pub(super) struct Job {
    pub(super) task: u32,
    pub(super) taskhash: String,
    pub(super) inputs: TaskInputs,
    /// Results of [`TaskInputs::required`].
    pub(super) results: BTreeMap<u32, Arc<TaskResult>>,
    pub(super) task_file: Bytes,
    pub(super) dependencies_file: Bytes,
}

impl Context {
    /// The task's result under a signature, if the action cache has a usable one.
    pub(super) async fn look_up(&self, task: u32, taskhash: &str) -> Result<Option<TaskResult>, BuildError> {
        let key = signature_key(
            &self.environment,
            self.index.recipe(task),
            self.index.task(task),
            taskhash,
        );
        let entry = self.get_entry(key, task).await?;
        Ok(entry.and_then(|entry| {
            TaskResult::of_entry(&entry)
                .inspect_err(|error| tracing::warn!(%error, "ignoring a cache entry of {}", self.index.display_name(task)))
                .ok()
        }))
    }

    /// Remembers a found result under the signature of the export too, so that the next build finds it at once.
    pub(super) async fn record_alias(
        &self,
        task: u32,
        found: &str,
        result: &TaskResult,
    ) -> Result<(), BuildError> {
        let (recipe, message) = (self.index.recipe(task), self.index.task(task));
        if always_runs(message) || found == message.taskhash {
            return Ok(());
        }
        let key = signature_key(&self.environment, recipe, message, found);
        let Some(entry) = self.get_entry(key, task).await? else {
            return Ok(());
        };
        let alias = signature_key(&self.environment, recipe, message, &message.taskhash);
        self.put_entry(alias, result.to_entry(&entry), task).await
    }

    /// Runs one task and records what came of it.
    pub(super) async fn execute(&self, job: Job) -> Result<TaskResult, BuildError> {
        let name = self.index.display_name(job.task);
        let (recipe, task) = (self.index.recipe(job.task), self.index.task(job.task));
        self.upload_metadata(job.task).await?;
        let directories = self.directories(&job).await?;
        let result = |task: u32| &*job.results[&task];
        let trees_of = |recipe, sources| {
            private_trees(recipe, sources, &result, &directories).map_err(|source| BuildError::PrivateTree {
                task: name.clone(),
                source,
            })
        };
        let private = trees_of(recipe, &job.inputs.own)?;
        let before = roots(&private);
        let mut staged = private;
        for (foreign, sources) in &job.inputs.foreign {
            let mut trees = trees_of(&self.index.graph().recipes[*foreign as usize], sources)?;
            trees.remove(BESIDE);
            staged.extend(trees);
        }
        let local_files = self.local_files(job.task).await?;
        let fixed = Fixed {
            metadata: self.inputs.metadata,
            files: vec![
                ("bitzel/task.json", job.task_file),
                ("bitzel/dependencies.json", job.dependencies_file),
            ],
            stored: local_files
                .iter()
                .map(|file| (file.path.clone(), file.digest))
                .collect(),
        };
        let work_trees = roots(&staged);
        let root = input_root(
            &self.index,
            &job.inputs,
            fixed,
            &work_trees,
            &result,
            &directories,
        )
        .map_err(|source| BuildError::InputRoot {
            task: name.clone(),
            source,
        })?;
        let action = task_action(&self.environment, recipe, task, root.root);
        let made = staged
            .into_values()
            .flat_map(|tree| tree.blobs)
            .chain(root.blobs)
            .chain(action.blobs);
        let blobs = made.map(|(digest, bytes)| (digest, BlobSource::Bytes(bytes)));
        let files = local_files.into_iter().map(|file| (file.digest, file.source));
        upload_missing(&*self.store, blobs.chain(files))
            .await
            .map_err(BuildError::store(format!("uploading the inputs of {name}")))?;
        let started = Instant::now();
        let response = self
            .executions
            .execute(ExecutionRequest {
                action: action.action,
                skip_cache_lookup: always_runs(task),
                task: &name,
            })
            .await
            .map_err(|status| BuildError::execution(&name, status))?;
        let milliseconds = started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        let action_result = self.check(job.task, response).await?;
        let outputs = outputs(&action_result).map_err(|source| BuildError::Result {
            task: name.clone(),
            source,
        })?;
        let mut result = TaskResult {
            unihash: job.taskhash.clone(),
            outputs,
            before,
            milliseconds,
        };
        check_outputs(task, &name, &result)?;
        result.unihash = self
            .settle_unihash(job.task, &job.taskhash, &result, &action_result)
            .await?;
        self.record(job.task, &job.taskhash, &result, &action_result)
            .await?;
        Ok(result)
    }

    /// The unihash of a fresh result: that of the first task that left equal outputs, else its own taskhash.
    async fn settle_unihash(
        &self,
        task: u32,
        taskhash: &str,
        result: &TaskResult,
        action_result: &ActionResult,
    ) -> Result<String, BuildError> {
        let name = self.index.display_name(task);
        let (recipe, message) = (self.index.recipe(task), self.index.task(task));
        let mut directories = Directories::new();
        for node in result
            .outputs
            .iter()
            .filter(|(path, _)| *path != crate::plan::task_result::LOG_PATH)
            .map(|(_, node)| node)
        {
            self.fetch(node, &name, &mut directories).await?;
        }
        let digest = outputs_digest(recipe, message, result, &directories, &mut self.timeless.lock())
            .map_err(|source| BuildError::Outputs { task: name, source })?;
        let key = outputs_key(&self.environment, recipe, message, &digest);
        let first = self
            .get_entry(key, task)
            .await?
            .and_then(|entry| TaskResult::of_entry(&entry).ok());
        match first {
            Some(first) => Ok(first.unihash),
            None => {
                let own = TaskResult {
                    unihash: taskhash.to_owned(),
                    ..result.clone()
                };
                self.put_entry(key, own.to_entry(action_result), task).await?;
                Ok(taskhash.to_owned())
            }
        }
    }

    /// Makes the result findable by signature: the one that it ran under and that of the export.
    async fn record(
        &self,
        task: u32,
        taskhash: &str,
        result: &TaskResult,
        action_result: &ActionResult,
    ) -> Result<(), BuildError> {
        let (recipe, message) = (self.index.recipe(task), self.index.task(task));
        let entry = result.to_entry(action_result);
        if always_runs(message) {
            return self
                .put_entry(last_run_key(&self.environment, recipe, message), entry, task)
                .await;
        }
        let key = signature_key(&self.environment, recipe, message, taskhash);
        if message.taskhash != taskhash {
            let alias = signature_key(&self.environment, recipe, message, &message.taskhash);
            self.put_entry(alias, entry.clone(), task).await?;
        }
        self.put_entry(key, entry, task).await
    }

    /// Whether the Action ran and the task succeeded.
    async fn check(&self, task: u32, response: ExecuteResponse) -> Result<ActionResult, BuildError> {
        let name = self.index.display_name(task);
        let status = response.status.unwrap_or_default();
        let result = response.result.unwrap_or_default();
        if let Some(lost) = BuildError::inputs_lost(&name, &status) {
            return Err(lost);
        }
        if status.code == Code::Ok as i32 && result.exit_code == 0 {
            return Ok(result);
        }
        let (recipe, message) = (self.index.recipe(task), self.index.task(task));
        self.put_entry(
            last_run_key(&self.environment, recipe, message),
            result.clone(),
            task,
        )
        .await?;
        if status.code == Code::Ok as i32 {
            let text = log::task_log(&*self.store, &result, &message.name).await;
            let log = text.map_or_else(|error| format!("(no log: {error})"), |text| log::tail(&text));
            return Err(BuildError::TaskFailed {
                task: name,
                exit_code: result.exit_code,
                log,
            });
        }
        let mut text = status.message.clone();
        if !response.message.is_empty() && response.message != text {
            text = format!("{text}: {}", response.message);
        }
        Err(BuildError::Execution {
            task: name,
            source: Box::new(Status::new(Code::from_i32(status.code), text)),
        })
    }

    /// The store has lost blobs: what this client brings may be among them.
    pub(super) fn expect_nothing_uploaded(&self) {
        *self.metadata_uploaded.lock() = Arc::default();
    }

    /// Uploads layers, BitBake and configuration, once in a build and only when something is executed.
    async fn upload_metadata(&self, task: u32) -> Result<(), BuildError> {
        let upload = || async {
            upload_missing(&*self.store, self.inputs.files.metadata())
                .await
                .map(|_| ())
                .map_err(BuildError::store(format!(
                    "uploading the metadata for {}",
                    self.index.display_name(task)
                )))
        };
        let uploaded = Arc::clone(&self.metadata_uploaded.lock());
        uploaded.get_or_try_init(upload).await.copied()
    }

    /// All directories that putting the inputs together may look into.
    async fn directories(&self, job: &Job) -> Result<Directories, BuildError> {
        let name = self.index.display_name(job.task);
        let mut directories = self.inputs.directories.clone();
        let sources = || job.inputs.trees();
        for (task, result) in &job.results {
            // Predecessors and foreign tasks are used by their private trees, components by what they publish.
            let (message, recipe) = (self.index.task(*task), self.index.recipe(*task));
            let left_tree =
                sources().any(|trees| trees.primary == Some(*task) || trees.replay.contains(task));
            let component = job.inputs.components.contains(task);
            for (path, node) in &result.outputs {
                let private = left_tree && private_paths(recipe).any(|own| own == path);
                if private || (component && (path == BESIDE || message.published_paths.contains(path))) {
                    self.fetch(node, &name, &mut directories).await?;
                }
            }
            if sources().any(|trees| trees.replay.contains(task)) {
                for digest in result.before.values() {
                    self.fetch(&Node::Stored(*digest), &name, &mut directories)
                        .await?;
                }
            }
        }
        Ok(directories)
    }

    async fn fetch(&self, node: &Node, task: &str, directories: &mut Directories) -> Result<(), BuildError> {
        if let Node::Stored(root) = node
            && !directories.contains_key(root)
        {
            let tree = fetch_directory_tree(&*self.store, *root, &self.directory_cache)
                .await
                .map_err(BuildError::store(format!("reading the directories of {task}")))?;
            directories.extend(tree.directories);
        }
        Ok(())
    }

    /// Snapshots and downloaded sources that go into the task's input root.
    async fn local_files(&self, task: u32) -> Result<Vec<LocalFile>, BuildError> {
        let recipe = self.index.recipe(task);
        let settings = self.index.graph().settings.clone().unwrap_or_default();
        let base = settings
            .base_snapshots
            .iter()
            .find(|base| base.multiconfig == recipe.multiconfig);
        let mut files = Vec::new();
        for (path, snapshot) in [
            ("bitzel/base.json", base),
            ("bitzel/recipe.json", recipe.snapshot.as_ref()),
        ] {
            if let Some(digest) = snapshot.and_then(snapshot_digest) {
                let source = self.inputs.files.snapshot(digest);
                files.push(LocalFile {
                    path: path.to_owned(),
                    digest,
                    source,
                });
            }
        }
        if is_fetch(self.index.task(task)) {
            for source in recipe.sources.iter().filter(|source| source.present) {
                let path = format!("{}/{}", settings.download_directory, source.download_name);
                let found = self.inputs.files.download(&source.download_name).await;
                if let Some((digest, source)) = found.map_err(BuildError::io(&source.download_name))? {
                    files.push(LocalFile { path, digest, source });
                }
            }
        }
        Ok(files)
    }

    async fn get_entry(&self, key: Digest, task: u32) -> Result<Option<ActionResult>, BuildError> {
        let context = || format!("looking for a result of {}", self.index.display_name(task));
        self.action_cache
            .get(&self.instance, key)
            .await
            .map_err(|error| BuildError::store(context())(error))
    }

    async fn put_entry(&self, key: Digest, entry: ActionResult, task: u32) -> Result<(), BuildError> {
        let context = || format!("recording the result of {}", self.index.display_name(task));
        self.action_cache
            .put(&self.instance, key, entry)
            .await
            .map_err(|error| BuildError::store(context())(error))
    }
}

/// File of the owner of the build that goes into an input root.
struct LocalFile {
    /// Relative to /work.
    path: String,
    digest: Digest,
    source: BlobSource,
}

/// Whether the task brings sources into the download directory.
fn is_fetch(task: &Task) -> bool {
    task.name == "do_fetch"
}

fn snapshot_digest(snapshot: &Snapshot) -> Option<Digest> {
    Digest::from_parts(FUNCTION, &snapshot.sha256, snapshot.size_bytes.try_into().ok()?).ok()
}

/// Everything that a task publishes must be there, or others would be built without it.
fn check_outputs(task: &Task, name: &str, result: &TaskResult) -> Result<(), BuildError> {
    match task
        .published_paths
        .iter()
        .find(|path| !result.outputs.contains_key(*path))
    {
        Some(path) => Err(BuildError::MissingOutput {
            task: name.to_owned(),
            path: path.clone(),
        }),
        None => Ok(()),
    }
}
