//! Keys of results in the action cache.
//!
//! REAPI has one key, the digest of an Action, and that digest changes with every byte of the input root. A signature of
//! `BitBake` covers only what decides a task's result. So results are also stored under the digests of Actions that are
//! never run and that hold the signature.

use bitzel_proto::graph::{Recipe, Task, TaskGraph};
use bitzel_proto::platform_property::{IMAGE_ROOT_IDENTITY, ROOT_IDENTITY, ROOT_IMAGE};
use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{Action, Command, Platform};
use bitzel_proto::{Digest, reapi};
use bytes::Bytes;
use prost::Message;

use super::tree::DIGEST_FUNCTION;

/// Version of the meaning of stored results. With a new version, older results are no longer found.
///
/// 2: the platform holds the identity of the root file system.
const RESULT_FORMAT_VERSION: &str = "2";

/// Root file system in which all tasks of a build run. It is a part of every key and of every Action: native programs work
/// only in a root like the one that they were built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskRoot {
    /// The root of a worker that offers this identity.
    OfWorker(String),
    /// The image root with this digest.
    Image(Digest),
}

impl TaskRoot {
    /// Platform properties that ask for the root.
    fn properties(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::OfWorker(identity) => vec![(ROOT_IDENTITY, identity.clone())],
            Self::Image(digest) => vec![
                (ROOT_IDENTITY, IMAGE_ROOT_IDENTITY.to_owned()),
                (ROOT_IMAGE, digest.to_string()),
            ],
        }
    }
}

/// Properties of a whole build that decide its results beside the signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Platform properties of the workers, without the identity of their root.
    pub platform: Vec<(String, String)>,
    /// Root file system in which all tasks run.
    pub root: TaskRoot,
    /// Version of the one-task runner: digest of its files.
    pub runner_version: String,
    /// Version of BitBake, whose code runs the tasks.
    pub bitbake_version: String,
}

impl Environment {
    /// Environment of a graph's tasks on workers with these platform properties and this root file system.
    pub fn of_graph(graph: &TaskGraph, platform: Vec<(String, String)>, root: TaskRoot) -> Self {
        let runner_version = graph
            .settings
            .as_ref()
            .map(|settings| settings.runner_version.clone());
        Self {
            platform,
            root,
            runner_version: runner_version.unwrap_or_default(),
            bitbake_version: graph.bitbake_version.clone(),
        }
    }

    /// Platform of an Action with `further` properties.
    pub(super) fn platform(&self, further: &[(&str, &str)]) -> Platform {
        let own = self
            .platform
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let root = self.root.properties();
        let root = root.iter().map(|(name, value)| (*name, value.as_str()));
        let mut properties: Vec<Property> = own
            .chain(root)
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

/// Signature key of a task's result. It can be computed before any input exists.
///
/// The path of WORKDIR and the task's name are part of it, because they decide the paths of the outputs and BitBake's hash
/// leaves them out (`BB_BASEHASH_IGNORE_VARS` has WORKDIR).
pub fn signature_key(environment: &Environment, recipe: &Recipe, task: &Task, taskhash: &str) -> Digest {
    key(
        environment,
        "bitzel-signature",
        &recipe.work_directory,
        &task.name,
        taskhash,
    )
}

/// Outputs key: leads to the first run of the task that left these outputs.
pub fn outputs_key(environment: &Environment, recipe: &Recipe, task: &Task, outputs: &Digest) -> Digest {
    key(
        environment,
        "bitzel-outputs",
        &recipe.work_directory,
        &task.name,
        &outputs.to_string(),
    )
}

/// Key of the last run of a task that has no result by signature: it failed, or it runs in every build. Only for people
/// who want to see its log; the result is never reused.
pub fn last_run_key(environment: &Environment, recipe: &Recipe, task: &Task) -> Digest {
    key(
        environment,
        "bitzel-last-run",
        &recipe.work_directory,
        &task.name,
        &task.basehash,
    )
}

/// Key of the time that the last run of a task took, whatever its signature was.
pub fn duration_key(environment: &Environment, recipe: &Recipe, task: &Task) -> Digest {
    key(
        environment,
        "bitzel-duration",
        &recipe.work_directory,
        &task.name,
        "",
    )
}

/// Digest of an Action that is never run and that holds `hash` with all other parts of a key.
fn key(environment: &Environment, kind: &str, work_directory: &str, task: &str, hash: &str) -> Digest {
    let arguments = [
        kind,
        RESULT_FORMAT_VERSION,
        &environment.runner_version,
        &environment.bitbake_version,
        work_directory,
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

/// Encodes a message as a blob.
pub fn blob(message: &impl Message) -> (Digest, Bytes) {
    let (digest, bytes) = Digest::of_message(DIGEST_FUNCTION, message);
    (digest, bytes.into())
}

#[cfg(test)]
mod tests;
