//! Bounded log of the events of a build, for clients that attach at any time.

use std::collections::{BTreeSet, VecDeque};

use bitzel_graph::walk::{BuildEvent, Outcome};
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

/// Maximum number of failures that the log of an ended build keeps.
const MAX_KEPT_FAILURES: usize = 32;
/// Maximum length of the task log of a kept failure, in bytes. The end says what went wrong.
const MAX_KEPT_LOG_BYTES: usize = 8 << 10;

/// Numbers of finished tasks by outcome. A task that was built again, because its result was lost, counts each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskCounts {
    /// Executed.
    pub ran: u64,
    /// Found under their signature.
    pub hits: u64,
    /// Made unnecessary by an early cut-off.
    pub cut_offs: u64,
    /// Nothing to do.
    pub noexec: u64,
    /// Failed.
    pub failed: u64,
}

impl TaskCounts {
    fn add(&mut self, event: &BuildEvent) {
        let BuildEvent::TaskFinished { outcome, .. } = event else {
            return;
        };
        match outcome {
            Outcome::Ran => self.ran += 1,
            Outcome::Hit | Outcome::Restored => self.hits += 1,
            Outcome::CutOff => self.cut_offs += 1,
            Outcome::Noexec => self.noexec += 1,
            Outcome::Failed => self.failed += 1,
            // Builds of a server are no dry runs.
            Outcome::WouldRun => {}
        }
    }

    fn less(self, earlier: Self) -> Self {
        Self {
            ran: self.ran - earlier.ran,
            hits: self.hits - earlier.hits,
            cut_offs: self.cut_offs - earlier.cut_offs,
            noexec: self.noexec - earlier.noexec,
            failed: self.failed - earlier.failed,
        }
    }
}

/// Progress of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Tasks done.
    pub done: usize,
    /// Tasks that the build needs, as far as it is known by now.
    pub wanted: usize,
    /// Tasks being executed.
    pub running: usize,
}

/// Entry that a reader gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// Events that are no longer kept.
    Earlier {
        /// Tasks that they have finished.
        finished: TaskCounts,
        /// Recipe and task of those that they have started and not finished.
        running: Vec<(String, String)>,
    },
    /// An event with its number, from 1.
    Event(u64, BuildEvent),
    /// The present progress.
    Progress(Progress),
}

/// Bounded log. When it is full, the oldest events are only counted.
pub struct EventLog {
    /// Identifier: sequence numbers of another log have no meaning in this one.
    pub id: Uuid,
    max_events: usize,
    state: Mutex<LogState>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct LogState {
    events: VecDeque<BuildEvent>,
    /// Number of events that are only counted.
    folded: u64,
    folded_counts: TaskCounts,
    folded_running: BTreeSet<(String, String)>,
    counts: TaskCounts,
    progress: Progress,
}

/// Position of a reader.
#[derive(Debug, Default)]
pub struct Position {
    /// Number of events that the reader has.
    read: u64,
    counts: TaskCounts,
    progress: Option<Progress>,
}

impl EventLog {
    /// Creates an empty log.
    pub fn new(max_events: usize) -> Self {
        Self {
            id: Uuid::new_v4(),
            max_events: max_events.max(1),
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Creates the log of a build that has ended, with what was kept of it.
    pub fn of_ended(counts: TaskCounts, events: Vec<BuildEvent>) -> Self {
        let log = Self::new(events.len());
        let mut kept = TaskCounts::default();
        for event in &events {
            kept.add(event);
        }
        *log.state.lock() = LogState {
            folded: 1,
            folded_counts: counts.less(kept),
            counts,
            events: events.into(),
            ..LogState::default()
        };
        log
    }

    /// Appends an event.
    pub fn push(&self, event: BuildEvent) {
        self.state.lock().push(event, self.max_events);
        self.changed.send_replace(());
    }

    /// Numbers of finished tasks, and the progress.
    pub fn state(&self) -> (TaskCounts, Progress) {
        let state = self.state.lock();
        (state.counts, state.progress)
    }

    /// Events that are kept when the build has ended: failures, and the summary.
    pub fn kept_events(&self) -> Vec<BuildEvent> {
        let state = self.state.lock();
        let mut failures = 0;
        let kept = state.events.iter().filter(|event| match event {
            BuildEvent::Summary(_) => true,
            BuildEvent::TaskFinished {
                outcome: Outcome::Failed,
                ..
            } => {
                failures += 1;
                failures <= MAX_KEPT_FAILURES
            }
            _ => false,
        });
        kept.cloned().map(shortened).collect()
    }

    /// Receiver that is notified of changes.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Position after the event with this number, if the log still knows what comes after it.
    pub fn position_after(&self, event: u64) -> Option<Position> {
        let state = self.state.lock();
        let kept = event.checked_sub(state.folded)?;
        let kept = usize::try_from(kept)
            .ok()
            .filter(|kept| *kept <= state.events.len())?;
        let mut counts = state.folded_counts;
        for event in state.events.iter().take(kept) {
            counts.add(event);
        }
        Some(Position {
            read: event,
            counts,
            progress: None,
        })
    }

    /// Reads up to `limit` entries, and moves the position. Nothing new gives an empty list.
    pub fn read(&self, position: &mut Position, limit: usize) -> Vec<Entry> {
        let state = self.state.lock();
        let mut entries = vec![];
        if position.read < state.folded {
            entries.push(Entry::Earlier {
                finished: state.folded_counts.less(position.counts),
                running: state.folded_running.iter().cloned().collect(),
            });
            position.read = state.folded;
            position.counts = state.folded_counts;
        }
        let skip = usize::try_from(position.read - state.folded).unwrap_or(usize::MAX);
        for event in state.events.iter().skip(skip).take(limit) {
            position.read += 1;
            position.counts.add(event);
            entries.push(Entry::Event(position.read, event.clone()));
        }
        if position.progress != Some(state.progress) {
            position.progress = Some(state.progress);
            entries.push(Entry::Progress(state.progress));
        }
        entries
    }
}

impl LogState {
    fn push(&mut self, event: BuildEvent, max_events: usize) {
        if let BuildEvent::Progress {
            done,
            wanted,
            running,
        } = event
        {
            self.progress = Progress {
                done,
                wanted,
                running,
            };
            return;
        }
        self.counts.add(&event);
        self.events.push_back(event);
        while self.events.len() > max_events {
            let Some(oldest) = self.events.pop_front() else {
                break;
            };
            self.fold(oldest);
        }
    }

    fn fold(&mut self, event: BuildEvent) {
        self.folded += 1;
        self.folded_counts.add(&event);
        match event {
            BuildEvent::TaskStarted { recipe, task } => {
                self.folded_running.insert((recipe, task));
            }
            BuildEvent::TaskFinished { recipe, task, .. }
            | BuildEvent::TaskPostponed { recipe, task, .. } => {
                self.folded_running.remove(&(recipe, task));
            }
            _ => {}
        }
    }
}

/// The event with the end of a long task log.
fn shortened(mut event: BuildEvent) -> BuildEvent {
    if let BuildEvent::TaskFinished { log: Some(log), .. } = &mut event {
        let mut start = log.len().saturating_sub(MAX_KEPT_LOG_BYTES);
        while !log.is_char_boundary(start) {
            start += 1;
        }
        log.drain(..start);
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(task: &str) -> BuildEvent {
        BuildEvent::TaskStarted {
            recipe: "r".to_owned(),
            task: task.to_owned(),
        }
    }

    fn finished(task: &str, outcome: Outcome) -> BuildEvent {
        BuildEvent::TaskFinished {
            recipe: "r".to_owned(),
            task: task.to_owned(),
            outcome,
            milliseconds: 1,
            error: None,
            status: None,
            log: None,
        }
    }

    fn ran(count: u64) -> TaskCounts {
        TaskCounts {
            ran: count,
            ..TaskCounts::default()
        }
    }

    #[test]
    fn a_reader_gets_every_event_once() {
        let log = EventLog::new(10);
        let mut position = Position::default();
        log.push(started("a"));
        log.push(finished("a", Outcome::Ran));
        let first = log.read(&mut position, 1);
        assert_eq!(first[0], Entry::Event(1, started("a")));
        let second = log.read(&mut position, 10);
        assert_eq!(second, [Entry::Event(2, finished("a", Outcome::Ran))]);
        assert_eq!(log.read(&mut position, 10), []);
    }

    #[test]
    fn a_late_reader_gets_counts_and_what_still_runs() {
        let log = EventLog::new(2);
        for event in [
            started("a"),
            started("b"),
            finished("a", Outcome::Ran),
            finished("c", Outcome::Hit),
            started("d"),
        ] {
            log.push(event);
        }
        let entries = log.read(&mut Position::default(), 10);
        assert_eq!(
            entries[..3],
            [
                Entry::Earlier {
                    finished: ran(1),
                    running: vec![("r".to_owned(), "b".to_owned())],
                },
                Entry::Event(4, finished("c", Outcome::Hit)),
                Entry::Event(5, started("d")),
            ]
        );
    }

    #[test]
    fn a_slow_reader_gets_the_difference() {
        let log = EventLog::new(1);
        let mut position = Position::default();
        log.push(finished("a", Outcome::Ran));
        log.read(&mut position, 10);
        for task in ["b", "c", "d"] {
            log.push(finished(task, Outcome::Ran));
        }
        let entries = log.read(&mut position, 10);
        assert_eq!(
            entries,
            [
                Entry::Earlier {
                    finished: ran(2),
                    running: vec![],
                },
                Entry::Event(4, finished("d", Outcome::Ran)),
            ]
        );
    }

    #[test]
    fn a_reader_goes_on_after_an_event_that_is_known() {
        let log = EventLog::new(2);
        for task in ["a", "b", "c"] {
            log.push(finished(task, Outcome::Ran));
        }
        assert!(log.position_after(0).is_none(), "the first one is folded");
        assert!(log.position_after(4).is_none(), "it does not exist yet");
        let mut position = log.position_after(2).unwrap();
        let entries = log.read(&mut position, 10);
        assert_eq!(entries[0], Entry::Event(3, finished("c", Outcome::Ran)));
    }

    #[test]
    fn an_ended_build_keeps_failures_with_the_end_of_their_log() {
        let log = EventLog::new(100);
        log.push(finished("a", Outcome::Ran));
        for number in 0..MAX_KEPT_FAILURES + 5 {
            let mut event = finished(&number.to_string(), Outcome::Failed);
            if let BuildEvent::TaskFinished { log, .. } = &mut event {
                *log = Some("é".repeat(MAX_KEPT_LOG_BYTES) + "!end");
            }
            log.push(event);
        }
        log.push(BuildEvent::Summary(bitzel_graph::walk::Summary::default()));
        let kept = log.kept_events();
        assert_eq!(kept.len(), MAX_KEPT_FAILURES + 1);
        let BuildEvent::TaskFinished { log: Some(text), .. } = &kept[0] else {
            panic!("{:?}", kept[0]);
        };
        assert!(text.ends_with("!end") && text.len() <= MAX_KEPT_LOG_BYTES);

        let (counts, _) = log.state();
        let restored = EventLog::of_ended(counts, kept);
        let entries = restored.read(&mut Position::default(), 1000);
        let Entry::Earlier { finished, .. } = &entries[0] else {
            panic!("{:?}", entries[0]);
        };
        assert_eq!((finished.ran, finished.failed), (1, 5));
        assert_eq!(restored.state().0, counts);
    }
}
