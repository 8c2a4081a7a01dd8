//! Execution of one task, from its inputs to its recorded result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitzel_cas::{ActionCache, BlobSource, BlobStore, DirectoryCache, upload_missing};
use bitzel_proto::graph::Task;
use bitzel_proto::reapi::{ActionResult, ExecuteResponse};
use bitzel_proto::scheduling_hint::MAX_INPUT_TREES;
use bitzel_proto::{Digest, InstanceName};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tonic::{Code, Status};

use super::build_files::BuildInputs;
use super::error::BuildError;
use super::executions::{ExecutionRequest, Executions};
use super::log;
use super::restore::KnownArchives;
use crate::plan::input_root::{FixedInputs, input_root};
use crate::plan::output_equivalence::DigestsWithoutTimes;
use crate::plan::private_tree::{UNDECLARED_FILES, private_trees, roots};
use crate::plan::signature::{Environment, last_run_key};
use crate::plan::task_action::{always_runs, setscene_action, task_action};
use crate::plan::task_index::TaskIndex;
use crate::plan::task_inputs::TaskInputs;
use crate::plan::task_result::{TaskResult, outputs};
use crate::plan::tree::Node;

/// Context that all executions of a build share.
pub(super) struct BuildContext {
    pub(super) index: Arc<TaskIndex>,
    pub(super) environment: Environment,
    pub(super) inputs: BuildInputs,
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) action_cache: Arc<dyn ActionCache>,
    pub(super) executions: Arc<dyn Executions>,
    pub(super) instance: InstanceName,
    pub(super) directory_cache: DirectoryCache,
    pub(super) digests_without_times: Mutex<DigestsWithoutTimes>,
    /// Replaced when blobs are lost, so that the next execution uploads the missing ones.
    pub(super) metadata_uploaded: Mutex<Arc<OnceCell<()>>>,
    /// Archives of shared state caches, once they were searched.
    pub(super) archives: OnceCell<KnownArchives>,
}

/// Task that is ready to be executed, with the inputs that the schedule knows.
pub(super) struct ReadyTask {
    pub(super) task: u32,
    pub(super) taskhash: String,
    pub(super) inputs: TaskInputs,
    /// Results of [`TaskInputs::required`].
    pub(super) results: BTreeMap<u32, Arc<TaskResult>>,
    pub(super) task_file: Bytes,
    pub(super) dependencies_file: Bytes,
    /// Executes the task although the server may have a result of its Action.
    pub(super) is_forced: bool,
    /// Time that the build still takes from its start on.
    pub(super) remaining_path: Duration,
    /// Restores the result from its shared state archive.
    pub(super) is_restore: bool,
}

/// Trees of an input root that are large and that few workers have: the private trees of the recipe, which the task before has
/// left, then what other recipes have published.
fn largest_trees(
    inputs: &TaskInputs,
    results: &BTreeMap<u32, Arc<TaskResult>>,
    private_trees: &BTreeMap<String, Digest>,
) -> Vec<Digest> {
    let components = inputs.components.iter();
    let components = components.filter_map(|component| results.get(component));
    let published = components.flat_map(|result| result.outputs.values());
    let published = published.filter_map(|node| match node {
        Node::Stored(digest) => Some(*digest),
        _ => None,
    });
    let trees = private_trees.values().copied().chain(published);
    trees.take(MAX_INPUT_TREES).collect()
}

impl BuildContext {
    /// Executes one task and records its result.
    pub(super) async fn execute(&self, ready: ReadyTask) -> Result<TaskResult, BuildError> {
        let name = self.index.display_name(ready.task);
        let (recipe, task) = (self.index.recipe(ready.task), self.index.task(ready.task));
        self.upload_metadata(ready.task).await?;
        let directories = self.directories(&ready).await?;
        let result = |task: u32| &*ready.results[&task];
        let trees_of = |recipe, sources| {
            private_trees(recipe, sources, &result, &directories).map_err(|source| BuildError::PrivateTree {
                task: name.clone(),
                source,
            })
        };
        let private = trees_of(recipe, &ready.inputs.own)?;
        let before = roots(&private);
        let mut staged = private;
        for (foreign, sources) in &ready.inputs.foreign {
            let mut trees = trees_of(&self.index.graph().recipes[*foreign as usize], sources)?;
            trees.remove(UNDECLARED_FILES);
            staged.extend(trees);
        }
        let mut input_files = self.input_files(ready.task).await?;
        if ready.is_restore {
            input_files.extend(self.archive_files(ready.task, &ready.taskhash).await?);
        }
        let fixed = FixedInputs {
            metadata: self.inputs.metadata,
            files: vec![
                ("bitzel/task.json", ready.task_file),
                ("bitzel/dependencies.json", ready.dependencies_file),
            ],
            stored: input_files
                .iter()
                .map(|file| (file.path.clone(), file.digest))
                .collect(),
        };
        let private_trees = roots(&staged);
        let root = input_root(
            &self.index,
            &ready.inputs,
            fixed,
            &private_trees,
            &result,
            &directories,
        )
        .map_err(|source| BuildError::InputRoot {
            task: name.clone(),
            source,
        })?;
        let action = if ready.is_restore {
            setscene_action(&self.environment, recipe, task, root.root)
        } else {
            task_action(&self.environment, recipe, task, root.root)
        };
        let generated = staged
            .into_values()
            .flat_map(|tree| tree.blobs)
            .chain(root.blobs)
            .chain(action.blobs);
        let blobs = generated.map(|(digest, bytes)| (digest, BlobSource::Bytes(bytes)));
        let files = input_files.into_iter().map(|file| (file.digest, file.source));
        upload_missing(&*self.store, blobs.chain(files))
            .await
            .map_err(BuildError::store(format!("uploading the inputs of {name}")))?;
        let input_trees = largest_trees(&ready.inputs, &ready.results, &private_trees);
        let started = Instant::now();
        let response = self
            .executions
            .execute(ExecutionRequest {
                action: action.action,
                remaining_path: ready.remaining_path,
                input_trees: &input_trees,
                skip_cache_lookup: always_runs(task) || ready.is_forced,
                task: &name,
            })
            .await
            .map_err(|status| BuildError::execution(&name, status))?;
        let milliseconds = started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        let action_result = self.check(ready.task, response).await?;
        let outputs = outputs(&action_result).map_err(|source| BuildError::Result {
            task: name.clone(),
            source,
        })?;
        let mut result = TaskResult {
            unihash: ready.taskhash.clone(),
            outputs,
            before,
            milliseconds,
            restored: ready.is_restore,
        };
        check_outputs(task, &name, &result)?;
        result.unihash = self
            .settle_unihash(ready.task, &ready.taskhash, &result, &action_result)
            .await?;
        let (recorded, ()) = tokio::join!(
            self.record(ready.task, &ready.taskhash, &result, &action_result),
            self.record_duration(ready.task, milliseconds),
        );
        recorded?;
        Ok(result)
    }

    /// Returns the result if the Action ran and the task succeeded.
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
        self.put_result(
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
}

/// Checks that all published paths of a task exist. Other tasks would be built without a missing one.
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
