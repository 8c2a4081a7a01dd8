//! Output of programs that have ended.

use std::process::{Command, Output, Stdio};

/// Standard output and, after it, standard error.
pub fn text_of(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part));
    parts.concat()
}

/// Runs a program to its end, panics with its output unless it succeeds, and returns its standard output.
pub fn run(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text_of(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}
