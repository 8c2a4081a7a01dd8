//! Runs the command of an Action until it exits, times out or is cancelled.

use std::time::{Duration, Instant};

use bitzel_proto::platform_property::RootFileSystem;
use bitzel_proto::reapi::{ActionResult, Command};
use bitzel_proto::worker::ResourceUsage;
use bitzel_proto::{google, resource_usage, timestamp::now};

use super::execution::{Execution, metadata};
use crate::bounds::{Bound, BoundReached};
use crate::error::Error;
use crate::input_root::InputRoot;
use crate::sandbox::{Sandbox, SandboxedCommand};
use crate::user_access::UserAccess;

/// Exit code of a command that timed out or reached a bound: a shell reports it for a process that SIGKILL ended.
const KILLED_EXIT_CODE: i32 = 128 + 9;

/// Runner of commands in sandboxes.
pub(super) struct CommandRunner {
    sandbox: Sandbox,
    /// Variables in addition to those of Commands.
    environment: Vec<(String, String)>,
}

/// The end of a command.
pub(super) enum CommandEnd {
    Exited(i32),
    TimedOut,
    Cancelled,
    BoundReached(BoundReached),
}

impl CommandRunner {
    pub(super) fn new(sandbox: Sandbox, user_access: Option<UserAccess>) -> Self {
        let environment = user_access.unwrap_or_default().environment;
        Self { sandbox, environment }
    }

    /// Ends the idle launchers of image roots. False if there are none.
    pub(super) async fn release_image_roots(&self) -> Result<bool, Error> {
        self.sandbox.release_image_roots().await
    }

    /// Runs the command and records its exit code and its times in `result`.
    pub(super) async fn run(
        &self,
        execution: &Execution<'_>,
        input_root: &InputRoot,
        result: &mut ActionResult,
    ) -> Result<CommandEnd, Error> {
        let action = &execution.action;
        let command = SandboxedCommand {
            lower: input_root.lower.clone(),
            arguments: action.command.arguments.clone(),
            environment: [environment_of(&action.command), self.environment.clone()].concat(),
            working_directory: action.working_directory.join("/"),
            network: action.properties.network,
            user_namespaces: action.properties.user_namespaces,
            image_root: execution.image_root.clone(),
            in_input_root: action.properties.root == RootFileSystem::InputRoot,
        };
        metadata(result).execution_start_timestamp = Some(now());
        let start = Instant::now();
        let mut timed_out = false;
        let stop = async {
            tokio::select! {
                () = tokio::time::sleep(action.timeout) => timed_out = true,
                () = execution.request.cancellation.cancelled() => {}
            }
        };
        let mut usage = ResourceUsage::default();
        let exit = self
            .sandbox
            .run_until(&command, &execution.directory, stop, &mut usage)
            .await;
        metadata(result).execution_completed_timestamp = Some(now());
        metadata(result).virtual_execution_duration = Some(to_message(start.elapsed()));
        if let Err(Error::BoundReached(BoundReached {
            bound: Bound::Memory,
            allowed,
            ..
        })) = exit
        {
            usage.memory_bound_bytes = allowed;
        }
        if usage != ResourceUsage::default() {
            resource_usage::record(metadata(result), &usage);
        }
        let exit = match exit {
            Err(Error::BoundReached(reached)) => {
                result.exit_code = KILLED_EXIT_CODE;
                return Ok(CommandEnd::BoundReached(reached));
            }
            other => other?,
        };
        Ok(match exit {
            Some(code) => {
                result.exit_code = code;
                CommandEnd::Exited(code)
            }
            None if timed_out => {
                result.exit_code = KILLED_EXIT_CODE;
                CommandEnd::TimedOut
            }
            None => CommandEnd::Cancelled,
        })
    }
}

fn environment_of(command: &Command) -> Vec<(String, String)> {
    command
        .environment_variables
        .iter()
        .map(|variable| (variable.name.clone(), variable.value.clone()))
        .collect()
}

fn to_message(duration: Duration) -> google::protobuf::Duration {
    google::protobuf::Duration {
        seconds: duration.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().try_into().unwrap_or(0),
    }
}
