//! Bazel over TLS by gRPC, with a password or a certificate.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bitzel_tests::Site;
use bitzel_tests::bazel::{Bazel, BazelReport, REMOTE_ACTIONS};
use bitzel_tests::peers::{BAZEL, NETTY_TCNATIVE};

use super::guarded_server::guarded_server;

/// A Bazel with gRPC over TLS, or `None` after a `SKIPPED` line.
fn bazel() -> Option<Bazel> {
    let program = BAZEL.program_or_skip()?;
    let library = NETTY_TCNATIVE.program_or_skip()?;
    Some(Bazel::with_grpc_over_tls(program, &library))
}

fn password(user: &str) -> String {
    let pair = BASE64_STANDARD.encode(format!("{user}:secret"));
    format!("--remote_header=authorization=Basic {pair}")
}

/// Bazel's flag to trust the authority of the site.
fn authority(site: &Site) -> String {
    format!("--tls_certificate={}", site.path("ca.pem").display())
}

fn assert_refused(report: &BazelReport, reason: &str) {
    assert!(!report.success && report.text.contains(reason), "{}", report.text);
}

#[test]
fn passwords_over_tls_allow_execution_and_caching() {
    let Some(bazel) = bazel() else {
        return;
    };
    let site = Site::empty();
    let server = guarded_server(&site, &[]);
    assert!(server.url().starts_with("grpcs://"));
    let (executor, cache) = (server.bazel_executor_flag(), server.bazel_cache_flag());
    let authority = authority(&site);
    let (ci, dev) = (password("ci"), password("dev"));
    let first = bazel.test(&[&executor, &authority, &ci]).succeeded();
    assert_eq!(first.count("remote"), REMOTE_ACTIONS, "{}", first.text);
    let text = std::fs::read_to_string(bazel.path("bazel-bin/above.txt")).expect("an output");
    assert_eq!(text, "below\nsource\n");

    bazel.clean();
    let minimal = "--remote_download_minimal";
    let second = bazel.test(&[&executor, &authority, &ci, minimal]).succeeded();
    assert_eq!(
        second.count("remote cache hit"),
        REMOTE_ACTIONS,
        "{}",
        second.text
    );
    assert!(!bazel.path("bazel-bin/above.txt").exists());

    // An identity without the right to execute can still read results, with the flag against recording them.
    bazel.clean();
    assert_refused(
        &bazel.test(&[&cache, &authority, &dev]),
        "not authorized to write",
    );
    let read_only = [&*cache, &authority, &dev, "--noremote_upload_local_results"];
    let third = bazel.test(&read_only).succeeded();
    assert_eq!(third.count("remote cache hit"), REMOTE_ACTIONS, "{}", third.text);
    bazel.clean();
    assert_refused(&bazel.test(&[&executor, &authority, &dev]), "not authorized to");
    assert_refused(&bazel.test(&[&executor, &authority]), "UNAUTHENTICATED");
    // Without the authority Bazel does not trust the server and sends nothing to it.
    let report = bazel.test(&[&executor, &ci]);
    assert!(!report.success, "{}", report.text);
    let log = std::fs::read_to_string(site.path("log")).expect("the server's log");
    for flag in [&ci, &dev] {
        let (_, pair) = flag.split_once("Basic ").expect("a password");
        assert!(!log.contains(pair), "a password is in the log");
    }
}

#[test]
fn client_certificates_allow_execution_and_caching() {
    let Some(bazel) = bazel() else {
        return;
    };
    let site = Site::empty();
    let server = guarded_server(&site, &[]);
    let certificate = format!("--tls_client_certificate={}", site.path("client.pem").display());
    let key = format!("--tls_client_key={}", site.path("client.key").display());
    let flags = [&*authority(&site), &certificate, &key];
    // Writes to the cache need the right to record results.
    let first = bazel
        .test(&[&flags[..], &[&server.bazel_cache_flag()]].concat())
        .succeeded();
    assert_eq!(first.count("remote cache hit"), 0, "{}", first.text);
    bazel.clean();
    let second = bazel
        .test(&[&flags[..], &[&server.bazel_cache_flag()]].concat())
        .succeeded();
    assert_eq!(
        second.count("remote cache hit"),
        REMOTE_ACTIONS,
        "{}",
        second.text
    );
    // And so does execution, of Actions that are not in the cache.
    bazel.clean();
    bazel.edit_source("changed\n");
    let third = bazel
        .test(&[&flags[..], &[&server.bazel_executor_flag()]].concat())
        .succeeded();
    assert!(third.count("remote") > 0, "{}", third.text);
    let text = std::fs::read_to_string(bazel.path("bazel-bin/above.txt")).expect("an output");
    assert_eq!(text, "below\nchanged\n");
}
