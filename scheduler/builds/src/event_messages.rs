//! Events of builds as messages.

use bitzel_graph::walk::{BuildEvent as Event, Outcome, ServerCondition, Summary};
use bitzel_proto::builds::execution_interrupted::Condition;
use bitzel_proto::builds::{
    BuildEvent, BuildProgress, BuildSummary, ExecutionInterrupted, TaskFinished, TaskName, TaskReason,
    build_event, task_finished,
};
use tonic::Code;

/// Message of an event. `None` for those that are no entries of a log.
pub(crate) fn message_of_event(sequence: u64, event: &Event) -> Option<BuildEvent> {
    use build_event::Event as Message;
    let name = |recipe: &String, task: &String| TaskName {
        recipe: recipe.clone(),
        task: task.clone(),
    };
    let event = match event {
        Event::TaskStarted { recipe, task } => Message::Started(name(recipe, task)),
        Event::TaskPostponed { recipe, task, reason } => Message::Postponed(TaskReason {
            task: Some(name(recipe, task)),
            reason: reason.clone(),
        }),
        Event::OutputsLost { recipe, task, reason } => Message::OutputsLost(TaskReason {
            task: Some(name(recipe, task)),
            reason: reason.clone(),
        }),
        Event::ExecutionInterrupted {
            recipe,
            task,
            condition,
            reason,
            retry_milliseconds,
        } => Message::Interrupted(ExecutionInterrupted {
            task: Some(name(recipe, task)),
            condition: message_of_condition(*condition).into(),
            reason: reason.clone(),
            retry_milliseconds: *retry_milliseconds,
        }),
        Event::ExecutionResumed { recipe, task } => Message::Resumed(name(recipe, task)),
        Event::TaskFinished {
            recipe,
            task,
            outcome,
            milliseconds,
            error,
            status,
            log,
        } => Message::Finished(TaskFinished {
            task: Some(name(recipe, task)),
            outcome: message_of_outcome(*outcome).into(),
            milliseconds: *milliseconds,
            error: error.clone(),
            status: status.map(i32::from),
            log: log.clone(),
        }),
        // A server asks no shared state cache, which is the client's.
        Event::SharedStateSearched { .. } | Event::RestoreFailed { .. } | Event::Progress { .. } => {
            return None;
        }
        Event::Summary(summary) => Message::Summary(message_of_summary(summary)),
    };
    Some(BuildEvent {
        sequence,
        event: Some(event),
    })
}

/// Event of a message. `None` for one of a later version.
pub fn event_of_message(message: BuildEvent) -> Option<Event> {
    use build_event::Event as Message;
    let task_reason = |message: TaskReason| {
        let name = message.task.unwrap_or_default();
        (name.recipe, name.task, message.reason)
    };
    Some(match message.event? {
        Message::Started(TaskName { recipe, task }) => Event::TaskStarted { recipe, task },
        Message::Postponed(message) => {
            let (recipe, task, reason) = task_reason(message);
            Event::TaskPostponed { recipe, task, reason }
        }
        Message::OutputsLost(message) => {
            let (recipe, task, reason) = task_reason(message);
            Event::OutputsLost { recipe, task, reason }
        }
        Message::Interrupted(message) => {
            let condition = match message.condition() {
                Condition::Unspecified => return None,
                Condition::Unreachable => ServerCondition::Unreachable,
                Condition::Overloaded => ServerCondition::Overloaded,
                Condition::Failing => ServerCondition::Failing,
            };
            let TaskName { recipe, task } = message.task.unwrap_or_default();
            Event::ExecutionInterrupted {
                recipe,
                task,
                condition,
                reason: message.reason,
                retry_milliseconds: message.retry_milliseconds,
            }
        }
        Message::Resumed(TaskName { recipe, task }) => Event::ExecutionResumed { recipe, task },
        Message::Finished(message) => {
            let outcome = match message.outcome() {
                task_finished::Outcome::Unspecified => return None,
                task_finished::Outcome::Ran => Outcome::Ran,
                task_finished::Outcome::Hit => Outcome::Hit,
                task_finished::Outcome::CutOff => Outcome::CutOff,
                task_finished::Outcome::Noexec => Outcome::Noexec,
                task_finished::Outcome::Failed => Outcome::Failed,
                task_finished::Outcome::WouldRun => Outcome::WouldRun,
            };
            let TaskName { recipe, task } = message.task.unwrap_or_default();
            Event::TaskFinished {
                recipe,
                task,
                outcome,
                milliseconds: message.milliseconds,
                error: message.error,
                status: message.status.map(Code::from_i32),
                log: message.log,
            }
        }
        Message::Summary(message) => Event::Summary(summary_of_message(message)),
    })
}

/// Summary of a message.
pub fn summary_of_message(message: BuildSummary) -> Summary {
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Summary {
        tasks_run: count(message.tasks_run),
        would_run: 0,
        restored: 0,
        signature_hits: count(message.signature_hits),
        early_cut_offs: count(message.early_cut_offs),
        failed: count(message.failed),
        skipped: count(message.skipped),
        bytes_uploaded: 0,
        bytes_downloaded: 0,
        seconds: message.seconds,
        critical_path_seconds: message.critical_path_seconds,
        critical_path: message.critical_path,
    }
}

/// Message of a progress.
pub(crate) fn message_of_progress(done: usize, wanted: usize, running: usize) -> BuildProgress {
    BuildProgress {
        done: done as u64,
        wanted: wanted as u64,
        running: running as u64,
    }
}

fn message_of_summary(summary: &Summary) -> BuildSummary {
    BuildSummary {
        tasks_run: summary.tasks_run as u64,
        signature_hits: summary.signature_hits as u64,
        early_cut_offs: summary.early_cut_offs as u64,
        failed: summary.failed as u64,
        skipped: summary.skipped as u64,
        seconds: summary.seconds,
        critical_path_seconds: summary.critical_path_seconds,
        critical_path: summary.critical_path.clone(),
    }
}

fn message_of_condition(condition: ServerCondition) -> Condition {
    match condition {
        ServerCondition::Unreachable => Condition::Unreachable,
        ServerCondition::Overloaded => Condition::Overloaded,
        ServerCondition::Failing => Condition::Failing,
    }
}

fn message_of_outcome(outcome: Outcome) -> task_finished::Outcome {
    match outcome {
        Outcome::Ran => task_finished::Outcome::Ran,
        Outcome::WouldRun => task_finished::Outcome::WouldRun,
        // A server restores nothing. It would be a result of before.
        Outcome::Hit | Outcome::Restored => task_finished::Outcome::Hit,
        Outcome::CutOff => task_finished::Outcome::CutOff,
        Outcome::Noexec => task_finished::Outcome::Noexec,
        Outcome::Failed => task_finished::Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_wire() {
        let (recipe, task) = ("mc:other:zlib".to_owned(), "do_compile".to_owned());
        let finished = |outcome, status: Option<Code>| Event::TaskFinished {
            recipe: recipe.clone(),
            task: task.clone(),
            outcome,
            milliseconds: 5,
            error: status.map(|_| "error".to_owned()),
            status,
            log: Some("log".to_owned()),
        };
        let mut events = vec![
            Event::TaskStarted {
                recipe: recipe.clone(),
                task: task.clone(),
            },
            Event::TaskPostponed {
                recipe: recipe.clone(),
                task: task.clone(),
                reason: "gone".to_owned(),
            },
            Event::OutputsLost {
                recipe: recipe.clone(),
                task: task.clone(),
                reason: "gone".to_owned(),
            },
            Event::ExecutionResumed {
                recipe: recipe.clone(),
                task: task.clone(),
            },
            Event::Summary(Summary {
                tasks_run: 3,
                seconds: 1.5,
                critical_path: vec!["a".to_owned()],
                ..Summary::default()
            }),
        ];
        for condition in [
            ServerCondition::Unreachable,
            ServerCondition::Overloaded,
            ServerCondition::Failing,
        ] {
            events.push(Event::ExecutionInterrupted {
                recipe: recipe.clone(),
                task: task.clone(),
                condition,
                reason: "full".to_owned(),
                retry_milliseconds: 3,
            });
        }
        for outcome in [
            Outcome::Ran,
            Outcome::WouldRun,
            Outcome::Hit,
            Outcome::CutOff,
            Outcome::Noexec,
            Outcome::Failed,
        ] {
            events.push(finished(outcome, None));
            events.push(finished(outcome, Some(Code::Unavailable)));
        }
        for event in events {
            let message = message_of_event(1, &event).unwrap();
            assert_eq!(event_of_message(message), Some(event));
        }
    }
}
