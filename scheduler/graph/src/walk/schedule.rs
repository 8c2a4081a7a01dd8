//! What to do next in a build: a state machine without I/O.
//!
//! The search starts at the targets and goes down only where a signature is not known: a hit on a task means that
//! nothing below it is needed. Signatures on the way down are those of the export. When everything that a task needs
//! has been found or made, its signature is computed again from the unihashes that came up: where a dependency was
//! rebuilt to equal outputs it is the signature of the earlier build, and the task is found after all (early
//! cut-off). What is then still not found is executed.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use crate::plan::closure::{TaskIndex, TaskInputs};
use crate::plan::task_action::always_runs;
use crate::plan::taskhash::taskhash;

/// What the build does next. Each step is answered by one call: [`Schedule::found`] or [`Schedule::not_found`] for a
/// look-up, [`Schedule::executed`], [`Schedule::inputs_lost`] or [`Schedule::failed`] for an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Look for the result of `task` under `taskhash`.
    LookUp {
        /// The task.
        task: u32,
        /// The signature.
        taskhash: String,
    },
    /// Execute `task`, everything it needs is there.
    Execute {
        /// The task.
        task: u32,
        /// Its signature as it turned out.
        taskhash: String,
    },
}

/// How a task came to its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Completion {
    /// Found under the signature of the export.
    SignatureHit,
    /// Found under the signature that equal outputs below it gave: it would have run without early cut-off.
    EarlyCutOff,
    /// Executed.
    Ran,
    /// Has nothing to do.
    NoExec,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nobody asked for it.
    Idle,
    /// A look-up is under way or queued; `again` for the one with the recomputed signature.
    LookingUp {
        again: bool,
    },
    /// Waits for so many others.
    Waiting {
        missing: usize,
    },
    /// Execution is under way or queued.
    Executing,
    Done {
        unihash: String,
        completion: Completion,
    },
    Failed,
    /// Something that it needs failed.
    Skipped,
}

/// The state of a build. See the module.
#[derive(Debug)]
pub struct Schedule {
    index: Arc<TaskIndex>,
    keep_going: bool,
    states: Vec<State>,
    /// Who waits for a task.
    waiting: Vec<Vec<u32>>,
    /// Tasks that always run, and all above them: their signatures are not known before those have run.
    unpredictable: Vec<bool>,
    look_ups: Vec<(u32, String)>,
    /// Executions by height, so that long chains start first; ties by the order of the export.
    executions: BinaryHeap<(u32, std::cmp::Reverse<u32>)>,
    taskhashes: BTreeMap<u32, String>,
    under_way: usize,
    wanted: usize,
    done: usize,
    failed: bool,
}

impl Schedule {
    /// A build of the graph's targets. With `keep_going`, a failed task stops only what needs it.
    pub fn new(index: Arc<TaskIndex>, keep_going: bool) -> Self {
        let count = index.len();
        let mut schedule = Self {
            unpredictable: unpredictable(&index),
            states: vec![State::Idle; count],
            waiting: vec![Vec::new(); count],
            index,
            keep_going,
            look_ups: Vec::new(),
            executions: BinaryHeap::new(),
            taskhashes: BTreeMap::new(),
            under_way: 0,
            wanted: 0,
            done: 0,
            failed: false,
        };
        for target in schedule.index.graph().targets.clone() {
            schedule.need(target);
        }
        schedule
    }

    /// The next step, if one can be taken now. Look-ups come before executions: they are cheap and decide what has to
    /// be executed. `may_execute` is false while all execution slots are taken.
    pub fn next_step(&mut self, may_execute: bool) -> Option<Step> {
        if self.failed && !self.keep_going {
            return None;
        }
        if let Some((task, taskhash)) = self.look_ups.pop() {
            self.under_way += 1;
            return Some(Step::LookUp { task, taskhash });
        }
        if !may_execute {
            return None;
        }
        let (_, std::cmp::Reverse(task)) = self.executions.pop()?;
        self.under_way += 1;
        let taskhash = self.taskhash(task);
        Some(Step::Execute { task, taskhash })
    }

    /// Whether nothing is under way and nothing more will be.
    pub fn is_finished(&self) -> bool {
        let stopped = self.failed && !self.keep_going;
        self.under_way == 0 && (stopped || (self.look_ups.is_empty() && self.executions.is_empty()))
    }

    /// The result was found; `unihash` is what its record says.
    pub fn found(&mut self, task: u32, unihash: String) {
        self.under_way -= 1;
        let completion = match self.states[task as usize] {
            State::LookingUp { again: true } => Completion::EarlyCutOff,
            _ => Completion::SignatureHit,
        };
        self.done(task, unihash, completion);
    }

    /// No result is known under the signature that was asked for.
    pub fn not_found(&mut self, task: u32) {
        self.under_way -= 1;
        match self.states[task as usize] {
            State::LookingUp { again: true } => self.execute(task),
            _ => self.wait(task),
        }
    }

    /// The task was executed; `unihash` is what its outputs are known by.
    pub fn executed(&mut self, task: u32, unihash: String) {
        self.under_way -= 1;
        self.done(task, unihash, Completion::Ran);
    }

    /// The task failed, or its look-up did.
    pub fn failed(&mut self, task: u32) {
        self.under_way -= 1;
        self.failed = true;
        self.states[task as usize] = State::Failed;
        self.skip_waiting(task);
    }

    /// The task could not be executed because results that it needs are no longer whole in the store. They are
    /// looked up again, executed again where that finds nothing, and then the task's turn comes again.
    pub fn inputs_lost(&mut self, task: u32) {
        self.under_way -= 1;
        for needed in self.index.inputs(task).required() {
            // What does nothing has no blobs that could be lost.
            if !matches!(self.completion(needed), None | Some(Completion::NoExec)) {
                self.states[needed as usize] = State::Idle;
                self.taskhashes.remove(&needed);
                self.done -= 1;
                self.wanted -= 1;
            }
        }
        self.taskhashes.remove(&task);
        self.wait(task);
    }

    /// How the task completed, if it did.
    pub fn completion(&self, task: u32) -> Option<Completion> {
        match &self.states[task as usize] {
            State::Done { completion, .. } => Some(*completion),
            _ => None,
        }
    }

    /// The hash under which dependents see a task: what came up in this build, else the export's.
    pub fn unihash(&self, task: u32) -> &str {
        match &self.states[task as usize] {
            State::Done { unihash, .. } => unihash,
            _ => &self.index.task(task).unihash,
        }
    }

    /// The task's signature, from what its dependencies are known by now.
    pub fn taskhash(&self, task: u32) -> String {
        match self.taskhashes.get(&task) {
            Some(taskhash) => taskhash.clone(),
            None => taskhash(self.index.task(task), |dependency| self.unihash(dependency)),
        }
    }

    /// What a task needs from others.
    pub fn inputs(&self, task: u32) -> TaskInputs {
        self.index.inputs(task)
    }

    /// How many tasks are done, and how many somebody asked for so far.
    pub fn progress(&self) -> (usize, usize) {
        (self.done, self.wanted)
    }

    /// Tasks that were not tried because something that they need failed.
    pub fn skipped(&self) -> impl Iterator<Item = u32> + '_ {
        (0..)
            .zip(&self.states)
            .filter(|(_, state)| **state == State::Skipped)
            .map(|(task, _)| task)
    }

    fn need(&mut self, task: u32) {
        // By hand instead of recursion: the chains of an image are hundreds of tasks long.
        let mut pending = vec![task];
        while let Some(task) = pending.pop() {
            if self.states[task as usize] != State::Idle {
                continue;
            }
            self.wanted += 1;
            let message = self.index.task(task);
            if message.noexec || self.unpredictable[task as usize] {
                pending.extend(self.start_waiting(task));
            } else {
                self.states[task as usize] = State::LookingUp { again: false };
                self.look_ups.push((task, message.taskhash.clone()));
            }
        }
    }

    fn wait(&mut self, task: u32) {
        for needed in self.start_waiting(task) {
            self.need(needed);
        }
    }

    /// Makes `task` wait for all that it needs and returns what nobody has asked for yet.
    fn start_waiting(&mut self, task: u32) -> Vec<u32> {
        let message = self.index.task(task);
        let mut needed: BTreeSet<u32> = message.dependencies.iter().copied().collect();
        if !message.noexec {
            needed.extend(self.index.inputs(task).required());
        }
        let (mut missing, mut idle, mut blocked) = (0, Vec::new(), false);
        for dependency in needed {
            match self.states[dependency as usize] {
                State::Done { .. } => continue,
                State::Failed | State::Skipped => blocked = true,
                State::Idle => idle.push(dependency),
                _ => {}
            }
            missing += 1;
            self.waiting[dependency as usize].push(task);
        }
        if blocked {
            self.states[task as usize] = State::Skipped;
            self.skip_waiting(task);
            return Vec::new();
        }
        self.states[task as usize] = State::Waiting { missing };
        if missing == 0 {
            self.ready(task);
        }
        idle
    }

    /// Everything that `task` needs is there.
    fn ready(&mut self, task: u32) {
        let message = self.index.task(task);
        let taskhash = taskhash(message, |dependency| self.unihash(dependency));
        let exported = taskhash == message.taskhash;
        if message.noexec {
            return self.done(task, taskhash, Completion::NoExec);
        }
        let always = always_runs(message);
        let looked_up = exported && !self.unpredictable[task as usize];
        self.taskhashes.insert(task, taskhash.clone());
        if always || looked_up {
            self.execute(task);
        } else {
            self.states[task as usize] = State::LookingUp { again: true };
            self.look_ups.push((task, taskhash));
        }
    }

    /// Gives up on everything that waits for `task`.
    fn skip_waiting(&mut self, task: u32) {
        let mut pending = std::mem::take(&mut self.waiting[task as usize]);
        while let Some(waiting) = pending.pop() {
            if matches!(self.states[waiting as usize], State::Waiting { .. }) {
                self.states[waiting as usize] = State::Skipped;
                pending.append(&mut self.waiting[waiting as usize]);
            }
        }
    }

    fn execute(&mut self, task: u32) {
        self.states[task as usize] = State::Executing;
        self.executions
            .push((self.index.height(task), std::cmp::Reverse(task)));
    }

    fn done(&mut self, task: u32, unihash: String, completion: Completion) {
        self.states[task as usize] = State::Done { unihash, completion };
        self.done += 1;
        for waiting in std::mem::take(&mut self.waiting[task as usize]) {
            if let State::Waiting { missing } = &mut self.states[waiting as usize] {
                *missing -= 1;
                if *missing == 0 {
                    self.ready(waiting);
                }
            }
        }
    }
}

/// Marks the tasks that always run and everything above them.
fn unpredictable(index: &TaskIndex) -> Vec<bool> {
    let mut marked = vec![false; index.len()];
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
