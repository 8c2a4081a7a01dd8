//! All integration tests of `bitzel`, in one program: it is linked once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod command_line;
mod protocol;
mod store;

use std::fs;
use std::path::Path;

#[test]
fn every_file_is_a_module() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let forgotten = forgotten_files(&tests, &tests.join("runner.rs"));
    assert!(forgotten.is_empty(), "not declared with `mod`: {forgotten:?}");
}

/// Files of a directory that the module in `parent` does not declare, and those of its submodules.
fn forgotten_files(directory: &Path, parent: &Path) -> Vec<String> {
    let declarations = fs::read_to_string(parent).unwrap();
    let mut forgotten = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path == parent {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.is_dir() {
            forgotten.extend(forgotten_files(&path, &path.with_extension("rs")));
        } else if !declarations.lines().any(|line| line == format!("mod {name};")) {
            forgotten.push(path.display().to_string());
        }
    }
    forgotten
}
