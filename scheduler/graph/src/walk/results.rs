//! Results in the action cache: look-ups and records.

use bitzel_proto::Digest;
use bitzel_proto::reapi::ActionResult;

use super::error::BuildError;
use super::task_execution::BuildContext;
use crate::plan::output_equivalence::outputs_digest;
use crate::plan::signature::{last_run_key, outputs_key, signature_key};
use crate::plan::task_action::always_runs;
use crate::plan::task_result::{LOG_PATH, TaskResult, restore_output_roots};
use crate::plan::tree::{DIGEST_FUNCTION, Directories};

impl BuildContext {
    /// Looks a task's result up by signature. `None` if the action cache has no valid one.
    pub(super) async fn look_up(&self, task: u32, taskhash: &str) -> Result<Option<TaskResult>, BuildError> {
        let key = signature_key(
            &self.environment,
            self.index.recipe(task),
            self.index.task(task),
            taskhash,
        );
        let recorded = self.get_result(key, task).await?;
        Ok(recorded.and_then(|recorded| {
            TaskResult::from_action_result(&recorded)
                .inspect_err(|error| tracing::warn!(%error, "ignoring a malformed result of {}", self.index.display_name(task)))
                .ok()
        }))
    }

    /// Records a found result under the signature of the export too, so that the next build finds it at once.
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
        let Some(recorded) = self.get_result(key, task).await? else {
            return Ok(());
        };
        let alias = signature_key(&self.environment, recipe, message, &message.taskhash);
        self.put_result(alias, result.to_action_result(&recorded), task)
            .await
    }

    /// Finds the unihash of a new result: that of the first run that left equal outputs, else its own taskhash.
    pub(super) async fn settle_unihash(
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
            .filter(|(path, _)| *path != LOG_PATH)
            .map(|(_, node)| node)
        {
            self.fetch(node, &name, &mut directories).await?;
        }
        let digest = outputs_digest(
            recipe,
            message,
            result,
            &directories,
            &mut self.digests_without_times.lock(),
        )
        .map_err(|source| BuildError::Outputs { task: name, source })?;
        let key = outputs_key(&self.environment, recipe, message, &digest);
        let first = self
            .get_result(key, task)
            .await?
            .and_then(|recorded| TaskResult::from_action_result(&recorded).ok());
        match first {
            Some(first) => Ok(first.unihash),
            None => {
                let unihash = if always_runs(message) {
                    // Its taskhash is that of every build with the same exported graph, while its outputs may differ: what
                    // do_fetch of cve-update-nvd2-native found.
                    let identity = format!("{taskhash} {}", digest.hash_hex());
                    DIGEST_FUNCTION.digest(identity.as_bytes()).hash_hex()
                } else {
                    taskhash.to_owned()
                };
                let own = TaskResult {
                    unihash: unihash.clone(),
                    ..result.clone()
                };
                self.put_result(key, own.to_action_result(action_result), task)
                    .await?;
                Ok(unihash)
            }
        }
    }

    /// Records the result under its signature and under that of the export.
    pub(super) async fn record(
        &self,
        task: u32,
        taskhash: &str,
        result: &TaskResult,
        action_result: &ActionResult,
    ) -> Result<(), BuildError> {
        let (recipe, message) = (self.index.recipe(task), self.index.task(task));
        let recorded = result.to_action_result(action_result);
        if always_runs(message) {
            return self
                .put_result(last_run_key(&self.environment, recipe, message), recorded, task)
                .await;
        }
        let key = signature_key(&self.environment, recipe, message, taskhash);
        if message.taskhash != taskhash {
            let alias = signature_key(&self.environment, recipe, message, &message.taskhash);
            self.put_result(alias, recorded.clone(), task).await?;
        }
        self.put_result(key, recorded, task).await
    }

    /// Reads a result from the action cache.
    pub(super) async fn get_result(
        &self,
        key: Digest,
        task: u32,
    ) -> Result<Option<ActionResult>, BuildError> {
        let context = || format!("looking for a result of {}", self.index.display_name(task));
        let mut found = self
            .action_cache
            .get(&self.instance, key)
            .await
            .map_err(|error| BuildError::store(context())(error))?;
        if let Some(recorded) = &mut found {
            restore_output_roots(recorded);
        }
        Ok(found)
    }

    /// Writes a result to the action cache.
    pub(super) async fn put_result(
        &self,
        key: Digest,
        result: ActionResult,
        task: u32,
    ) -> Result<(), BuildError> {
        let context = || format!("recording the result of {}", self.index.display_name(task));
        self.action_cache
            .put(&self.instance, key, result)
            .await
            .map_err(|error| BuildError::store(context())(error))
    }
}
