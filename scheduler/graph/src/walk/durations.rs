//! Durations of tasks in the action cache, for the order of later builds.

use std::time::Duration;

use bitzel_proto::google::protobuf;
use bitzel_proto::reapi::{ActionResult, ExecutedActionMetadata};

use super::task_execution::BuildContext;
use crate::plan::signature::duration_key;

impl BuildContext {
    /// Time that the last run of a task took in any build. `None` if it is not known: it only decides an order.
    pub(super) async fn last_duration(&self, task: u32) -> Option<Duration> {
        let key = duration_key(&self.environment, self.index.recipe(task), self.index.task(task));
        let recorded = self.get_result(key, task).await.ok()??;
        let duration = recorded.execution_metadata?.virtual_execution_duration?;
        let seconds = u64::try_from(duration.seconds).ok()?;
        Some(Duration::new(seconds, u32::try_from(duration.nanos).ok()?))
    }

    /// Records the time that a task took. A build does not fail if that fails.
    pub(super) async fn record_duration(&self, task: u32, milliseconds: u64) {
        let key = duration_key(&self.environment, self.index.recipe(task), self.index.task(task));
        let duration = protobuf::Duration {
            seconds: i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX),
            nanos: i32::try_from(milliseconds % 1000 * 1_000_000).unwrap_or(0),
        };
        let result = ActionResult {
            execution_metadata: Some(ExecutedActionMetadata {
                virtual_execution_duration: Some(duration),
                ..ExecutedActionMetadata::default()
            }),
            ..ActionResult::default()
        };
        if let Err(error) = self.put_result(key, result, task).await {
            tracing::debug!(%error, "the duration of a task is not recorded");
        }
    }
}
