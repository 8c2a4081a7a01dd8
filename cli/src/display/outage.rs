//! Interruptions of executions, as one message for all tasks that wait.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bitzel_graph::walk::ServerCondition;

/// Age at which an outage is worth a line. A server that only closed a connection is back before.
const ANNOUNCE_AFTER: Duration = Duration::from_secs(1);
/// Interval of further lines where no status line counts down.
const REPEAT_AFTER: Duration = Duration::from_mins(1);

/// Tracks the tasks that wait for a server.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// Time of the next try, by task.
    waiting: BTreeMap<String, Instant>,
    current: Option<Current>,
}

/// An outage that is not over.
#[derive(Debug)]
struct Current {
    began: Instant,
    announced: Option<Instant>,
    condition: ServerCondition,
    reason: String,
    /// Largest number of tasks that waited at a time.
    tasks: usize,
}

impl Outage {
    /// Records that `task` waits for `pause` before its next try.
    pub(super) fn interrupted(
        &mut self,
        task: String,
        condition: ServerCondition,
        reason: String,
        pause: Duration,
        now: Instant,
    ) {
        self.waiting.insert(task, now + pause);
        let tasks = self.waiting.len();
        let current = self.current.get_or_insert_with(|| Current {
            began: now,
            announced: None,
            condition,
            reason: String::new(),
            tasks,
        });
        current.condition = condition;
        current.reason = reason;
        current.tasks = current.tasks.max(tasks);
    }

    /// Records that the server answers again for `task`. Returns the line that ends an outage.
    pub(super) fn resumed(&mut self, task: &str, now: Instant) -> Option<String> {
        let ended = self.forget(task)?;
        ended.announced?;
        Some(format!(
            "server answers again after {} s, {} on",
            now.duration_since(ended.began).as_secs(),
            if ended.tasks == 1 {
                "1 task goes".to_owned()
            } else {
                format!("{} tasks go", ended.tasks)
            },
        ))
    }

    /// Records that `task` has ended.
    pub(super) fn ended(&mut self, task: &str) {
        self.forget(task);
    }

    fn forget(&mut self, task: &str) -> Option<Current> {
        self.waiting.remove(task);
        if self.waiting.is_empty() {
            self.current.take()
        } else {
            None
        }
    }

    /// Line for a display without a status line: one when an outage begins and one a minute.
    pub(super) fn line(&mut self, now: Instant) -> Option<String> {
        if !self.announce(now) {
            return None;
        }
        self.status(now)
    }

    /// Marks the outage as announced if it is old enough, so that its end is worth a line. True if a line is due.
    pub(super) fn announce(&mut self, now: Instant) -> bool {
        let Some(current) = &mut self.current else {
            return false;
        };
        let due = match current.announced {
            None => current.began + ANNOUNCE_AFTER,
            Some(last) => last + REPEAT_AFTER,
        };
        if now < due {
            return false;
        }
        current.announced = Some(now);
        true
    }

    /// State of the outage: `server unreachable, 7 tasks waiting, retry in 3 s: Connection refused`.
    pub(super) fn status(&self, now: Instant) -> Option<String> {
        let current = self.current.as_ref()?;
        let condition = match current.condition {
            ServerCondition::Unreachable => "unreachable",
            ServerCondition::Overloaded => "overloaded",
            ServerCondition::Failing => "failing",
        };
        let tasks = match self.waiting.len() {
            1 => "1 task".to_owned(),
            tasks => format!("{tasks} tasks"),
        };
        let next_try = self.waiting.values().min()?;
        // Rounded up, so that it counts down to 1 and not to 0.
        let pause = next_try.saturating_duration_since(now).as_millis().div_ceil(1000);
        let next_step = match pause {
            0 => "trying again".to_owned(),
            pause => format!("retry in {pause} s"),
        };
        let reason = &current.reason;
        Some(format!(
            "server {condition}, {tasks} waiting, {next_step}: {reason}"
        ))
    }
}

#[cfg(test)]
mod tests;
