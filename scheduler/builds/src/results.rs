//! Results of a build that has ended, from which any client places the output.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bitzel_cas::{BlobStore, upload_missing};
use bitzel_graph::output;
use bitzel_graph::plan::task_index::TaskIndex;
use bitzel_graph::plan::task_result::TaskResult;
use bitzel_graph::plan::tree::DIGEST_FUNCTION;
use bitzel_graph::walk::BuildError;
use bitzel_proto::Digest;
use bitzel_proto::builds::{BuildPlan, BuildResults, TaskOutputs};
use bitzel_proto::graph::TaskGraph;

use crate::error::BuildsError;
use crate::handed_over::read;

/// Maximum size of messages that a client reads. They are its own, or those of somebody on its instance.
const MAX_MESSAGE_BYTES: u64 = 1 << 30;

/// Writes results to the store, and returns their digest.
pub(crate) async fn write_results(
    store: &dyn BlobStore,
    results: &BTreeMap<u32, Arc<TaskResult>>,
) -> Result<Digest, BuildsError> {
    let tasks = results.iter().map(|(task, result)| TaskOutputs {
        task: *task,
        result: Some(result.to_outputs()),
    });
    let results = BuildResults {
        tasks: tasks.collect(),
    };
    let (digest, bytes) = Digest::of_message(DIGEST_FUNCTION, &results);
    let blob = (digest, bitzel_cas::BlobSource::Bytes(bytes.into()));
    let written = upload_missing(store, [blob]).await;
    written.map_err(BuildsError::store("writing the results of the build"))?;
    Ok(digest)
}

/// Places the output of a build that has ended below `destination`, as the build itself does without a hand-over.
pub async fn place_outputs(
    store: &Arc<dyn BlobStore>,
    plan: Digest,
    results: Digest,
    destination: &Path,
) -> Result<(), BuildsError> {
    let plan: BuildPlan = read(&**store, "plan", plan, MAX_MESSAGE_BYTES).await?;
    let graph = Digest::from_wire_field(DIGEST_FUNCTION, plan.graph.as_ref());
    let graph = graph.map_err(BuildsError::digest("BuildPlan.graph"))?;
    let graph: TaskGraph = read(&**store, "task graph", graph, MAX_MESSAGE_BYTES).await?;
    let index = TaskIndex::new(graph).map_err(BuildError::from)?;
    let found: BuildResults = read(&**store, "results", results, MAX_MESSAGE_BYTES).await?;
    let mut results = BTreeMap::new();
    for TaskOutputs { task, result } in found.tasks {
        if !index.tasks().contains(&task) {
            return Err(BuildsError::Unsuitable(
                "the results are those of another graph".to_owned(),
            ));
        }
        let result = TaskResult::from_action_result(&result.unwrap_or_default());
        let result = result.map_err(|source| BuildError::Result {
            task: index.display_name(task),
            source,
        })?;
        results.insert(task, Arc::new(result));
    }
    let lost = output::place_outputs(&index, &results, store, destination).await?;
    match lost.into_iter().next() {
        Some(lost) => Err(lost.error.into()),
        None => Ok(()),
    }
}
