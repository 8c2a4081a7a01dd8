//! Schedule of a build: a state machine without I/O that decides the next step.
//!
//! The search starts at the targets and goes down only where no result is found: a hit on a task means that nothing below
//! it is needed. On the way down, signatures are those of the export. When all results that a task needs exist, its
//! signature is computed again from their unihashes. If a dependency was executed and left outputs equal to those of an
//! earlier run, this is the signature of the earlier build, and the task is found after all (early cut-off). A task that
//! is still not found is executed.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use crate::plan::task_action::always_runs;
use crate::plan::task_index::TaskIndex;
use crate::plan::task_inputs::TaskInputs;
use crate::plan::taskhash::taskhash;

/// Next step of a build. The outcome of each step is reported by one call: [`Schedule::found`] or [`Schedule::not_found`]
/// for a look-up (or [`Schedule::archive_found`]), [`Schedule::restored`] or [`Schedule::not_restored`] for a restore,
/// [`Schedule::executed`], [`Schedule::inputs_lost`], [`Schedule::skipped_by_dry_run`] or
/// [`Schedule::failed`] for an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Look for the result of `task` under `taskhash`.
    LookUp {
        /// The task.
        task: u32,
        /// The signature.
        taskhash: String,
    },
    /// Restore the result of `task` from its shared state archive.
    Restore {
        /// The task.
        task: u32,
        /// The signature of the archive.
        taskhash: String,
    },
    /// Execute `task`, whose inputs all exist.
    Execute {
        /// The task.
        task: u32,
        /// Its signature by the unihashes of this build.
        taskhash: String,
    },
}

/// Origin of a task's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Completion {
    /// Found under the signature of the export.
    SignatureHit,
    /// Found under the signature that follows from equal outputs below it: without early cut-off it would have run.
    EarlyCutOff,
    /// Restored from a shared state archive.
    Restored,
    /// Executed.
    Ran,
    /// Not found, and not executed because nothing is executed in a dry run.
    WouldRun,
    /// The task has nothing to do.
    NoExec,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TaskState {
    /// Not needed so far.
    Idle,
    /// A look-up runs or is queued; `again` for the one with the signature that was computed again.
    LookingUp {
        again: bool,
    },
    /// Waits for this number of other tasks.
    Waiting {
        missing: usize,
    },
    /// The execution runs or is queued.
    Executing,
    Done {
        unihash: String,
        completion: Completion,
    },
    Failed,
    /// A task that it needs failed.
    Skipped,
}

/// State of a build. See the module.
#[derive(Debug)]
pub struct Schedule {
    index: Arc<TaskIndex>,
    keep_going: bool,
    states: Vec<TaskState>,
    /// The tasks that wait for each task.
    waiting: Vec<Vec<u32>>,
    /// True for tasks that always run and for all above them, whose signatures are not known before those have run.
    unpredictable: Vec<bool>,
    look_ups: Vec<(u32, String)>,
    /// Executions by height, so that long chains start first; ties by the order of the export.
    executions: BinaryHeap<(u32, std::cmp::Reverse<u32>)>,
    taskhashes: BTreeMap<u32, String>,
    /// Tasks that are executed although their results may be found, see [`Schedule::outputs_lost`].
    forced: BTreeSet<u32>,
    /// Tasks that are being restored, with the signature of the archive, and true if it was computed again.
    restoring: BTreeMap<u32, (String, bool)>,
    /// Finished tasks whose results were restored, by this build or an earlier one.
    restored: BTreeSet<u32>,
    wanted: usize,
    done: usize,
    failed: bool,
}

impl Schedule {
    /// Creates the schedule of a build of the graph's targets. With `keep_going`, a failed task stops only those that need it.
    pub fn new(index: Arc<TaskIndex>, keep_going: bool) -> Self {
        let count = index.tasks().len();
        let mut schedule = Self {
            unpredictable: unpredictable(&index),
            states: vec![TaskState::Idle; count],
            waiting: vec![Vec::new(); count],
            index,
            keep_going,
            look_ups: Vec::new(),
            executions: BinaryHeap::new(),
            taskhashes: BTreeMap::new(),
            forced: BTreeSet::new(),
            restoring: BTreeMap::new(),
            restored: BTreeSet::new(),
            wanted: 0,
            done: 0,
            failed: false,
        };
        for target in schedule.index.graph().targets.clone() {
            schedule.need(target);
        }
        schedule
    }

    /// Takes the next step, if there is one now. Look-ups come before executions: they are cheap, and they decide which tasks
    /// are executed. `may_execute` is false while the maximum number of executions runs.
    pub fn next_step(&mut self, may_execute: bool) -> Option<Step> {
        if self.failed && !self.keep_going {
            return None;
        }
        if let Some((task, taskhash)) = self.look_ups.pop() {
            return Some(Step::LookUp { task, taskhash });
        }
        if !may_execute {
            return None;
        }
        let (_, std::cmp::Reverse(task)) = self.executions.pop()?;
        if let Some((taskhash, _)) = self.restoring.get(&task) {
            let taskhash = taskhash.clone();
            return Some(Step::Restore { task, taskhash });
        }
        let taskhash = self.taskhash(task);
        Some(Step::Execute { task, taskhash })
    }

    /// Reports a found result with the unihash in its record.
    pub fn found(&mut self, task: u32, unihash: String) {
        let completion = match self.states[task as usize] {
            TaskState::LookingUp { again: true } => Completion::EarlyCutOff,
            _ => Completion::SignatureHit,
        };
        self.done(task, unihash, completion);
    }

    /// Reports that no result has the signature of the look-up.
    pub fn not_found(&mut self, task: u32) {
        match self.states[task as usize] {
            TaskState::LookingUp { again: true } => self.execute(task),
            _ => self.wait(task),
        }
    }

    /// Reports that no result has the signature `taskhash` of the look-up, but a shared state archive has it.
    pub fn archive_found(&mut self, task: u32, taskhash: String) {
        let again = self.states[task as usize] == TaskState::LookingUp { again: true };
        self.restoring.insert(task, (taskhash, again));
        self.wait(task);
    }

    /// Reports a restored task with the unihash of its outputs.
    pub fn restored(&mut self, task: u32, unihash: String) {
        self.restoring.remove(&task);
        self.restored.insert(task);
        self.done(task, unihash, Completion::Restored);
    }

    /// Reports that the archive of a task cannot be used. The task is executed, as if it had not been found.
    pub fn not_restored(&mut self, task: u32) {
        match self.restoring.remove(&task) {
            Some((_, true)) => self.execute(task),
            _ => self.wait(task),
        }
    }

    /// Reports that the result that the next call finds was restored by an earlier build.
    pub fn found_restored(&mut self, task: u32) {
        self.restored.insert(task);
    }

    /// Reports an executed task with the unihash of its outputs.
    pub fn executed(&mut self, task: u32, unihash: String) {
        self.restored.remove(&task);
        self.done(task, unihash, Completion::Ran);
    }

    /// Reports that a task was not executed in a dry run. Those that need it are looked up as if it had left the outputs
    /// that the export assumes.
    pub fn skipped_by_dry_run(&mut self, task: u32) {
        let unihash = self.index.task(task).unihash.clone();
        self.done(task, unihash, Completion::WouldRun);
    }

    /// Reports that a task or its look-up failed.
    pub fn failed(&mut self, task: u32) {
        self.failed = true;
        self.states[task as usize] = TaskState::Failed;
        self.skip_waiting(task);
    }

    /// Reports that the task could not be executed, because results that it needs are no longer complete in the store. They
    /// are looked up again, and executed again if they are not found. Then the task is executed again.
    pub fn inputs_lost(&mut self, task: u32) {
        for needed in self.inputs(task).required() {
            // A task that has nothing to do has no blobs that could be lost.
            if !matches!(self.completion(needed), None | Some(Completion::NoExec)) {
                self.states[needed as usize] = TaskState::Idle;
                self.taskhashes.remove(&needed);
                self.done -= 1;
                self.wanted -= 1;
            }
        }
        self.taskhashes.remove(&task);
        self.wait(task);
    }

    /// Reports that outputs of a finished task are not in the store, although its result was found or recorded. The task
    /// is executed again, whatever a look-up would find.
    pub fn outputs_lost(&mut self, task: u32) {
        self.done -= 1;
        self.taskhashes.remove(&task);
        self.forced.insert(task);
        self.wait(task);
    }

    /// True if the execution of the task must not end with a result that exists.
    pub fn is_forced(&self, task: u32) -> bool {
        self.forced.contains(&task)
    }

    /// Origin of the task's result, if it has one.
    pub fn completion(&self, task: u32) -> Option<Completion> {
        match &self.states[task as usize] {
            TaskState::Done { completion, .. } => Some(*completion),
            _ => None,
        }
    }

    /// The hash by which dependents know a task: that of this build, else that of the export.
    pub fn unihash(&self, task: u32) -> &str {
        match &self.states[task as usize] {
            TaskState::Done { unihash, .. } => unihash,
            _ => &self.index.task(task).unihash,
        }
    }

    /// Computes the task's signature from the present unihashes of its dependencies.
    pub fn taskhash(&self, task: u32) -> String {
        match self.taskhashes.get(&task) {
            Some(taskhash) => taskhash.clone(),
            None => taskhash(self.index.task(task), |dependency| self.unihash(dependency)),
        }
    }

    /// Results of other tasks that a task needs.
    pub fn inputs(&self, task: u32) -> TaskInputs {
        if self.restoring.contains_key(&task) {
            self.index.setscene_inputs(task)
        } else {
            self.index.inputs_beside_restored(task, &self.restored)
        }
    }

    /// Number of finished tasks, and number of tasks that are needed so far.
    pub fn progress(&self) -> (usize, usize) {
        (self.done, self.wanted)
    }

    /// Tasks that were not tried because a task that they need failed.
    pub fn skipped(&self) -> impl Iterator<Item = u32> + '_ {
        (0..)
            .zip(&self.states)
            .filter(|(_, state)| **state == TaskState::Skipped)
            .map(|(task, _)| task)
    }

    /// Starts the search for a task's result.
    fn need(&mut self, task: u32) {
        // A loop instead of recursion: the chains of an image are hundreds of tasks long.
        let mut pending = vec![task];
        while let Some(task) = pending.pop() {
            if self.states[task as usize] != TaskState::Idle {
                continue;
            }
            self.wanted += 1;
            let message = self.index.task(task);
            if message.noexec || self.unpredictable[task as usize] {
                pending.extend(self.start_waiting(task));
            } else {
                self.states[task as usize] = TaskState::LookingUp { again: false };
                self.look_ups.push((task, message.taskhash.clone()));
            }
        }
    }

    fn wait(&mut self, task: u32) {
        for needed in self.start_waiting(task) {
            self.need(needed);
        }
    }

    /// Makes `task` wait for all tasks that it needs, and returns those that were not needed so far.
    fn start_waiting(&mut self, task: u32) -> Vec<u32> {
        let message = self.index.task(task);
        let mut needed = BTreeSet::new();
        if !self.restoring.contains_key(&task) {
            needed.extend(message.dependencies.iter().copied());
        }
        if !message.noexec {
            needed.extend(self.inputs(task).required());
        }
        let (mut missing, mut idle, mut blocked) = (0, Vec::new(), false);
        for dependency in needed {
            match self.states[dependency as usize] {
                TaskState::Done { .. } => continue,
                TaskState::Failed | TaskState::Skipped => blocked = true,
                TaskState::Idle => idle.push(dependency),
                _ => {}
            }
            missing += 1;
            self.waiting[dependency as usize].push(task);
        }
        if blocked {
            self.states[task as usize] = TaskState::Skipped;
            self.skip_waiting(task);
            return Vec::new();
        }
        self.states[task as usize] = TaskState::Waiting { missing };
        if missing == 0 {
            self.ready(task);
        }
        idle
    }

    /// Continues with a task whose needed results all exist.
    fn ready(&mut self, task: u32) {
        if self.restoring.contains_key(&task) {
            return self.execute(task);
        }
        // A dependency that was restored no longer stands for its predecessors, see `inputs_beside_restored`.
        if self.misses_inputs(task) {
            return self.wait(task);
        }
        let message = self.index.task(task);
        let taskhash = taskhash(message, |dependency| self.unihash(dependency));
        let exported = taskhash == message.taskhash;
        if message.noexec {
            return self.done(task, taskhash, Completion::NoExec);
        }
        let always = always_runs(message);
        let looked_up = exported && !self.unpredictable[task as usize];
        self.taskhashes.insert(task, taskhash.clone());
        if always || looked_up || self.is_forced(task) {
            self.execute(task);
        } else {
            self.states[task as usize] = TaskState::LookingUp { again: true };
            self.look_ups.push((task, taskhash));
        }
    }

    /// True if a task needs results that do not exist yet.
    fn misses_inputs(&self, task: u32) -> bool {
        let required = || self.inputs(task).required();
        !self.index.task(task).noexec
            && required()
                .into_iter()
                .any(|needed| self.completion(needed).is_none())
    }

    /// Skips all tasks that wait for `task`.
    fn skip_waiting(&mut self, task: u32) {
        let mut pending = std::mem::take(&mut self.waiting[task as usize]);
        while let Some(waiting) = pending.pop() {
            if matches!(self.states[waiting as usize], TaskState::Waiting { .. }) {
                self.states[waiting as usize] = TaskState::Skipped;
                pending.append(&mut self.waiting[waiting as usize]);
            }
        }
    }

    fn execute(&mut self, task: u32) {
        self.states[task as usize] = TaskState::Executing;
        self.executions
            .push((self.index.height(task), std::cmp::Reverse(task)));
    }

    fn done(&mut self, task: u32, unihash: String, completion: Completion) {
        self.states[task as usize] = TaskState::Done { unihash, completion };
        self.forced.remove(&task);
        self.done += 1;
        for waiting in std::mem::take(&mut self.waiting[task as usize]) {
            if let TaskState::Waiting { missing } = &mut self.states[waiting as usize] {
                *missing -= 1;
                if *missing == 0 {
                    self.ready(waiting);
                }
            }
        }
    }
}

/// Marks the tasks that always run and all above them.
fn unpredictable(index: &TaskIndex) -> Vec<bool> {
    let mut marked = vec![false; index.tasks().len()];
    let mut pending: Vec<u32> = (0..)
        .zip(&index.graph().tasks)
        .filter(|(_, task)| always_runs(task))
        .map(|(task, _)| task)
        .collect();
    while let Some(task) = pending.pop() {
        if !std::mem::replace(&mut marked[task as usize], true) {
            pending.extend(index.dependents(task));
        }
    }
    marked
}

#[cfg(test)]
mod tests;
