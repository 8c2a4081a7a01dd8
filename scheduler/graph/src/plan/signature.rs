//! The two keys under which results are found again.
//!
//! REAPI knows one key, the digest of an Action, and that digest changes with every byte of the input root. `BitBake`
//! knows better: its signature covers what decides a task's result. So results are also stored under Actions that are
//! never run, made of the signature alone.

use bitzel_proto::graph::{Recipe, Task, TaskGraph};
use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{Action, Command, Platform};
use bitzel_proto::{Digest, reapi};
use bytes::Bytes;
use prost::Message;

use super::tree::FUNCTION;

/// Raised when the meaning of stored results changes: older entries are then no longer found.
const FORMAT: &str = "1";

/// What decides a result beside the signature: everything that is the same for a whole build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Platform properties of the workers, sorted by name.
    pub platform: Vec<(String, String)>,
    /// Version of the one-task runner: digest of its files.
    pub runner_version: String,
    /// BitBake's version, whose code runs the tasks.
    pub bitbake_version: String,
}

impl Environment {
    /// What the results of a graph depend on, on workers with these platform properties.
    pub fn of_graph(graph: &TaskGraph, platform: Vec<(String, String)>) -> Self {
        let runner_version = graph
            .settings
            .as_ref()
            .map(|settings| settings.runner_version.clone());
        Self {
            platform,
            runner_version: runner_version.unwrap_or_default(),
            bitbake_version: graph.bitbake_version.clone(),
        }
    }

    pub(super) fn platform(&self, further: &[(&str, &str)]) -> Platform {
        let own = self
            .platform
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let mut properties: Vec<Property> = own
            .chain(further.iter().copied())
            .map(|(name, value)| Property {
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .collect();
        properties.sort_by(|one, other| (&one.name, &one.value).cmp(&(&other.name, &other.value)));
        Platform { properties }
    }
}

/// The key of a task's result by signature. It can be computed before any input exists.
///
/// The place of the work tree and the task's name are part of it because BitBake's hash leaves them out
/// (`BB_BASEHASH_IGNORE_VARS` has WORKDIR) and they decide where the outputs lie.
pub fn signature_key(environment: &Environment, recipe: &Recipe, task: &Task, taskhash: &str) -> Digest {
    key(
        environment,
        "bitzel-signature",
        &recipe.work_directory,
        &task.name,
        taskhash,
    )
}

/// The key under which the first task that left these outputs is remembered.
pub fn outputs_key(environment: &Environment, recipe: &Recipe, task: &Task, outputs: &Digest) -> Digest {
    key(
        environment,
        "bitzel-outputs",
        &recipe.work_directory,
        &task.name,
        &outputs.to_string(),
    )
}

/// The key of the last run of a task that has no entry by signature: it failed, or it runs in every build. Only for
/// people who want to see its log; nothing is ever reused from here.
pub fn last_run_key(environment: &Environment, recipe: &Recipe, task: &Task) -> Digest {
    key(
        environment,
        "bitzel-last-run",
        &recipe.work_directory,
        &task.name,
        &task.basehash,
    )
}

/// The digest of an Action that is never run and made of `hash` and what else tells results apart.
fn key(environment: &Environment, kind: &str, place: &str, task: &str, hash: &str) -> Digest {
    let arguments = [
        kind,
        FORMAT,
        &environment.runner_version,
        &environment.bitbake_version,
        place,
        task,
        hash,
    ];
    let (command, _) = blob(&Command {
        arguments: arguments.map(str::to_owned).to_vec(),
        ..Command::default()
    });
    let (root, _) = blob(&reapi::Directory::default());
    let action = Action {
        command_digest: Some(command.to_wire()),
        input_root_digest: Some(root.to_wire()),
        platform: Some(environment.platform(&[])),
        ..Action::default()
    };
    blob(&action).0
}

/// A message as a blob.
pub fn blob(message: &impl Message) -> (Digest, Bytes) {
    let bytes = Bytes::from(message.encode_to_vec());
    (FUNCTION.digest(&bytes), bytes)
}

#[cfg(test)]
mod tests;
