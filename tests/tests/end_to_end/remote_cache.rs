//! Builds on this machine that share results through a cache.

use std::collections::BTreeSet;

use bitzel_tests::{BuildReport, Server, Site};

const RECIPE: &str = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${datadir}
	echo shared > ${D}${datadir}/shared
}
do_deploy() {
	cp ${D}${datadir}/shared ${DEPLOYDIR}/
}
"#;

fn site() -> Site {
    let site = Site::empty();
    site.add_recipe("shared", RECIPE);
    site
}

fn build(site: &Site, cache: &str, more: &[&str]) -> BuildReport {
    let output = site.path("output").display().to_string();
    let arguments = [&["--remote-cache", cache, "--output", &output, "shared"], more].concat();
    let report = site.build(&arguments).succeeded();
    let placed = std::fs::read_to_string(site.path("output/shared/shared")).expect("the output");
    assert_eq!(placed, "shared\n");
    report
}

/// A server that keeps results and runs nothing.
fn cache() -> (Site, Server) {
    let site = Site::empty();
    let server = Server::start_with(&site, &["--jobs", "0"]);
    (site, server)
}

#[test]
fn what_one_machine_builds_another_one_takes() {
    let (_site, server) = cache();
    let first = build(&site(), &server.url(), &[]);
    assert!(first.tasks("ran").contains("shared:do_install"), "{}", first.text);
    let wiped = site();
    let second = build(&wiped, &server.url(), &[]);
    assert_eq!(second.tasks("ran"), BTreeSet::new(), "{}", second.text);
    // What was taken is here now: the cache is no longer needed for it.
    drop(server);
    let third = build(&wiped, "grpc://127.0.0.1:9", &[]);
    assert_eq!(third.tasks("failed"), BTreeSet::new());
    third.assert_says(&["the build goes on without it"]);
}

#[test]
fn a_reader_gives_nothing() {
    let (_site, server) = cache();
    build(&site(), &server.url(), &["--remote-cache-read-only"]);
    let other = build(&site(), &server.url(), &[]);
    assert!(other.tasks("ran").contains("shared:do_install"), "{}", other.text);
}

#[test]
fn an_address_that_cannot_be_right_is_an_error() {
    let site = site();
    let report = site
        .build(&["--remote-cache", "gopher://cache", "shared"])
        .failed();
    report.assert_says(&["gopher", "hint: write grpc://host:port"]);
}
