//! Result of one run of `bitzel build`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::program_output::text_of;

/// Exit code, output and events of one build.
#[derive(Clone, Debug)]
pub struct BuildReport {
    /// The exit code; `None` if a signal ended the program.
    pub exit_code: Option<i32>,
    /// Standard output and, after it, standard error.
    pub text: String,
    events: Vec<Value>,
}

impl BuildReport {
    pub(crate) fn new(output: &Output, events_file: &Path) -> Self {
        // A build that fails before it starts writes no events.
        let events = std::fs::read_to_string(events_file).unwrap_or_default();
        let events = events
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("event {line:?}: {error}")))
            .collect();
        Self {
            exit_code: output.status.code(),
            text: text_of(output),
            events,
        }
    }

    /// A form from which another process can make an equal report.
    pub(crate) fn to_json(&self) -> String {
        json!({"exit_code": self.exit_code, "text": self.text, "events": self.events}).to_string()
    }

    pub(crate) fn from_json(text: &str) -> Self {
        let document: Value = serde_json::from_str(text).expect("a report in JSON");
        let exit_code = document["exit_code"].as_i64();
        Self {
            exit_code: exit_code.map(|code| i32::try_from(code).expect("an exit code")),
            text: document["text"].as_str().expect("a text").to_owned(),
            events: document["events"].as_array().expect("a list of events").clone(),
        }
    }

    /// Panics with the output unless the build succeeded.
    #[must_use = "or call it for its check alone and drop the result with `drop`"]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.exit_code, Some(0), "the build failed:\n{}", self.text);
        self
    }

    /// Panics unless the build ended with exit code 1: a task or the metadata failed.
    #[must_use = "or call it for its check alone and drop the result with `drop`"]
    pub fn failed(self) -> Self {
        assert_eq!(
            self.exit_code,
            Some(1),
            "this build should have failed with 1:\n{}",
            self.text
        );
        self
    }

    /// Panics unless the output contains all of these texts.
    pub fn assert_says(&self, expected: &[&str]) {
        for text in expected {
            assert!(
                self.text.contains(text),
                "the output does not contain {text:?}:\n{}",
                self.text
            );
        }
    }

    /// The tasks with an outcome (`ran`, `hit`, `cut_off`, `failed`, `noexec`), as `recipe:do_task`.
    pub fn tasks(&self, outcome: &str) -> BTreeSet<String> {
        self.events("task_finished")
            .filter(|event| event["outcome"] == outcome)
            .map(task_name)
            .collect()
    }

    /// The tasks that were started, as `recipe:do_task`.
    pub fn started(&self) -> BTreeSet<String> {
        self.events("task_started").map(task_name).collect()
    }

    /// The recipes with at least one task that ran.
    pub fn recipes_that_ran(&self) -> BTreeSet<String> {
        let tasks = self.tasks("ran");
        tasks
            .iter()
            .filter_map(|task| task.split_once(':'))
            .map(|(recipe, _)| recipe.to_owned())
            .collect()
    }

    /// A number of the summary, by its name there.
    pub fn summary(&self, name: &str) -> u64 {
        let summary = self
            .events("summary")
            .last()
            .unwrap_or_else(|| panic!("the build wrote no summary event:\n{}", self.text));
        summary[name]
            .as_u64()
            .unwrap_or_else(|| panic!("the summary has no number {name:?}: {summary}"))
    }

    fn events<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event["event"] == name)
    }
}

fn task_name(event: &Value) -> String {
    let text = |name: &str| {
        event[name]
            .as_str()
            .unwrap_or_else(|| panic!("the event has no text {name:?}: {event}"))
            .to_owned()
    };
    format!("{}:{}", text("recipe"), text("task"))
}
