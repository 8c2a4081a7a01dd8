//! Progress of a build for people: a status line on a terminal, plain lines elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use bitzel_graph::walk::{BuildEvent, Outcome, Summary};
use bitzel_proto::builds::EarlierEvents;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::mpsc::UnboundedReceiver;

use failures::RemoteFailures;
use outage::Outage;
use outcome_counts::OutcomeCounts;

use crate::console;
use crate::status_hint::status_hint;
use crate::visible_text::{visible, visible_json};

mod failures;
mod outage;
mod outcome_counts;

/// Interval of updates that follow from time alone: the seconds of running tasks, the end of a short outage.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);
/// Running tasks named on the status line.
const MAX_NAMED_TASKS: usize = 4;

/// Item of a display.
pub(crate) enum DisplayItem {
    /// An event of the build.
    Event(BuildEvent),
    /// Events that the server no longer has.
    Earlier(EarlierEvents),
    /// The events begin again: another server walks the graph.
    Restart,
}

impl From<BuildEvent> for DisplayItem {
    fn from(event: BuildEvent) -> Self {
        Self::Event(event)
    }
}

/// Displays the events of one build.
pub(crate) struct Display {
    bar: ProgressBar,
    terminal: bool,
    events: Option<BufWriter<File>>,
    running: BTreeMap<String, Instant>,
    counts: OutcomeCounts,
    outage: Outage,
    failures: RemoteFailures,
    /// Status codes whose hint was shown.
    hinted: BTreeSet<i32>,
    done: usize,
    wanted: usize,
}

impl Display {
    /// Displays on standard error, and writes the events to a file if one is given. Without `status_line`, tasks have the
    /// terminal for themselves.
    pub(crate) fn new(events: Option<&Path>, status_line: bool) -> io::Result<Self> {
        let terminal = status_line && io::stderr().is_terminal();
        let target = if status_line {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {wide_msg}") {
            bar.set_style(style);
        }
        if terminal {
            bar.enable_steady_tick(REFRESH_INTERVAL);
            console::set_status_line(Some(bar.clone()));
        }
        Ok(Self {
            bar,
            terminal,
            events: events.map(File::create).transpose()?.map(BufWriter::new),
            running: BTreeMap::new(),
            counts: OutcomeCounts::default(),
            outage: Outage::default(),
            failures: RemoteFailures::default(),
            hinted: BTreeSet::new(),
            done: 0,
            wanted: 0,
        })
    }

    /// Displays items until their sender is gone.
    pub(crate) async fn show(
        mut self,
        mut items: UnboundedReceiver<impl Into<DisplayItem>>,
    ) -> io::Result<()> {
        let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
        loop {
            let item = tokio::select! {
                item = items.recv() => item,
                _ = refresh.tick() => {
                    self.refresh();
                    continue;
                }
            };
            let Some(item) = item else { break };
            let event = match item.into() {
                DisplayItem::Event(event) => event,
                DisplayItem::Earlier(earlier) => {
                    self.skip(earlier);
                    continue;
                }
                DisplayItem::Restart => {
                    self.restart();
                    continue;
                }
            };
            if let Some(file) = &mut self.events
                && !matches!(event, BuildEvent::Progress { .. })
            {
                let line = serde_json::to_string(&event)? + "\n";
                file.write_all(visible_json(&line).as_bytes())?;
                // A build that is watched through the file, or killed, has its last events in it.
                file.flush()?;
            }
            self.show_event(event);
        }
        self.show_remote_failures();
        console::set_status_line(None);
        self.bar.finish_and_clear();
        Ok(())
    }

    /// Counts events that cannot be shown.
    fn skip(&mut self, earlier: EarlierEvents) {
        let finished = earlier.finished.unwrap_or_default();
        for (outcome, count) in [
            (Outcome::Ran, finished.ran),
            (Outcome::Hit, finished.hits),
            (Outcome::CutOff, finished.cut_offs),
            (Outcome::Noexec, finished.noexec),
            (Outcome::Failed, finished.failed),
        ] {
            self.counts
                .add(outcome, usize::try_from(count).unwrap_or(usize::MAX));
        }
        self.running = earlier
            .running
            .into_iter()
            .map(|name| (format!("{}:{}", name.recipe, name.task), Instant::now()))
            .collect();
        self.bar.set_message(self.status());
    }

    /// Forgets all events.
    fn restart(&mut self) {
        self.running.clear();
        self.counts = OutcomeCounts::default();
        self.outage = Outage::default();
        (self.done, self.wanted) = (0, 0);
    }

    /// Shows what has changed with time alone. The bar redraws only the message that it has.
    fn refresh(&mut self) {
        self.show_remote_failures();
        if self.terminal {
            self.outage.announce(Instant::now());
            self.bar.set_message(self.status());
        } else if let Some(line) = self.outage.line(Instant::now()) {
            console::print(&line);
        }
    }

    fn show_event(&mut self, event: BuildEvent) {
        match event {
            BuildEvent::TaskStarted { recipe, task } => {
                self.running.insert(format!("{recipe}:{task}"), Instant::now());
            }
            BuildEvent::TaskPostponed { recipe, task, reason } => {
                let name = format!("{recipe}:{task}");
                self.running.remove(&name);
                console::print(&format!(
                    "{name} waits until its inputs are built again: {reason}"
                ));
            }
            BuildEvent::OutputsLost { recipe, task, reason } => {
                console::print(&format!(
                    "{recipe}:{task} is built again for its outputs: {reason}"
                ));
            }
            BuildEvent::ExecutionInterrupted {
                recipe,
                task,
                condition,
                reason,
                retry_milliseconds,
            } => {
                let pause = Duration::from_millis(retry_milliseconds);
                let name = format!("{recipe}:{task}");
                self.outage
                    .interrupted(name, condition, reason, pause, Instant::now());
            }
            BuildEvent::ExecutionResumed { recipe, task } => {
                let name = format!("{recipe}:{task}");
                if let Some(line) = self.outage.resumed(&name, Instant::now()) {
                    console::print(&line);
                }
            }
            BuildEvent::TaskFinished {
                recipe,
                task,
                outcome,
                milliseconds,
                error,
                status,
                log,
            } => {
                let name = format!("{recipe}:{task}");
                self.running.remove(&name);
                self.outage.ended(&name);
                match outcome {
                    Outcome::Failed => {
                        let error = error.unwrap_or_default();
                        match status {
                            Some(code) => self.failures.add(name.clone(), code, error),
                            None => show_failure(&name, &error, log.as_deref()),
                        }
                    }
                    Outcome::Ran => {
                        let seconds = Duration::from_millis(milliseconds).as_secs_f64();
                        console::print(&format!("{name} done in {seconds:.1} s"));
                    }
                    Outcome::Restored => console::print(&format!("{name} restored from shared state")),
                    Outcome::WouldRun => console::print(&format!("{name} would run")),
                    Outcome::Hit | Outcome::CutOff | Outcome::Noexec => {}
                }
                self.counts.record(name, outcome);
            }
            BuildEvent::SharedStateSearched { summary } => {
                console::print(&format!("shared state: {summary}"));
            }
            BuildEvent::RestoreFailed { recipe, task, reason } => console::print(&format!(
                "WARNING: {recipe}:{task} is not restored from shared state and runs instead: {reason}"
            )),
            BuildEvent::Progress { done, wanted, .. } => (self.done, self.wanted) = (done, wanted),
            BuildEvent::Summary(_) => {}
        }
        self.bar.set_message(self.status());
    }

    /// Shows the tasks that a server failed since the last call, and the next step once for each status code.
    fn show_remote_failures(&mut self) {
        for (code, text) in self.failures.take() {
            console::print(&text);
            if let Some(hint) = status_hint(code)
                && self.hinted.insert(code as i32)
            {
                console::print(&format!("  hint: {hint}"));
            }
        }
    }

    fn status(&self) -> String {
        let outage = self.outage.status(Instant::now());
        let mut text = outage.map_or_else(String::new, |outage| format!("{outage} | "));
        text.push_str(&format!(
            "{}/{} tasks, {} ran, {} hits, {} cut off, {} remaining",
            self.done,
            self.wanted,
            self.counts.count(Outcome::Ran),
            self.counts.count(Outcome::Hit),
            self.counts.count(Outcome::CutOff),
            self.wanted.saturating_sub(self.done),
        ));
        let mut running: Vec<(&String, &Instant)> = self.running.iter().collect();
        running.sort_by_key(|(_, started)| **started);
        for (name, started) in running.iter().take(MAX_NAMED_TASKS) {
            text.push_str(&format!(" | {name} {} s", started.elapsed().as_secs()));
        }
        if running.len() > MAX_NAMED_TASKS {
            text.push_str(&format!(" | and {} more", running.len() - MAX_NAMED_TASKS));
        }
        visible(&text).into_owned()
    }
}

fn show_failure(name: &str, error: &str, log: Option<&str>) {
    let mut text = format!("{name} FAILED: {error}");
    for line in log.unwrap_or_default().lines() {
        text.push_str(&format!("\n  | {line}"));
    }
    console::print(&text);
}

/// Summary of a build in words.
pub(crate) fn summary_text(summary: &Summary) -> String {
    if summary.would_run > 0 {
        return format!(
            "dry run: at most {} tasks would run, {} results were found",
            summary.would_run, summary.signature_hits
        );
    }
    let restored = match summary.restored {
        0 => String::new(),
        count => format!("{count} restored, "),
    };
    let mut text = format!(
        "tasks: {} run, {restored}{} signature hits, {} early cut-offs, {} failed, {} skipped\n\
         store: {} up, {} down; {:.1} s, critical path {:.1} s",
        summary.tasks_run,
        summary.signature_hits,
        summary.early_cut_offs,
        summary.failed,
        summary.skipped,
        indicatif::HumanBytes(summary.bytes_uploaded),
        indicatif::HumanBytes(summary.bytes_downloaded),
        summary.seconds,
        summary.critical_path_seconds,
    );
    if !summary.critical_path.is_empty() {
        text.push_str(&format!(" ({})", shortened(&summary.critical_path).join(" -> ")));
    }
    text
}

/// Both ends of a long chain.
fn shortened(path: &[String]) -> Vec<String> {
    /// Tasks named at each end.
    const ENDS: usize = 3;
    match path {
        [first @ .., _, _, _] if path.len() > 2 * ENDS => {
            let mut short = first[..ENDS].to_vec();
            short.push(format!("... {} more", path.len() - 2 * ENDS));
            short.extend_from_slice(&path[path.len() - ENDS..]);
            short
        }
        path => path.to_vec(),
    }
}
