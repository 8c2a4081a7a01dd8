//! Builds of a server, as text for people and as JSON for programs.

use std::time::{Duration, SystemTime};

use bitzel_proto::builds::{Build, build};
use serde_json::{Value, json};

use crate::visible_text::visible;

/// Length of the start of a name that people see. It is random, so a few letters are unique.
const SHORT_NAME_LETTERS: usize = 8;

/// Start of the name of a build, which commands take as its name.
pub(crate) fn short_name(name: &str) -> String {
    name.chars().take(SHORT_NAME_LETTERS).collect()
}

/// A build in one line.
pub(crate) fn build_line(build: &Build, now: SystemTime) -> String {
    let tasks = build.tasks.unwrap_or_default();
    let mut text = format!(
        "{}  {}  {}, {}",
        short_name(&build.id),
        state_text(build, now),
        build.targets.join(" "),
        build.user
    );
    if !build.instance_name.is_empty() {
        text.push_str(&format!(" on {}", build.instance_name));
    }
    let done = match build.progress {
        Some(progress) => format!(": {}/{} tasks, ", progress.done, progress.wanted),
        None => ": ".to_owned(),
    };
    text.push_str(&format!(
        "{done}{} ran, {} hits, {} cut off, {} failed",
        tasks.ran, tasks.hits, tasks.cut_offs, tasks.failed
    ));
    if !build.error.is_empty() {
        text.push_str(&format!("; {}", build.error));
    }
    visible(&text).into_owned()
}

fn state_text(build: &Build, now: SystemTime) -> String {
    let (word, since) = match build.state() {
        build::State::Running => ("running for", build.started_unix_millis),
        build::State::Succeeded => ("succeeded", build.ended_unix_millis),
        build::State::Cancelled => ("cancelled", build.ended_unix_millis),
        build::State::Failed | build::State::Unspecified => ("failed", build.ended_unix_millis),
    };
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(since.try_into().unwrap_or_default());
    // The clocks of two machines differ.
    let age = now.duration_since(since).unwrap_or_default();
    let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
    match build.state() {
        build::State::Running => format!("{word} {age}"),
        _ => format!("{word} {age} ago"),
    }
}

/// A build as JSON.
pub(crate) fn to_json(build: &Build) -> Value {
    let tasks = build.tasks.unwrap_or_default();
    json!({
        "id": build.id,
        "instance_name": build.instance_name,
        "user": build.user,
        "targets": build.targets,
        "state": build.state().as_str_name(),
        "started_unix_millis": build.started_unix_millis,
        "ended_unix_millis": build.ended_unix_millis,
        "progress": build.progress.map(|progress| json!({
            "done": progress.done,
            "wanted": progress.wanted,
            "running": progress.running,
        })),
        "tasks": {
            "ran": tasks.ran,
            "hits": tasks.hits,
            "cut_offs": tasks.cut_offs,
            "noexec": tasks.noexec,
            "failed": tasks.failed,
        },
        "error": build.error,
        "own": build.own,
    })
}

#[cfg(test)]
mod tests {
    use bitzel_proto::builds::{BuildProgress, TaskCounts};

    use super::*;

    #[test]
    fn a_line_tells_the_state_and_hides_control_characters() {
        let mut build = Build {
            id: "0123456789abcdef".to_owned(),
            user: "alice (token)".to_owned(),
            targets: vec!["zlib".to_owned(), "a\x1b[31m".to_owned()],
            state: build::State::Running.into(),
            started_unix_millis: 5_000,
            progress: Some(BuildProgress {
                done: 1,
                wanted: 9,
                running: 2,
            }),
            tasks: Some(TaskCounts {
                ran: 1,
                ..TaskCounts::default()
            }),
            ..Build::default()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(70);
        let line = build_line(&build, now);
        assert!(line.starts_with("01234567  running for 1m 5s  zlib a"), "{line}");
        assert!(
            line.ends_with(", alice (token): 1/9 tasks, 1 ran, 0 hits, 0 cut off, 0 failed"),
            "{line}"
        );
        assert!(!line.contains('\x1b'), "{line}");
        build.state = build::State::Failed.into();
        build.ended_unix_millis = 60_000;
        build.progress = None;
        build.error = "no store".to_owned();
        let line = build_line(&build, now);
        assert!(line.contains("  failed 10s ago  "), "{line}");
        assert!(line.ends_with("0 failed; no store"), "{line}");
    }
}
