//! Driver of a build: carries out the steps of the schedule.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitzel_cas::{ActionCache, BlobStore, DirectoryCache};
use bitzel_proto::InstanceName;
use bitzel_proto::{find_status, with_causes};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinSet;
use tonic::Status;
use tracing::{Instrument as _, info_span};

use super::build_files::BuildInputs;
use super::critical_path::critical_path;
use super::error::BuildError;
use super::event::{BuildEvent, Outcome, Summary};
use super::executions::Executions;
use super::remaining_paths::RemainingPaths;
use super::schedule::{Completion, Schedule, Step};
use super::task_execution::{BuildContext, ReadyTask};
use crate::output::{LostOutputs, place_build_directory, place_outputs, results_to_place};
use crate::plan::runner_files::{dependencies_file, task_file};
use crate::plan::signature::Environment;
use crate::plan::task_index::TaskIndex;
use crate::plan::task_result::TaskResult;

/// Maximum number of concurrent look-ups: enough to fill a connection with a long round trip.
const MAX_CONCURRENT_LOOK_UPS: usize = 256;
/// Memory for decoded Directories of a build that is alone, in bytes.
pub const DIRECTORY_CACHE_BYTES: u64 = 128 << 20;

/// Maximum number of times that lost inputs or outputs of one task are built again. More is a failure of the store.
const MAX_RECOVERIES_PER_TASK: usize = 3;

/// Configuration of a build.
#[derive(Debug, Clone)]
pub struct BuildConfig {
    /// Instance of the server.
    pub instance: InstanceName,
    /// Continues with tasks that do not need a failed task.
    pub keep_going: bool,
    /// Maximum number of concurrent executions, at least 1.
    pub jobs: usize,
    /// Properties that decide results beside the signatures.
    pub environment: Environment,
    /// Looks results up and executes nothing.
    pub dry_run: bool,
    /// Directory in which the results of the targets are placed.
    pub output: Option<PathBuf>,
    /// Directory in which the files are placed that handlers of `BitBake`'s server find when a build ends.
    pub build_directory: Option<PathBuf>,
    /// Memory for decoded Directories. Builds of a server share it.
    pub directory_cache: DirectoryCache,
}

/// Outcome of a build whose output is placed elsewhere.
#[derive(Debug)]
pub struct BuildOutcome {
    /// Summary.
    pub summary: Summary,
    /// Results that an output directory gets, by task.
    pub results: BTreeMap<u32, Arc<TaskResult>>,
}

/// A build of one graph.
pub struct Driver {
    context: Arc<BuildContext>,
    schedule: Schedule,
    jobs: usize,
    dry_run: bool,
    output: Option<PathBuf>,
    build_directory: Option<PathBuf>,
    events: mpsc::UnboundedSender<BuildEvent>,
    results: BTreeMap<u32, Arc<TaskResult>>,
    /// Wall time of this build's executions, by task.
    durations: BTreeMap<u32, u64>,
    remaining_paths: RemainingPaths,
    /// Number of times that lost inputs or outputs of a task were built again.
    recoveries: BTreeMap<u32, usize>,
    running: usize,
    failed: usize,
    /// True once the search for shared state archives was reported.
    archives_told: bool,
}

/// Outcome of a look-up.
enum Found {
    /// A result has the signature.
    Result(Box<TaskResult>),
    /// A shared state cache has an archive with the signature.
    Archive,
    Nothing,
}

/// Outcome of a step.
enum StepOutcome {
    LookUp {
        task: u32,
        taskhash: String,
        result: Result<Found, BuildError>,
        /// Time of the last run of a task that was not found, if it is known.
        last_duration: Option<Duration>,
    },
    Restore {
        task: u32,
        milliseconds: u64,
        result: Result<TaskResult, BuildError>,
    },
    Execution {
        task: u32,
        milliseconds: u64,
        result: Result<TaskResult, BuildError>,
    },
}

impl Driver {
    /// Creates a driver for the targets of the index. A build continues without a receiver of its `events`.
    pub fn new(
        config: BuildConfig,
        index: Arc<TaskIndex>,
        inputs: BuildInputs,
        store: Arc<dyn BlobStore>,
        action_cache: Arc<dyn ActionCache>,
        executions: Arc<dyn Executions>,
        events: mpsc::UnboundedSender<BuildEvent>,
    ) -> Self {
        let context = BuildContext {
            index: Arc::clone(&index),
            environment: config.environment,
            inputs,
            store,
            action_cache,
            executions,
            instance: config.instance,
            directory_cache: config.directory_cache,
            digests_without_times: Mutex::default(),
            metadata_uploaded: Mutex::default(),
            archives: OnceCell::new(),
        };
        Self {
            context: Arc::new(context),
            schedule: Schedule::new(index, config.keep_going),
            jobs: config.jobs.max(1),
            dry_run: config.dry_run,
            output: config.output,
            build_directory: config.build_directory,
            events,
            results: BTreeMap::new(),
            durations: BTreeMap::new(),
            remaining_paths: RemainingPaths::default(),
            recoveries: BTreeMap::new(),
            running: 0,
            failed: 0,
            archives_told: false,
        }
    }

    /// Runs the build to its end and places its output. Dropping the future ends all calls, and the server detects that.
    pub async fn run(self) -> Result<Summary, BuildError> {
        Ok(self.run_to_outcome().await?.summary)
    }

    /// As [`Self::run`], with the results from which [`place_outputs`] places the output on another machine.
    pub async fn run_to_outcome(mut self) -> Result<BuildOutcome, BuildError> {
        let started = Instant::now();
        loop {
            self.run_steps().await;
            let seconds = started.elapsed().as_secs_f64();
            if !self.place_outputs().await? {
                self.place_build_directory().await?;
                return Ok(BuildOutcome {
                    summary: self.summary(seconds),
                    results: results_to_place(&self.context.index, &self.results),
                });
            }
        }
    }

    /// Runs steps until there are no more.
    async fn run_steps(&mut self) {
        let mut steps: JoinSet<StepOutcome> = JoinSet::new();
        loop {
            while steps.len() < MAX_CONCURRENT_LOOK_UPS.max(self.jobs) {
                let Some(step) = self.schedule.next_step(self.running < self.jobs) else {
                    break;
                };
                self.start(step, &mut steps);
            }
            self.tell_progress();
            match steps.join_next().await {
                Some(Ok(outcome)) => self.settle(outcome),
                // A step that panicked has no outcome. Its message is printed already.
                Some(Err(error)) => {
                    tracing::error!(%error, "a step of the build panicked");
                    self.failed += 1;
                    break;
                }
                None => break,
            }
        }
    }

    /// Places the results of the targets, if the build has an output directory. True if some of their blobs are not in the
    /// store, and the schedule has steps again to make them anew.
    async fn place_outputs(&mut self) -> Result<bool, BuildError> {
        let Some(output) = &self.output else {
            return Ok(false);
        };
        let lost = place_outputs(&self.context.index, &self.results, &self.context.store, output).await?;
        let is_lost = !lost.is_empty();
        for LostOutputs { task, error } in lost {
            if !self.may_recover(task) {
                return Err(error);
            }
            self.context.forget_uploads();
            let (recipe, name) = self.names(task);
            self.tell(BuildEvent::OutputsLost {
                recipe,
                task: name,
                reason: with_causes(&error),
            });
            self.results.remove(&task);
            self.schedule.outputs_lost(task);
        }
        Ok(is_lost)
    }

    /// Places the files for handlers of the end of a build.
    async fn place_build_directory(&self) -> Result<(), BuildError> {
        let Some(directory) = &self.build_directory else {
            return Ok(());
        };
        let executed = self.durations.keys().copied().collect();
        place_build_directory(
            &self.context.index,
            &self.results,
            &executed,
            &self.context.store,
            directory,
        )
        .await
    }

    /// Starts a step in a background task.
    fn start(&mut self, step: Step, steps: &mut JoinSet<StepOutcome>) {
        let context = Arc::clone(&self.context);
        match step {
            Step::LookUp { task, taskhash } => {
                steps.spawn(async move {
                    let result = look_up(&context, task, &taskhash).await;
                    let last_duration = match &result {
                        Ok(Found::Nothing) => context.last_duration(task).await,
                        _ => None,
                    };
                    StepOutcome::LookUp {
                        task,
                        taskhash,
                        result,
                        last_duration,
                    }
                });
            }
            Step::Restore { task, taskhash } if self.dry_run => {
                self.schedule.restored(task, taskhash);
                self.tell_finished(task, Outcome::Restored, 0, None);
            }
            Step::Restore { task, taskhash } => {
                self.running += 1;
                let ready = self.ready_task(task, taskhash, true);
                steps.spawn(async move {
                    let (result, milliseconds) = timed(context.execute(ready)).await;
                    StepOutcome::Restore {
                        task,
                        milliseconds,
                        result,
                    }
                });
            }
            Step::Execute { task, .. } if self.dry_run => {
                self.schedule.skipped_by_dry_run(task);
                self.tell_finished(task, Outcome::WouldRun, 0, None);
            }
            Step::Execute { task, taskhash } => {
                self.running += 1;
                let (recipe, name) = self.names(task);
                self.tell(BuildEvent::TaskStarted { recipe, task: name });
                let span = info_span!("task", otel.name = self.context.index.display_name(task));
                let ready = self.ready_task(task, taskhash, false);
                let step = async move {
                    let (result, milliseconds) = timed(context.execute(ready)).await;
                    StepOutcome::Execution {
                        task,
                        milliseconds,
                        result,
                    }
                };
                steps.spawn(step.instrument(span));
            }
        }
    }

    /// Collects the inputs of a task that is ready to be executed or restored.
    fn ready_task(&mut self, task: u32, taskhash: String, is_restore: bool) -> ReadyTask {
        let index = &self.context.index;
        let is_needed = |task| self.schedule.completion(task).is_none();
        let remaining_path = self.remaining_paths.of(index, task, is_needed);
        let inputs = self.schedule.inputs(task);
        let known = |needed: u32| {
            self.results
                .get(&needed)
                .map(|result| (needed, Arc::clone(result)))
        };
        ReadyTask {
            results: inputs.required().into_iter().filter_map(known).collect(),
            task_file: task_file(index, task, &taskhash, is_restore),
            dependencies_file: dependencies_file(index, task, &taskhash, &|task| self.schedule.unihash(task)),
            remaining_path,
            is_forced: self.schedule.is_forced(task),
            is_restore,
            task,
            taskhash,
            inputs,
        }
    }

    /// Applies the outcome of a step to the schedule.
    fn settle(&mut self, outcome: StepOutcome) {
        self.tell_archives();
        match outcome {
            StepOutcome::LookUp {
                task,
                result: Ok(Found::Result(found)),
                ..
            } => {
                if found.restored {
                    self.schedule.found_restored(task);
                }
                self.complete(task, *found, 0, Schedule::found);
            }
            StepOutcome::LookUp {
                task,
                taskhash,
                result: Ok(Found::Archive),
                ..
            } => self.schedule.archive_found(task, taskhash),
            StepOutcome::Restore {
                task,
                milliseconds,
                result,
            } => {
                self.running -= 1;
                match result {
                    Ok(result) => self.complete(task, result, milliseconds, Schedule::restored),
                    Err(error) => self.not_restored(task, &error),
                }
            }
            StepOutcome::LookUp {
                task,
                taskhash,
                result: Ok(Found::Nothing),
                last_duration,
            } => {
                if let Some(duration) = last_duration {
                    self.remaining_paths.learn(task, duration);
                }
                tracing::debug!(
                    task = self.context.index.display_name(task),
                    taskhash,
                    "not found"
                );
                self.schedule.not_found(task);
            }
            StepOutcome::LookUp {
                task,
                result: Err(error),
                ..
            } => self.fail(task, 0, &error),
            StepOutcome::Execution {
                task,
                milliseconds,
                result,
            } => {
                self.running -= 1;
                self.durations.insert(task, milliseconds);
                self.remaining_paths
                    .learn(task, Duration::from_millis(milliseconds));
                match result {
                    Ok(result) => self.complete(task, result, milliseconds, Schedule::executed),
                    Err(error) if error.is_lost_input() && self.may_recover(task) => {
                        self.recover(task, &error);
                    }
                    Err(error) => self.fail(task, milliseconds, &error),
                }
            }
        }
    }

    /// Continues without an archive, as BitBake does: the task itself is executed.
    fn not_restored(&mut self, task: u32, error: &BuildError) {
        let (recipe, name) = self.names(task);
        self.tell(BuildEvent::RestoreFailed {
            recipe,
            task: name,
            reason: with_causes(error),
        });
        self.schedule.not_restored(task);
    }

    /// Reports the search for shared state archives, once it is over.
    fn tell_archives(&mut self) {
        if !self.archives_told
            && let Some(known) = self.context.archives.get()
        {
            self.archives_told = true;
            self.tell(BuildEvent::SharedStateSearched {
                summary: known.summary.clone(),
            });
        }
    }

    /// True until the limit of recoveries is reached, so that a store that loses every blob ends the build.
    fn may_recover(&mut self, task: u32) -> bool {
        let recoveries = self.recoveries.entry(task).or_default();
        *recoveries += 1;
        *recoveries <= MAX_RECOVERIES_PER_TASK
    }

    /// Looks the task's inputs up again, or builds them again.
    fn recover(&mut self, task: u32, error: &BuildError) {
        self.context.forget_uploads();
        let (recipe, name) = self.names(task);
        let reason = with_causes(error);
        self.tell(BuildEvent::TaskPostponed {
            recipe,
            task: name,
            reason,
        });
        self.schedule.inputs_lost(task);
    }

    fn complete(
        &mut self,
        task: u32,
        result: TaskResult,
        milliseconds: u64,
        how: fn(&mut Schedule, u32, String),
    ) {
        let unihash = result.unihash.clone();
        self.results.insert(task, Arc::new(result));
        how(&mut self.schedule, task, unihash);
        if let Some(completion) = self.schedule.completion(task) {
            self.tell_finished(task, completion.into(), milliseconds, None);
        }
    }

    fn fail(&mut self, task: u32, milliseconds: u64, error: &BuildError) {
        self.failed += 1;
        self.schedule.failed(task);
        self.tell_finished(task, Outcome::Failed, milliseconds, Some(error));
    }

    fn tell_finished(&self, task: u32, outcome: Outcome, milliseconds: u64, error: Option<&BuildError>) {
        let (recipe, task) = self.names(task);
        let log = match error {
            Some(BuildError::TaskFailed { log, .. }) => Some(log.clone()),
            _ => None,
        };
        self.tell(BuildEvent::TaskFinished {
            recipe,
            task,
            outcome,
            milliseconds,
            error: error.map(|error| with_causes(error)),
            status: error.and_then(|error| find_status(error)).map(Status::code),
            log,
        });
    }

    fn names(&self, task: u32) -> (String, String) {
        let index = &self.context.index;
        (index.display_recipe(task), index.task(task).name.clone())
    }

    fn tell_progress(&self) {
        let (done, wanted) = self.schedule.progress();
        self.tell(BuildEvent::Progress {
            done,
            wanted,
            running: self.running,
        });
    }

    fn tell(&self, event: BuildEvent) {
        // A build continues without a receiver.
        self.events.send(event).ok();
    }

    fn summary(&self, seconds: f64) -> Summary {
        let count = |wanted: Completion| {
            let tasks = self.context.index.tasks();
            tasks
                .filter(|task| self.schedule.completion(*task) == Some(wanted))
                .count()
        };
        let (critical_path_milliseconds, critical_path) = critical_path(&self.context.index, &self.durations);
        Summary {
            tasks_run: count(Completion::Ran),
            would_run: count(Completion::WouldRun),
            signature_hits: count(Completion::SignatureHit),
            restored: count(Completion::Restored),
            early_cut_offs: count(Completion::EarlyCutOff),
            failed: self.failed,
            skipped: self.schedule.skipped().count(),
            bytes_uploaded: 0,
            bytes_downloaded: 0,
            seconds,
            critical_path_seconds: std::time::Duration::from_millis(critical_path_milliseconds).as_secs_f64(),
            critical_path,
        }
    }
}

/// Looks a task up in the action cache, and then in shared state caches.
async fn look_up(context: &BuildContext, task: u32, taskhash: &str) -> Result<Found, BuildError> {
    if let Some(found) = context.look_up(task, taskhash).await? {
        if let Err(error) = context.record_alias(task, taskhash, &found).await {
            tracing::warn!(%error, "could not record a signature");
        }
        return Ok(Found::Result(Box::new(found)));
    }
    Ok(if context.has_archive(task, taskhash).await {
        Found::Archive
    } else {
        Found::Nothing
    })
}

/// Awaits a future and returns its output with its wall time in milliseconds.
async fn timed<T>(future: impl Future<Output = T>) -> (T, u64) {
    let started = Instant::now();
    let output = future.await;
    (
        output,
        started.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
    )
}
