//! Builds on this machine that share results through caches of other projects.

use std::collections::BTreeSet;
use std::process::Command;

use bitzel_tests::peers::{BAZEL_REMOTE, BB_STORAGE, BUILDBOX_CASD};
use bitzel_tests::{
    BbStorageSize, BuildReport, ListeningProcess, S3_KEYS, S3Server, Site, configure_bb_storage, free_address,
};
use tempfile::TempDir;

/// Builds real software on a site without any results.
fn build(cache: &str, variables: &[(&str, &str)]) -> BuildReport {
    let site = Site::empty();
    let output = site.path("output");
    let place = output.display().to_string();
    let report = site.build_with(variables, &["--remote-cache", cache, "--output", &place, "zlib"]);
    let report = report.succeeded();
    assert!(!report.text.contains("goes on without it"), "{}", report.text);
    assert!(output.join("packages/zlib/zlib.tar").is_file() || output.join("zlib").is_dir());
    report
}

/// Builds on two sites; the second one runs nothing, because all results come from the cache.
fn assert_shared_through(cache: &str, variables: &[(&str, &str)]) {
    let first = build(cache, variables);
    assert!(first.tasks("ran").contains("zlib:do_compile"), "{}", first.text);
    let second = build(cache, variables);
    assert_eq!(second.tasks("ran"), BTreeSet::new(), "{}", second.text);
    assert!(second.summary("bytes_downloaded") > 0);
}

fn temporary_directory() -> TempDir {
    TempDir::with_prefix("bitzel-cache-").expect("a temporary directory")
}

#[test]
fn builds_share_results_through_bazel_remote() {
    let Some(program) = BAZEL_REMOTE.program_or_skip() else {
        return;
    };
    for scheme in ["grpc", "http"] {
        let (grpc, http) = (free_address(), free_address());
        let address = if scheme == "grpc" { grpc } else { http };
        let directory = temporary_directory();
        let mut command = Command::new(&program);
        command
            .arg("--dir")
            .arg(directory.path())
            .args(["--max_size", "1", "--access_log_level", "none"])
            .args(["--grpc_address", &grpc.to_string()])
            .args(["--http_address", &http.to_string()]);
        let _server = ListeningProcess::start(command, &[address]);
        assert_shared_through(&format!("{scheme}://{address}"), &[]);
    }
}

#[test]
fn builds_share_results_through_bb_storage() {
    let Some(program) = BB_STORAGE.program_or_skip() else {
        return;
    };
    let address = free_address();
    let directory = temporary_directory();
    let mut command = Command::new(&program);
    command.arg(configure_bb_storage(
        directory.path(),
        address,
        BbStorageSize::README,
    ));
    let _server = ListeningProcess::start(command, &[address]);
    assert_shared_through(&format!("grpc://{address}"), &[]);
}

#[test]
fn builds_share_results_through_buildbox_casd() {
    let Some(program) = BUILDBOX_CASD.program_or_skip() else {
        return;
    };
    let address = free_address();
    let directory = temporary_directory();
    let mut command = Command::new(&program);
    command.arg(format!("--bind={address}")).arg(directory.path());
    let _server = ListeningProcess::start(command, &[address]);
    assert_shared_through(&format!("grpc://{address}"), &[]);
}

#[test]
fn builds_share_results_through_an_s3_server() {
    let server = S3Server::start();
    let keys = [
        ("AWS_ACCESS_KEY_ID", S3_KEYS.0),
        ("AWS_SECRET_ACCESS_KEY", S3_KEYS.1),
    ];
    assert_shared_through(&server.url(), &keys);
}
