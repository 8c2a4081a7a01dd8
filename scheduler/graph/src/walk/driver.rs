//! Does what the schedule says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bitzel_cas::{ActionCache, BlobStore, DirectoryCache};
use bitzel_proto::InstanceName;
use bitzel_proto::with_causes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{Instrument as _, info_span};

use super::build_files::BuildInputs;
use super::error::BuildError;
use super::event::{BuildEvent, Outcome, Summary};
use super::executions::Executions;
use super::schedule::{Completion, Schedule, Step};
use super::task_execution::{Context, Job};
use crate::plan::closure::TaskIndex;
use crate::plan::signature::Environment;
use crate::plan::task_input::{dependencies_file, task_file};
use crate::plan::task_result::TaskResult;

/// Look-ups under way at the same time: enough to fill the way to a server far away.
const LOOK_UPS: usize = 256;
/// Memory for decoded Directories, in bytes.
const DIRECTORY_CACHE: u64 = 128 << 20;

/// How often the inputs of one task are made again before the build gives up on the store.
const MAX_RECOVERIES: usize = 3;

/// How a build is done.
#[derive(Debug, Clone)]
pub struct BuildConfig {
    /// Instance of the server.
    pub instance: InstanceName,
    /// Go on with what does not need a failed task.
    pub keep_going: bool,
    /// Executions under way at the same time, at least 1.
    pub jobs: usize,
    /// What decides results beside signatures.
    pub environment: Environment,
}

/// A build of one graph.
pub struct Driver {
    context: Arc<Context>,
    schedule: Schedule,
    jobs: usize,
    events: mpsc::UnboundedSender<BuildEvent>,
    results: BTreeMap<u32, Arc<TaskResult>>,
    /// Wall time of this build's executions, by task.
    durations: BTreeMap<u32, u64>,
    /// How often the inputs of a task had to be made again.
    recoveries: BTreeMap<u32, usize>,
    running: usize,
    failed: usize,
}

/// What came of a step.
enum Answer {
    LookUp {
        task: u32,
        taskhash: String,
        result: Result<Option<TaskResult>, BuildError>,
    },
    Execution {
        task: u32,
        milliseconds: u64,
        result: Result<TaskResult, BuildError>,
    },
}

impl Driver {
    /// Prepares a build of the index's targets. Events go to `events`; a receiver that is gone does not matter.
    pub fn new(
        config: BuildConfig,
        index: Arc<TaskIndex>,
        inputs: BuildInputs,
        store: Arc<dyn BlobStore>,
        action_cache: Arc<dyn ActionCache>,
        executions: Arc<dyn Executions>,
        events: mpsc::UnboundedSender<BuildEvent>,
    ) -> Self {
        let context = Context {
            index: Arc::clone(&index),
            environment: config.environment,
            inputs,
            store,
            action_cache,
            executions,
            instance: config.instance,
            directory_cache: DirectoryCache::new(DIRECTORY_CACHE),
            timeless: Mutex::default(),
            metadata_uploaded: Mutex::default(),
        };
        Self {
            context: Arc::new(context),
            schedule: Schedule::new(index, config.keep_going),
            jobs: config.jobs.max(1),
            events,
            results: BTreeMap::new(),
            durations: BTreeMap::new(),
            recoveries: BTreeMap::new(),
            running: 0,
            failed: 0,
        }
    }

    /// Runs the build to its end. Dropping the future abandons what is under way; the server notices.
    pub async fn run(mut self) -> (Summary, BTreeMap<u32, Arc<TaskResult>>) {
        let started = Instant::now();
        let mut steps: JoinSet<Answer> = JoinSet::new();
        loop {
            while steps.len() < LOOK_UPS.max(self.jobs) {
                let Some(step) = self.schedule.next_step(self.running < self.jobs) else {
                    break;
                };
                self.start(step, &mut steps);
            }
            self.tell_progress();
            match steps.join_next().await {
                Some(Ok(answer)) => self.settle(answer),
                // A step that panicked cannot be answered; what it panicked with is printed already.
                Some(Err(error)) => {
                    tracing::error!(%error, "a step of the build broke off");
                    self.failed += 1;
                    break;
                }
                None => break,
            }
        }
        (self.summary(started.elapsed().as_secs_f64()), self.results)
    }

    fn start(&mut self, step: Step, steps: &mut JoinSet<Answer>) {
        let context = Arc::clone(&self.context);
        match step {
            Step::LookUp { task, taskhash } => {
                steps.spawn(async move {
                    let result = context.look_up(task, &taskhash).await;
                    if let Ok(Some(found)) = &result
                        && let Err(error) = context.record_alias(task, &taskhash, found).await
                    {
                        tracing::warn!(%error, "could not record a signature");
                    }
                    Answer::LookUp {
                        task,
                        taskhash,
                        result,
                    }
                });
            }
            Step::Execute { task, taskhash } => {
                self.running += 1;
                let (recipe, name) = self.names(task);
                self.tell(BuildEvent::TaskStarted { recipe, task: name });
                let span = info_span!("task", otel.name = self.context.index.display_name(task));
                let job = self.job(task, taskhash);
                let step = async move {
                    let started = Instant::now();
                    let result = context.execute(job).await;
                    let milliseconds = started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
                    Answer::Execution {
                        task,
                        milliseconds,
                        result,
                    }
                };
                steps.spawn(step.instrument(span));
            }
        }
    }

    fn job(&self, task: u32, taskhash: String) -> Job {
        let index = &self.context.index;
        let inputs = self.schedule.inputs(task);
        let known = |needed: u32| {
            self.results
                .get(&needed)
                .map(|result| (needed, Arc::clone(result)))
        };
        Job {
            results: inputs.required().into_iter().filter_map(known).collect(),
            task_file: task_file(index, task, &taskhash),
            dependencies_file: dependencies_file(index, task, &taskhash, &|task| self.schedule.unihash(task)),
            task,
            taskhash,
            inputs,
        }
    }

    fn settle(&mut self, answer: Answer) {
        match answer {
            Answer::LookUp {
                task,
                result: Ok(Some(found)),
                ..
            } => self.complete(task, found, 0, Schedule::found),
            Answer::LookUp {
                task,
                taskhash,
                result: Ok(None),
            } => {
                tracing::debug!(
                    task = self.context.index.display_name(task),
                    taskhash,
                    "not found"
                );
                self.schedule.not_found(task);
            }
            Answer::LookUp {
                task,
                result: Err(error),
                ..
            } => self.fail(task, 0, &error),
            Answer::Execution {
                task,
                milliseconds,
                result,
            } => {
                self.running -= 1;
                self.durations.insert(task, milliseconds);
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

    /// Counts the attempts, so that a store that loses everything at once ends the build.
    fn may_recover(&mut self, task: u32) -> bool {
        let recoveries = self.recoveries.entry(task).or_default();
        *recoveries += 1;
        *recoveries <= MAX_RECOVERIES
    }

    /// Has the task's inputs looked up, or made, again.
    fn recover(&mut self, task: u32, error: &BuildError) {
        self.context.expect_nothing_uploaded();
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
            self.tell_finished(task, completion.into(), milliseconds, None, None);
        }
    }

    fn fail(&mut self, task: u32, milliseconds: u64, error: &BuildError) {
        self.failed += 1;
        self.schedule.failed(task);
        let log = match error {
            BuildError::TaskFailed { log, .. } => Some(log.clone()),
            _ => None,
        };
        self.tell_finished(task, Outcome::Failed, milliseconds, Some(with_causes(error)), log);
    }

    fn tell_finished(
        &self,
        task: u32,
        outcome: Outcome,
        milliseconds: u64,
        error: Option<String>,
        log: Option<String>,
    ) {
        let (recipe, task) = self.names(task);
        self.tell(BuildEvent::TaskFinished {
            recipe,
            task,
            outcome,
            milliseconds,
            error,
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
        // Nobody listening is no reason to stop building.
        self.events.send(event).ok();
    }

    fn summary(&self, seconds: f64) -> Summary {
        let count = |wanted: Completion| {
            let tasks = 0..u32::try_from(self.context.index.len()).unwrap_or(u32::MAX);
            tasks
                .filter(|task| self.schedule.completion(*task) == Some(wanted))
                .count()
        };
        let (critical_path_milliseconds, critical_path) = self.critical_path();
        Summary {
            tasks_run: count(Completion::Ran),
            signature_hits: count(Completion::SignatureHit),
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

    /// The chain of executed tasks that took longest, and its time in milliseconds.
    fn critical_path(&self) -> (u64, Vec<String>) {
        let index = &self.context.index;
        let mut tasks: Vec<u32> = self.durations.keys().copied().collect();
        tasks.sort_by_key(|task| index.rank(*task));
        // The longest chain that ends with each task, and the task before it on that chain.
        let mut chains: BTreeMap<u32, (u64, Option<u32>)> = BTreeMap::new();
        for task in tasks {
            let needed = index.task(task).dependencies.iter();
            let before = needed
                .filter_map(|needed| Some((chains.get(needed)?.0, *needed)))
                .max();
            let own = self.durations[&task];
            chains.insert(
                task,
                (
                    own + before.map_or(0, |(time, _)| time),
                    before.map(|(_, task)| task),
                ),
            );
        }
        let Some((last, (time, _))) = chains.iter().max_by_key(|(_, (time, _))| *time) else {
            return (0, vec![]);
        };
        let mut names = Vec::new();
        let mut next = Some(*last);
        while let Some(task) = next {
            names.push(index.display_name(task));
            next = chains[&task].1;
        }
        names.reverse();
        (*time, names)
    }
}
