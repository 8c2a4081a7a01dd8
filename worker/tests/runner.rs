//! The integration tests of the worker, as one program.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::path::Path;

mod action_network;
mod bounds;
mod busy_commands;
mod execution;
mod full_caches;
mod harness;
mod hostile_actions;
mod image_roots;
mod incremental_builds;
mod input_cache;
mod inputs;
mod kept_outputs;
mod merged_outputs;
mod prefetch;
mod relative_paths;
mod resource_usage;
mod roots_in_inputs;
mod sandbox_end;
mod sandbox_isolation;
mod shared_limits;
mod stuck_workers;
mod system_calls;
mod tool_chains;
mod undeclared_writes;
mod user_access;

#[test]
fn every_test_file_is_a_module() {
    let declared = include_str!("runner.rs")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned()));
    let declared: BTreeSet<String> = declared.collect();
    let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let modules = names
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .filter(|name| name != "runner");
    assert_eq!(modules.collect::<BTreeSet<_>>(), declared);
}
