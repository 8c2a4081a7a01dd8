//! Action of a task.

use bitzel_proto::Digest;
use bitzel_proto::graph::{Recipe, Task};
use bitzel_proto::reapi::command::{EnvironmentVariable, OutputDirectoryFormat};
use bitzel_proto::reapi::{Action, Command};
use bytes::Bytes;

use super::private_tree::private_tree_paths;
use super::signature::{Environment, blob};
use super::task_result::LOG_PATH;

/// Environment of the runner. BitBake empties the environment and sets the variables that the metadata exports, so these
/// reach only the runner itself. The fixed hash seed keeps the order of Python's sets, and with it the outputs, the same.
const RUNNER_ENVIRONMENT: [(&str, &str); 6] = [
    ("HOME", "/tmp"),
    ("LANG", "C.UTF-8"),
    ("LC_ALL", "C.UTF-8"),
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("PYTHONDONTWRITEBYTECODE", "1"),
    ("PYTHONHASHSEED", "0"),
];

/// Path of the runner, relative to /work.
const RUNNER_PATH: &str = "bitzel/run_task.py";

/// An Action and its Command, ready to be executed.
#[derive(Debug, Clone)]
pub struct TaskAction {
    /// Digest of the Action.
    pub action: Digest,
    /// Action and Command.
    pub blobs: [(Digest, Bytes); 2],
}

/// True if a task may use the network. The flag alone is not enough: OE's sstate.bbclass sets it on every sstate task.
pub fn may_use_network(task: &Task) -> bool {
    task.name == "do_fetch"
        || task.name == "do_fetchall"
        || (task.network && !is_sstate(task) && !task.setscene)
}

/// True if the task publishes through shared state directories.
pub fn is_sstate(task: &Task) -> bool {
    !task.sstate_directories.is_empty() || !task.sstate_plain_directories.is_empty()
}

/// True if the task runs in every build: `[nostamp]`, or tainted by a forced run.
pub fn always_runs(task: &Task) -> bool {
    !task.noexec && (task.nostamp || !task.taint.is_empty())
}

/// Creates the Action that runs `task` in `input_root`.
pub fn task_action(
    environment: &Environment,
    recipe: &Recipe,
    task: &Task,
    input_root: Digest,
) -> TaskAction {
    let network: &[(&str, &str)] = if may_use_network(task) {
        &[("network", "on")]
    } else {
        &[]
    };
    let properties = [network, &[("undeclared-writes", "error")]].concat();
    action(environment, recipe, task, input_root, &properties)
}

/// Creates the Action that restores the result of `task` from the shared state archive in `input_root`.
///
/// BitBake's code sets the time of the archive, which is an input, so undeclared writes are no error.
pub fn setscene_action(
    environment: &Environment,
    recipe: &Recipe,
    task: &Task,
    input_root: Digest,
) -> TaskAction {
    action(environment, recipe, task, input_root, &[])
}

fn action(
    environment: &Environment,
    recipe: &Recipe,
    task: &Task,
    input_root: Digest,
    properties: &[(&str, &str)],
) -> TaskAction {
    let mut output_paths: Vec<String> = private_tree_paths(recipe).map(str::to_owned).collect();
    output_paths.extend(task.published_paths.iter().cloned());
    output_paths.push(LOG_PATH.to_owned());
    output_paths.sort();
    output_paths.dedup();
    let command = blob(&Command {
        arguments: ["/usr/bin/python3", RUNNER_PATH].map(str::to_owned).to_vec(),
        environment_variables: RUNNER_ENVIRONMENT
            .map(|(name, value)| EnvironmentVariable {
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .to_vec(),
        output_paths,
        // Modes and times are kept from task to task: make and other tools decide by them which files are up to date.
        output_node_properties: ["mtime", "unix_mode"].map(str::to_owned).to_vec(),
        // Directories too, because later input roots refer to subtrees. Trees are for caches that check completeness.
        output_directory_format: OutputDirectoryFormat::TreeAndDirectory.into(),
        ..Command::default()
    });
    let action = blob(&Action {
        command_digest: Some(command.0.to_wire()),
        input_root_digest: Some(input_root.to_wire()),
        do_not_cache: always_runs(task),
        platform: Some(environment.platform(properties)),
        ..Action::default()
    });
    TaskAction {
        action: action.0,
        blobs: [action, command],
    }
}

#[cfg(test)]
mod tests;
