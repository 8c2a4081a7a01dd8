//! Bazel over TLS by gRPC, with a password or a certificate.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bitzel_tests::bazel::{Bazel, BazelReport, REMOTE_ACTIONS};
use bitzel_tests::peers::{BAZEL, NETTY_TCNATIVE};
use bitzel_tests::{Server, Site};

use super::guarded::guarded_server;

/// A Bazel that can speak gRPC over TLS, or `None` after a line that says what is missing.
fn bazel() -> Option<Bazel> {
    let program = BAZEL.program_or_skip()?;
    let library = NETTY_TCNATIVE.program_or_skip()?;
    Some(Bazel::with_grpc_over_tls(program, &library))
}

fn password(user: &str) -> String {
    let pair = BASE64_STANDARD.encode(format!("{user}:secret"));
    format!("--remote_header=authorization=Basic {pair}")
}

/// Flags with which Bazel believes the authority of the site.
fn authority(site: &Site) -> String {
    format!("--tls_certificate={}", site.path("ca.pem").display())
}

fn executor(server: &Server) -> String {
    assert!(server.url().starts_with("grpcs://"));
    format!("--remote_executor={}", server.url())
}

fn cache(server: &Server) -> String {
    format!("--remote_cache={}", server.url())
}

fn refused(report: &BazelReport, reason: &str) {
    assert!(!report.success && report.text.contains(reason), "{}", report.text);
}

#[test]
fn over_tls_a_workspace_is_built_remotely_and_cached_for_who_has_a_password() {
    let Some(bazel) = bazel() else {
        return;
    };
    let site = Site::empty();
    let server = guarded_server(&site, &[]);
    let (executor, cache, authority) = (executor(&server), cache(&server), authority(&site));
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

    // Who may not execute may still take what others had executed, and has to say that it records nothing.
    bazel.clean();
    refused(
        &bazel.test(&[&cache, &authority, &dev]),
        "not authorized to write",
    );
    let takes = [&*cache, &authority, &dev, "--noremote_upload_local_results"];
    let third = bazel.test(&takes).succeeded();
    assert_eq!(third.count("remote cache hit"), REMOTE_ACTIONS, "{}", third.text);
    bazel.clean();
    refused(&bazel.test(&[&executor, &authority, &dev]), "not authorized to");
    refused(&bazel.test(&[&executor, &authority]), "UNAUTHENTICATED");
    // Without the authority Bazel does not believe the server, and says nothing to it.
    let report = bazel.test(&[&executor, &ci]);
    assert!(!report.success, "{}", report.text);
    let log = std::fs::read_to_string(site.path("log")).expect("the server's log");
    for flag in [&ci, &dev] {
        let (_, pair) = flag.split_once("Basic ").expect("a password");
        assert!(!log.contains(pair), "a password is in the log");
    }
}

#[test]
fn over_tls_a_certificate_of_the_client_is_as_good_as_a_password() {
    let Some(bazel) = bazel() else {
        return;
    };
    let site = Site::empty();
    let server = guarded_server(&site, &[]);
    let certificate = format!("--tls_client_certificate={}", site.path("client.pem").display());
    let key = format!("--tls_client_key={}", site.path("client.key").display());
    let flags = [&*authority(&site), &certificate, &key];
    // Filling the cache needs the right to record results.
    let first = bazel.test(&[&flags[..], &[&cache(&server)]].concat()).succeeded();
    assert_eq!(first.count("remote cache hit"), 0, "{}", first.text);
    bazel.clean();
    let second = bazel.test(&[&flags[..], &[&cache(&server)]].concat()).succeeded();
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
        .test(&[&flags[..], &[&executor(&server)]].concat())
        .succeeded();
    assert!(third.count("remote") > 0, "{}", third.text);
    let text = std::fs::read_to_string(bazel.path("bazel-bin/above.txt")).expect("an output");
    assert_eq!(text, "below\nchanged\n");
}
