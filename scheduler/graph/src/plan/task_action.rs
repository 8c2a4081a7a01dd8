//! The Action of a task.

use bitzel_proto::Digest;
use bitzel_proto::graph::{Recipe, Task};
use bitzel_proto::reapi::command::{EnvironmentVariable, OutputDirectoryFormat};
use bitzel_proto::reapi::{Action, Command};
use bytes::Bytes;

use super::private_tree::private_paths;
use super::signature::{Environment, blob};
use super::task_result::LOG_PATH;

/// What every task's process starts with. BitBake empties the environment and sets what the metadata exports, so
/// this only reaches the runner itself. The fixed hash seed keeps Python's set order, and with it outputs, the same.
const ENVIRONMENT: [(&str, &str); 6] = [
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

/// The runner, relative to /work.
const RUNNER: &str = "bitzel/run_task.py";

/// An Action ready to be executed.
#[derive(Debug, Clone)]
pub struct TaskAction {
    /// Digest of the Action.
    pub action: Digest,
    /// Action and Command.
    pub blobs: [(Digest, Bytes); 2],
}

/// Whether a task may use the network. The flag alone says little: OE's sstate.bbclass sets it on every sstate task.
pub fn may_use_network(task: &Task) -> bool {
    task.name == "do_fetch"
        || task.name == "do_fetchall"
        || (task.network && !is_sstate(task) && !task.setscene)
}

/// Whether the task publishes through shared state directories.
pub fn is_sstate(task: &Task) -> bool {
    !task.sstate_directories.is_empty() || !task.sstate_plain_directories.is_empty()
}

/// Whether the task runs in every build: `[nostamp]`, or tainted by a forced run.
pub fn always_runs(task: &Task) -> bool {
    !task.noexec && (task.nostamp || !task.taint.is_empty())
}

/// The Action that runs `task` in `input_root`.
pub fn task_action(
    environment: &Environment,
    recipe: &Recipe,
    task: &Task,
    input_root: Digest,
) -> TaskAction {
    let mut output_paths: Vec<String> = private_paths(recipe).map(str::to_owned).collect();
    output_paths.extend(task.published_paths.iter().cloned());
    output_paths.push(LOG_PATH.to_owned());
    output_paths.sort();
    output_paths.dedup();
    let command = blob(&Command {
        arguments: ["/usr/bin/python3", RUNNER].map(str::to_owned).to_vec(),
        environment_variables: ENVIRONMENT
            .map(|(name, value)| EnvironmentVariable {
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .to_vec(),
        output_paths,
        // Modes and times survive from task to task: make and friends decide by them what is up to date.
        output_node_properties: ["mtime", "unix_mode"].map(str::to_owned).to_vec(),
        // Directories too, because later input roots refer to subtrees; Trees for caches that check completeness.
        output_directory_format: OutputDirectoryFormat::TreeAndDirectory.into(),
        ..Command::default()
    });
    let network: &[(&str, &str)] = if may_use_network(task) {
        &[("network", "on")]
    } else {
        &[]
    };
    let properties = [network, &[("undeclared-writes", "error")]].concat();
    let action = blob(&Action {
        command_digest: Some(command.0.to_wire()),
        input_root_digest: Some(input_root.to_wire()),
        do_not_cache: always_runs(task),
        platform: Some(environment.platform(&properties)),
        ..Action::default()
    });
    TaskAction {
        action: action.0,
        blobs: [action, command],
    }
}

#[cfg(test)]
mod tests;
