//! What people see while a build runs: a status line on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use bitzel_graph::walk::{BuildEvent, Outcome, Summary};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::mpsc::UnboundedReceiver;

use tally::Tally;

mod tally;

/// How often the status line counts up the seconds of running tasks.
const TICK: Duration = Duration::from_millis(250);
/// Running tasks named on the status line.
const NAMED: usize = 4;

/// Shows the events of one build.
pub(crate) struct Display {
    bar: ProgressBar,
    terminal: bool,
    events: Option<BufWriter<File>>,
    running: BTreeMap<String, Instant>,
    tally: Tally,
    done: usize,
    wanted: usize,
}

impl Display {
    /// Shows on standard error, and writes events to a file when asked to.
    pub(crate) fn new(events: Option<&Path>) -> io::Result<Self> {
        let terminal = io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {wide_msg}") {
            bar.set_style(style);
        }
        if terminal {
            bar.enable_steady_tick(TICK);
        }
        Ok(Self {
            bar,
            terminal,
            events: events.map(File::create).transpose()?.map(BufWriter::new),
            running: BTreeMap::new(),
            tally: Tally::default(),
            done: 0,
            wanted: 0,
        })
    }

    /// Shows events until their sender is gone.
    pub(crate) async fn show(mut self, mut events: UnboundedReceiver<BuildEvent>) -> io::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                // The bar redraws the message that it has; the seconds in it are counted up here.
                _ = tick.tick(), if self.terminal => {
                    self.bar.set_message(self.status());
                    continue;
                }
            };
            let Some(event) = event else { break };
            if let Some(file) = &mut self.events
                && !matches!(event, BuildEvent::Progress { .. })
            {
                serde_json::to_writer(&mut *file, &event)?;
                file.write_all(b"\n")?;
                // A build that is watched through the file, or killed, has its last events in it.
                file.flush()?;
            }
            self.show_event(event);
        }
        self.bar.finish_and_clear();
        Ok(())
    }

    fn show_event(&mut self, event: BuildEvent) {
        match event {
            BuildEvent::TaskStarted { recipe, task } => {
                self.running.insert(format!("{recipe}:{task}"), Instant::now());
            }
            BuildEvent::TaskPostponed { recipe, task, reason } => {
                let name = format!("{recipe}:{task}");
                self.running.remove(&name);
                self.line(&format!("{name} waits until its inputs are made again: {reason}"));
            }
            BuildEvent::TaskFinished {
                recipe,
                task,
                outcome,
                milliseconds,
                error,
                log,
            } => {
                let name = format!("{recipe}:{task}");
                self.running.remove(&name);
                match outcome {
                    Outcome::Failed => self.show_failure(&name, error.as_deref(), log.as_deref()),
                    Outcome::Ran => {
                        let seconds = Duration::from_millis(milliseconds).as_secs_f64();
                        self.line(&format!("{name} done in {seconds:.1} s"));
                    }
                    Outcome::Hit | Outcome::CutOff | Outcome::Noexec => {}
                }
                self.tally.record(name, outcome);
            }
            BuildEvent::Progress { done, wanted, .. } => (self.done, self.wanted) = (done, wanted),
            BuildEvent::Summary(_) => {}
        }
        self.bar.set_message(self.status());
    }

    fn show_failure(&self, name: &str, error: Option<&str>, log: Option<&str>) {
        self.line(&format!("{name} FAILED: {}", error.unwrap_or_default()));
        for line in log.unwrap_or_default().lines() {
            self.line(&format!("  | {line}"));
        }
    }

    fn line(&self, text: &str) {
        if self.terminal {
            self.bar.println(text);
        } else {
            writeln!(io::stderr(), "{text}").ok();
        }
    }

    fn status(&self) -> String {
        let mut text = format!(
            "{}/{} tasks, {} ran, {} hits, {} cut off, {} remaining",
            self.done,
            self.wanted,
            self.tally.count(Outcome::Ran),
            self.tally.count(Outcome::Hit),
            self.tally.count(Outcome::CutOff),
            self.wanted.saturating_sub(self.done),
        );
        let mut running: Vec<(&String, &Instant)> = self.running.iter().collect();
        running.sort_by_key(|(_, started)| **started);
        for (name, started) in running.iter().take(NAMED) {
            text.push_str(&format!(" | {name} {} s", started.elapsed().as_secs()));
        }
        if running.len() > NAMED {
            text.push_str(&format!(" | and {} more", running.len() - NAMED));
        }
        text
    }
}

/// The end of a build in words.
pub(crate) fn summary_text(summary: &Summary) -> String {
    let mut text = format!(
        "tasks: {} run, {} signature hits, {} early cut-offs, {} failed, {} skipped\n\
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

/// The two ends of a long chain.
fn shortened(path: &[String]) -> Vec<String> {
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
