//! Bazel as a client by gRPC: version 4.2.3 of Debian, without compression of the remote cache, which Bazel 5 added.

use std::path::Path;

use bitzel_tests::bazel::{Bazel, REMOTE_ACTIONS};
use bitzel_tests::peers::BAZEL;
use bitzel_tests::{BitzelServer, Site};

/// Actions that depend on the source: the genrule `above` and the test.
const DEPENDENT_ACTIONS: u64 = 2;

#[test]
fn remote_execution_runs_each_action_once() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = BitzelServer::start(&site);
    let bazel = Bazel::new(program);
    let first = bazel.test(&[&server.bazel_executor_flag()]).succeeded();
    assert_eq!(first.count("remote"), REMOTE_ACTIONS, "{}", first.text);
    let text = std::fs::read_to_string(bazel.path("bazel-bin/above.txt")).expect("an output");
    assert_eq!(text, "below\nsource\n");
    bazel.clean();
    let second = bazel.test(&[&server.bazel_executor_flag()]).succeeded();
    assert_eq!(
        second.count("remote cache hit"),
        REMOTE_ACTIONS,
        "{}",
        second.text
    );
    assert_eq!(second.count("remote"), 0, "{}", second.text);
    bazel.edit_source("changed\n");
    let third = bazel.test(&[&server.bazel_executor_flag()]).succeeded();
    assert_eq!(third.count("remote"), DEPENDENT_ACTIONS, "{}", third.text);
    let text = std::fs::read_to_string(bazel.path("bazel-bin/above.txt")).expect("an output");
    assert_eq!(text, "below\nchanged\n");
}

#[test]
fn a_failing_remote_command_shows_its_output_in_bazel() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = BitzelServer::start(&site);
    let bazel = Bazel::new(program);
    std::fs::write(
        bazel.path("BUILD"),
        r#"genrule(name = "failing", outs = ["x"], cmd = "echo went wrong on purpose >&2; exit 3")"#,
    )
    .expect("a BUILD file");
    let report = bazel.test(&[&server.bazel_executor_flag()]);
    assert!(!report.success, "{}", report.text);
    assert!(
        report.text.contains("went wrong on purpose") && report.text.contains("Exit 3"),
        "{}",
        report.text
    );
}

#[test]
fn local_results_of_one_bazel_are_hits_for_another() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = BitzelServer::start(&site);
    let first = Bazel::new(program.clone());
    let report = first.test(&[&server.bazel_cache_flag()]).succeeded();
    assert_eq!(report.count("remote cache hit"), 0, "{}", report.text);
    let second = Bazel::new(program);
    let report = second.test(&[&server.bazel_cache_flag()]).succeeded();
    assert_eq!(
        report.count("remote cache hit"),
        REMOTE_ACTIONS,
        "{}",
        report.text
    );
}

#[test]
fn minimal_downloads_leave_intermediate_outputs_remote() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = BitzelServer::start(&site);
    let bazel = Bazel::new(program);
    let flags = [&*server.bazel_executor_flag(), "--remote_download_minimal"];
    let first = bazel.test(&flags).succeeded();
    assert_eq!(first.count("remote"), REMOTE_ACTIONS, "{}", first.text);
    assert!(!bazel.path("bazel-bin/below.txt").exists());
    // `above` has an input that was never on this machine.
    bazel.edit_source("changed\n");
    let second = bazel.test(&flags).succeeded();
    assert_eq!(second.count("remote"), DEPENDENT_ACTIONS, "{}", second.text);
    assert!(!bazel.path("bazel-bin/above.txt").exists());
}

/// Removes all blobs from the store of a stopped server, and leaves its action cache.
fn lose_blobs(site: &Site) {
    let store = find_store(&site.cache()).expect("the server keeps its blobs in a directory `cas`");
    std::fs::remove_dir_all(store).expect("the blobs can be removed");
}

fn find_store(directory: &Path) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?;
    let mut directories = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir());
    directories.find_map(|path| {
        if path.ends_with("cas") {
            Some(path)
        } else {
            find_store(&path)
        }
    })
}

#[test]
fn results_with_lost_blobs_are_built_again() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let bazel = Bazel::new(program);
    let server = BitzelServer::start(&site);
    let first = bazel.test(&[&server.bazel_executor_flag()]).succeeded();
    assert_eq!(first.count("remote"), REMOTE_ACTIONS, "{}", first.text);
    drop(server);
    lose_blobs(&site);
    let server = BitzelServer::start(&site);
    bazel.clean();
    let second = bazel.test(&[&server.bazel_executor_flag()]).succeeded();
    assert_eq!(second.count("remote"), REMOTE_ACTIONS, "{}", second.text);
    assert_eq!(second.count("remote cache hit"), 0, "{}", second.text);
}

#[test]
fn inputs_that_the_server_lost_are_uploaded_again() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let bazel = Bazel::new(program);
    let server = BitzelServer::start(&site);
    drop(bazel.test(&[&server.bazel_executor_flag()]).succeeded());
    drop(server);
    lose_blobs(&site);
    let server = BitzelServer::start(&site);
    // Bazel has the output of `below` on this machine and expects it on the server, too.
    bazel.edit_source("changed\n");
    let second = bazel.test(&[&server.bazel_executor_flag()]).succeeded();
    assert_eq!(second.count("remote"), DEPENDENT_ACTIONS, "{}", second.text);
    let text = std::fs::read_to_string(bazel.path("bazel-bin/above.txt")).expect("an output");
    assert_eq!(text, "below\nchanged\n");
}
