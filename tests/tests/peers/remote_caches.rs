//! Builds on this machine that share results through the caches that people already have.

use std::collections::BTreeSet;

use bitzel_tests::peers::{BAZEL_REMOTE, BB_STORAGE, BUILDBOX_CASD};
use bitzel_tests::{
    BbStorageSize, BuildReport, CacheServer, S3_KEYS, S3Server, Site, configure_bb_storage, free_address,
};

/// One build of some real software on a machine that has built nothing.
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

/// A second machine runs nothing: everything comes from the cache.
fn is_shared_through(cache: &str, variables: &[(&str, &str)]) {
    let first = build(cache, variables);
    assert!(first.tasks("ran").contains("zlib:do_compile"), "{}", first.text);
    let second = build(cache, variables);
    assert_eq!(second.tasks("ran"), BTreeSet::new(), "{}", second.text);
    assert!(second.summary("bytes_downloaded") > 0);
}

#[test]
fn a_build_is_shared_through_bazel_remote_by_grpc_and_by_http() {
    let Some(program) = BAZEL_REMOTE.program_or_skip() else {
        return;
    };
    for scheme in ["grpc", "http"] {
        let (grpc, http) = (free_address(), free_address());
        let address = if scheme == "grpc" { grpc } else { http };
        let _server = CacheServer::start(&program, address, |command, directory| {
            command
                .arg("--dir")
                .arg(directory)
                .args(["--max_size", "1", "--access_log_level", "none"])
                .args(["--grpc_address", &grpc.to_string()])
                .args(["--http_address", &http.to_string()]);
        });
        is_shared_through(&format!("{scheme}://{address}"), &[]);
    }
}

#[test]
fn a_build_is_shared_through_bb_storage() {
    let Some(program) = BB_STORAGE.program_or_skip() else {
        return;
    };
    let address = free_address();
    let _server = CacheServer::start(&program, address, |command, directory| {
        command.arg(configure_bb_storage(directory, address, BbStorageSize::README));
    });
    is_shared_through(&format!("grpc://{address}"), &[]);
}

#[test]
fn a_build_is_shared_through_buildbox_casd() {
    let Some(program) = BUILDBOX_CASD.program_or_skip() else {
        return;
    };
    let address = free_address();
    let _server = CacheServer::start(&program, address, |command, directory| {
        command.arg(format!("--bind={address}")).arg(directory);
    });
    is_shared_through(&format!("grpc://{address}"), &[]);
}

#[test]
fn a_build_is_shared_through_an_s3_server() {
    let server = S3Server::start();
    let keys = [
        ("AWS_ACCESS_KEY_ID", S3_KEYS.0),
        ("AWS_SECRET_ACCESS_KEY", S3_KEYS.1),
    ];
    is_shared_through(&server.url(), &keys);
}
