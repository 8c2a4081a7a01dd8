//! Workers on two distributions of one farm: results of one are never used on the other.

use std::collections::BTreeSet;

use bitzel_tests::peers::skip;
use bitzel_tests::{BitzelServer, BuildReport, DebianRoot, RootedWorker, Site, poll_until};

/// A native program that knows the libc it was compiled for and the one that it runs with.
const PROBE_NATIVE: &str = r#"
LICENSE = "MIT"
inherit native
S = "${UNPACKDIR}"
SRC_URI = "file://probe.c"
do_compile() {
	${CC} -o probe probe.c
}
do_install() {
	install -d ${D}${bindir}
	cp probe ${D}${bindir}/
}
"#;

const PROBE_SOURCE: &str = r#"
#include <gnu/libc-version.h>
#include <stdio.h>
int main(void) {
    printf("compiled for %d.%d, runs with %s\n", __GLIBC__, __GLIBC_MINOR__, gnu_get_libc_version());
    return 0;
}
"#;

/// Runs the native program.
const REPORT: &str = r#"
LICENSE = "MIT"
DEPENDS = "probe-native"
do_compile() {
	probe > report
}
do_install() {
	install -d ${D}
}
do_deploy() {
	cp ${B}/report ${DEPLOYDIR}/
}
"#;

/// The server gives up soon, because all workers are there before the first build.
const CONFIGURATION: &str = "[execution]\njobs = 0\nno_worker_timeout = \"3s\"\n";

/// A client with an empty cache and the recipe `report`, which deploys what a native program says about its libc.
pub(super) fn client() -> Site {
    let site = Site::empty();
    site.add_recipe("probe-native", PROBE_NATIVE);
    site.add_recipe("report", REPORT);
    let files = site.layer().join("recipes/probe-native/files");
    std::fs::create_dir(&files).expect("a directory");
    std::fs::write(files.join("probe.c"), PROBE_SOURCE).expect("a source");
    site
}

/// Builds the report on a new client for workers of a root. Returns what the program said, too.
fn build(server: &BitzelServer, root_identity: &str) -> (BuildReport, String) {
    let site = client();
    let output = site.path("output");
    let report = site.build(&[
        "--remote",
        &server.url(),
        "--root-identity",
        root_identity,
        "--output",
        &output.display().to_string(),
        "report:do_deploy",
    ]);
    let report = report.succeeded();
    let text = std::fs::read_to_string(output.join("report/report")).expect("a deployed report");
    (report, text)
}

#[test]
fn no_result_crosses_from_one_root_to_another() {
    let roots: Vec<_> = ["bookworm", "trixie"]
        .into_iter()
        .filter_map(DebianRoot::find)
        .collect();
    let [bookworm, trixie] = &roots[..] else {
        let reason =
            "`make setup` makes these roots with Debian's mmdebstrap where it is root and has a mirror";
        return skip("roots of Debian 12 and 13", reason);
    };
    let site = Site::empty();
    std::fs::write(site.path("bitzel.toml"), CONFIGURATION).expect("a configuration");
    let configuration = site.path("bitzel.toml").display().to_string();
    let server = BitzelServer::start_with(&site, &["--config", &configuration, "--admin", "127.0.0.1:0"]);
    let mut workers: Vec<_> = [bookworm, trixie]
        .into_iter()
        .zip(["bookworm-cache", "trixie-cache"])
        .map(|(root, cache)| {
            std::fs::create_dir(site.path(cache)).expect("a cache directory");
            root.start_worker(&site.path(cache), &server.url())
        })
        .collect();
    let connected = || {
        workers.iter_mut().for_each(RootedWorker::assert_runs);
        server.metrics().contains("\nbitzel_workers 2\n").then_some(())
    };
    poll_until("both workers are connected", connected);
    let [on_12, on_13] = [bookworm, trixie].map(|root| root.identity(&site));
    assert!(
        on_12.starts_with("debian-12-") && on_13.starts_with("debian-13-"),
        "{on_12} {on_13}"
    );

    let (first, said_on_12) = build(&server, &on_12);
    assert_eq!(said_on_12, "compiled for 2.36, runs with 2.36\n");
    let (other, said_on_13) = build(&server, &on_13);
    assert_eq!(said_on_13, "compiled for 2.41, runs with 2.41\n");
    assert_eq!(other.tasks("ran"), first.tasks("ran"), "all tasks ran again");
    assert!(first.tasks("ran").contains("probe-native:do_compile"));
    for (root_identity, said) in [(&on_12, said_on_12), (&on_13, said_on_13)] {
        let (again, text) = build(&server, root_identity);
        assert_eq!(
            again.tasks("ran"),
            BTreeSet::new(),
            "each root has its own results"
        );
        assert_eq!(text, said);
    }

    // A client on another root must choose one of those that exist.
    let site = client();
    let refused = site.build(&[
        "--remote",
        &server.url(),
        "--root-identity",
        "debian-11",
        "report",
    ]);
    refused.failed().assert_says(&[
        "root-identity=debian-11; workers offer",
        &format!("root-identity={on_12} (1 worker), {on_13} (1 worker)"),
    ]);
    drop(workers);
}
