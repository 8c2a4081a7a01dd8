//! Logs of tasks.

use bitzel_cas::blob_store::read_whole;
use bitzel_cas::{ActionCache, BlobStore, DirectoryCache, fetch_directory_tree};
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};

use super::error::BuildError;
use crate::plan::signature::{Environment, last_run_key, signature_key};
use crate::plan::task_index::TaskIndex;
use crate::plan::task_result::{LOG_PATH, restore_output_roots};
use crate::plan::tree::DIGEST_FUNCTION;

/// Maximum number of lines that are shown of the log of a failed task.
const MAX_TAIL_LINES: usize = 60;
/// Maximum size of a log in bytes. The start of a longer log is left out.
const MAX_LOG_BYTES: usize = 16 << 20;
/// Size of a directory cache that keeps nothing, for a single read.
const NO_CACHE_BYTES: u64 = 0;

/// Finds the log of the task `name` (`zlib:do_compile`, or `zlib:compile`): of the run whose result a build of this graph
/// uses, else of its last run.
pub async fn find_log(
    index: &TaskIndex,
    environment: &Environment,
    store: &dyn BlobStore,
    action_cache: &dyn ActionCache,
    instance: &InstanceName,
    name: &str,
) -> Result<String, BuildError> {
    let task = find_task(index, name).ok_or_else(|| BuildError::NoSuchTask(name.to_owned()))?;
    let (recipe, message) = (index.recipe(task), index.task(task));
    let keys = [
        signature_key(environment, recipe, message, &message.taskhash),
        last_run_key(environment, recipe, message),
    ];
    for key in keys {
        let found = action_cache
            .get(instance, key)
            .await
            .map_err(BuildError::store(format!("looking for {name}")))?;
        if let Some(mut result) = found {
            restore_output_roots(&mut result);
            let text = task_log(store, &result, &message.name).await;
            return text.map_err(BuildError::store(format!("reading the log of {name}")));
        }
    }
    Err(BuildError::NoLog(name.to_owned()))
}

/// Finds the task of that name, with or without the prefix `do_`.
fn find_task(index: &TaskIndex, name: &str) -> Option<u32> {
    let (recipe, task) = name.rsplit_once(':')?;
    let full = format!("{recipe}:do_{task}");
    index.tasks().find(|task| {
        let display = index.display_name(*task);
        display == name || display == full
    })
}

/// Reads the text of a task's log: BitBake's own log file, else the output of the runner.
pub(super) async fn task_log(
    store: &dyn BlobStore,
    result: &ActionResult,
    task: &str,
) -> Result<String, bitzel_cas::Error> {
    let mut text = String::new();
    if let Some(digest) = log_file(store, result, task).await? {
        text = read_text(store, digest).await?;
    }
    if text.trim().is_empty() {
        for (raw, digest) in [
            (&result.stdout_raw, &result.stdout_digest),
            (&result.stderr_raw, &result.stderr_digest),
        ] {
            let digest = digest
                .as_ref()
                .and_then(|digest| Digest::from_wire(DIGEST_FUNCTION, digest).ok());
            match digest {
                _ if !raw.is_empty() => text.push_str(&String::from_utf8_lossy(raw)),
                Some(digest) => text.push_str(&read_text(store, digest).await?),
                None => {}
            }
        }
    }
    Ok(text)
}

/// Finds the file `log.{task}.…` in the task's log directory.
async fn log_file(
    store: &dyn BlobStore,
    result: &ActionResult,
    task: &str,
) -> Result<Option<Digest>, bitzel_cas::Error> {
    let directory = result
        .output_directories
        .iter()
        .find(|directory| directory.path == LOG_PATH);
    let root = directory.and_then(|directory| directory.root_directory_digest.as_ref());
    let Some(root) = root.and_then(|root| Digest::from_wire(DIGEST_FUNCTION, root).ok()) else {
        return Ok(None);
    };
    let tree = fetch_directory_tree(store, root, &DirectoryCache::new(NO_CACHE_BYTES)).await?;
    let prefix = format!("log.{task}");
    let matches = |name: &str| {
        name.strip_prefix(&prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let files = tree
        .directories
        .get(&root)
        .into_iter()
        .flat_map(|directory| &directory.files);
    let newest = files
        .filter(|file| matches(&file.name))
        .max_by(|one, other| one.name.cmp(&other.name));
    Ok(newest.and_then(|file| Digest::from_wire_field(DIGEST_FUNCTION, file.digest.as_ref()).ok()))
}

async fn read_text(store: &dyn BlobStore, digest: Digest) -> Result<String, bitzel_cas::Error> {
    let bytes = read_whole(store, digest).await?;
    let start = bytes.len().saturating_sub(MAX_LOG_BYTES);
    Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
}

/// Returns the last lines of a text.
pub(super) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(MAX_TAIL_LINES)..].join("\n")
}
