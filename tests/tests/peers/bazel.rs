//! Bazel 4.2.3, the version that Debian has. It knows no compression of the remote cache: that came with Bazel 5.

use std::path::Path;

use bitzel_tests::bazel::{Bazel, REMOTE_ACTIONS};
use bitzel_tests::peers::BAZEL;
use bitzel_tests::{Server, Site};

/// Actions that follow from the source: the upper genrule and the test.
const FOLLOWING_ACTIONS: u64 = 2;

fn executor(server: &Server) -> String {
    format!("--remote_executor={}", server.url())
}

fn cache(server: &Server) -> String {
    format!("--remote_cache={}", server.url())
}

#[test]
fn a_workspace_is_built_and_tested_by_remote_execution_once() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = Server::start(&site);
    let bazel = Bazel::new(program);
    let first = bazel.test(&[&executor(&server)]).succeeded();
    assert_eq!(first.count("remote"), REMOTE_ACTIONS, "{}", first.text);
    let text = std::fs::read_to_string(bazel.path("bazel-bin/above.txt")).expect("an output");
    assert_eq!(text, "below\nsource\n");
    bazel.clean();
    let second = bazel.test(&[&executor(&server)]).succeeded();
    assert_eq!(
        second.count("remote cache hit"),
        REMOTE_ACTIONS,
        "{}",
        second.text
    );
    assert_eq!(second.count("remote"), 0, "{}", second.text);
    bazel.edit_source("changed\n");
    let third = bazel.test(&[&executor(&server)]).succeeded();
    assert_eq!(third.count("remote"), FOLLOWING_ACTIONS, "{}", third.text);
    let text = std::fs::read_to_string(bazel.path("bazel-bin/above.txt")).expect("an output");
    assert_eq!(text, "below\nchanged\n");
}

#[test]
fn a_command_that_fails_on_the_server_fails_in_bazel_with_its_output() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = Server::start(&site);
    let bazel = Bazel::new(program);
    std::fs::write(
        bazel.path("BUILD"),
        r#"genrule(name = "failing", outs = ["x"], cmd = "echo went wrong on purpose >&2; exit 3")"#,
    )
    .expect("a BUILD file");
    let report = bazel.test(&[&executor(&server)]);
    assert!(!report.success, "{}", report.text);
    assert!(
        report.text.contains("went wrong on purpose") && report.text.contains("Exit 3"),
        "{}",
        report.text
    );
}

#[test]
fn what_one_bazel_built_itself_another_takes_from_the_cache() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = Server::start(&site);
    let first = Bazel::new(program.clone());
    let report = first.test(&[&cache(&server)]).succeeded();
    assert_eq!(report.count("remote cache hit"), 0, "{}", report.text);
    let second = Bazel::new(program);
    let report = second.test(&[&cache(&server)]).succeeded();
    assert_eq!(
        report.count("remote cache hit"),
        REMOTE_ACTIONS,
        "{}",
        report.text
    );
}

#[test]
fn intermediate_outputs_stay_on_the_server_when_bazel_downloads_the_minimum() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = Server::start(&site);
    let bazel = Bazel::new(program);
    let flags = [&*executor(&server), "--remote_download_minimal"];
    let first = bazel.test(&flags).succeeded();
    assert_eq!(first.count("remote"), REMOTE_ACTIONS, "{}", first.text);
    assert!(!bazel.path("bazel-bin/below.txt").exists());
    // The upper genrule gets an input that this machine never had.
    bazel.edit_source("changed\n");
    let second = bazel.test(&flags).succeeded();
    assert_eq!(second.count("remote"), FOLLOWING_ACTIONS, "{}", second.text);
    assert!(!bazel.path("bazel-bin/above.txt").exists());
}

/// Takes all blobs from the store of a server that is not running, and leaves its action cache.
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
fn results_whose_blobs_were_lost_are_no_hits_and_are_made_again() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let bazel = Bazel::new(program);
    let server = Server::start(&site);
    let first = bazel.test(&[&executor(&server)]).succeeded();
    assert_eq!(first.count("remote"), REMOTE_ACTIONS, "{}", first.text);
    drop(server);
    lose_blobs(&site);
    let server = Server::start(&site);
    bazel.clean();
    let second = bazel.test(&[&executor(&server)]).succeeded();
    assert_eq!(second.count("remote"), REMOTE_ACTIONS, "{}", second.text);
    assert_eq!(second.count("remote cache hit"), 0, "{}", second.text);
}

#[test]
fn inputs_that_the_server_lost_in_the_middle_are_uploaded_again() {
    let Some(program) = BAZEL.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let bazel = Bazel::new(program);
    let server = Server::start(&site);
    drop(bazel.test(&[&executor(&server)]).succeeded());
    drop(server);
    lose_blobs(&site);
    let server = Server::start(&site);
    // Bazel has the lower output on this machine and believes that the server has it, too.
    bazel.edit_source("changed\n");
    let second = bazel.test(&[&executor(&server)]).succeeded();
    assert_eq!(second.count("remote"), FOLLOWING_ACTIONS, "{}", second.text);
    let text = std::fs::read_to_string(bazel.path("bazel-bin/above.txt")).expect("an output");
    assert_eq!(text, "below\nchanged\n");
}
