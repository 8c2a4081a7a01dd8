//! Hand-over of a build to the server (`bitzel build --detach`).

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bitzel_builds::hand_over::HandOver;
use bitzel_cas::retry::reconnection_pauses;
use bitzel_graph::plan::task_index::TaskIndex;
use bitzel_graph::walk::{
    BuildConfig, BuildEvent, BuildInputs, Driver, ExecutionRequest, Executions, Outcome, ServerCondition,
};
use bitzel_proto::Digest;
use bitzel_proto::builds::StartBuildRequest;
use bitzel_proto::builds::builds_client::BuildsClient;
use bitzel_proto::reapi::ExecuteResponse;
use tokio::sync::mpsc;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::command_error::CommandError;
use crate::connection::Connection;
use crate::console;
use crate::status_hint::with_status_hint;

/// Sum of the pauses between attempts to hand over.
const RETRY_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest pause before jitter.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(8);

/// Build that is to be handed over.
pub(crate) struct DetachedBuild<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) index: Arc<TaskIndex>,
    pub(crate) inputs: BuildInputs,
    pub(crate) config: BuildConfig,
    /// Maximum number of concurrent executions, if the user has one.
    pub(crate) jobs: Option<usize>,
    /// Targets, for people.
    pub(crate) targets: Vec<String>,
}

impl DetachedBuild<'_> {
    /// Uploads the build and starts it on the server. Prints its name.
    pub(crate) async fn hand_over(self) -> Result<(), CommandError> {
        let environment = self.config.environment.clone();
        let would_run = self.tasks_without_results().await?;
        let hand_over = HandOver {
            index: &self.index,
            inputs: &self.inputs,
            environment: &environment,
            keep_going: self.config.keep_going,
            jobs: self
                .jobs
                .map_or(0, |jobs| u32::try_from(jobs).unwrap_or(u32::MAX)),
            would_run: &would_run,
        };
        let (plan, uploaded) = hand_over
            .upload(&*self.connection.store)
            .await
            .map_err(with_status_hint)?;
        let build = self.start(plan).await?;
        console::print(&format!(
            "the server builds on: at most {} tasks run, {} were uploaded; `bitzel attach {short}` shows the build, and \
             `bitzel cancel {short}` ends it",
            would_run.len(),
            indicatif::HumanBytes(uploaded.bytes),
            short = crate::build_list::short_name(&build),
        ));
        writeln!(io::stdout(), "{build}")?;
        Ok(())
    }

    /// Names of the tasks that have no result. Equal outputs can make some of them unnecessary.
    async fn tasks_without_results(&self) -> Result<BTreeSet<String>, CommandError> {
        let config = BuildConfig {
            dry_run: true,
            output: None,
            ..self.config.clone()
        };
        let (events, mut receiver) = mpsc::unbounded_channel();
        let driver = Driver::new(
            config,
            Arc::clone(&self.index),
            self.inputs.clone(),
            self.connection.store.clone(),
            self.connection.action_cache.clone(),
            Arc::new(NoExecutions),
            events,
        );
        let collect = async {
            let (mut names, mut failure) = (BTreeSet::new(), None);
            while let Some(event) = receiver.recv().await {
                match event {
                    BuildEvent::TaskFinished {
                        recipe,
                        task,
                        outcome: Outcome::WouldRun,
                        ..
                    } => {
                        names.insert(format!("{recipe}:{task}"));
                    }
                    BuildEvent::TaskFinished {
                        outcome: Outcome::Failed,
                        error,
                        ..
                    } => failure = error,
                    _ => {}
                }
            }
            (names, failure)
        };
        let (looked_up, (names, failure)) = tokio::join!(driver.run(), collect);
        looked_up?;
        match failure {
            Some(failure) => Err(CommandError::new(failure).context("the results cannot be looked up")),
            None => Ok(names),
        }
    }

    /// Starts the build, and returns its name. A repeated call names the same build.
    async fn start(&self, plan: Digest) -> Result<String, CommandError> {
        let request = StartBuildRequest {
            instance_name: self.connection.instance.to_string(),
            id: Uuid::new_v4().to_string(),
            plan: Some(plan.to_wire()),
            targets: self.targets.clone(),
        };
        let mut builds = BuildsClient::new(self.connection.channel.clone());
        let mut pauses = reconnection_pauses(MAX_RETRY_PAUSE);
        let mut remaining = RETRY_TIMEOUT;
        loop {
            let status = match builds.start_build(request.clone()).await {
                Ok(started) => return Ok(started.into_inner().build.unwrap_or_default().id),
                Err(status) => status,
            };
            let is_outage = ServerCondition::of_status(&status) == Some(ServerCondition::Unreachable);
            if !is_outage || remaining.is_zero() {
                return Err(explained(status));
            }
            let pause = pauses.next().unwrap_or(MAX_RETRY_PAUSE).min(remaining);
            remaining -= pause;
            tokio::time::sleep(pause).await;
        }
    }
}

/// Error of a call of the Builds service, with the next step.
pub(crate) fn explained(status: Status) -> CommandError {
    match status.code() {
        Code::Unimplemented => CommandError::from(status)
            .context("this server does not walk builds")
            .hint(
                "build without --detach: only `bitzel serve` with execution, since version 0.1, can do that",
            ),
        Code::ResourceExhausted => CommandError::from(status)
            .hint("`bitzel builds` lists the running builds, `bitzel cancel BUILD` ends one"),
        _ => with_status_hint(status),
    }
}

/// Executions of a dry run: there are none.
struct NoExecutions;

#[async_trait]
impl Executions for NoExecutions {
    async fn execute(&self, _: ExecutionRequest<'_>) -> Result<ExecuteResponse, Status> {
        Err(Status::internal("a dry run executes nothing"))
    }
}
