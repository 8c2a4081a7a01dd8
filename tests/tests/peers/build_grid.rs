//! Builds on `BuildGrid`, an execution service that knows nothing of bitzel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bitzel_tests::peers::BUILDGRID;
use bitzel_tests::{BuildGrid, BuildReport, Entry, Site, UserNamespaces, cold_build, tree_of};

/// Identity that the tests vouch for: the worker runs on this machine.
const ROOT_IDENTITY: &str = "this-machine";

/// Builds the demo image on a new client, and returns what it placed, too.
fn build(engine: &BuildGrid) -> (BuildReport, BTreeMap<PathBuf, Entry>) {
    let site = Site::empty();
    let output = site.path("output");
    let place = output.display().to_string();
    let arguments = [
        "--remote",
        &engine.url(),
        "--root-identity",
        ROOT_IDENTITY,
        "--output",
        &place,
        "demo-image",
    ];
    let report = site.build(&arguments).succeeded();
    (report, tree_of(&output))
}

#[test]
fn buildgrid_leaves_the_outputs_of_bitzel_s_own_worker() {
    let Some(program) = BUILDGRID.program_or_skip() else {
        return;
    };
    let Some(engine) = BuildGrid::start_or_skip(&program, UserNamespaces::Allowed) else {
        return;
    };
    let (cold, outputs) = build(&engine);
    assert_eq!(
        cold.tasks("ran"),
        cold_build().report.tasks("ran"),
        "{}",
        cold.text
    );
    let expected = tree_of(&cold_build().output);
    let paths = |tree: &BTreeMap<PathBuf, Entry>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&outputs), paths(&expected));
    for (path, entry) in &expected {
        // Not `assert_eq`: it would print whole programs.
        assert!(outputs[path] == *entry, "{} differs", path.display());
    }

    let (second, outputs) = build(&engine);
    assert_eq!(second.tasks("ran"), BTreeSet::new(), "{}", second.text);
    assert!(outputs == expected, "the placed results differ");
}

#[test]
fn a_check_names_what_the_workers_of_an_engine_lack() {
    let Some(program) = BUILDGRID.program_or_skip() else {
        return;
    };
    let Some(engine) = BuildGrid::start_or_skip(&program, UserNamespaces::Forbidden) else {
        return;
    };
    let site = Site::empty();
    let url = engine.url();
    // The workers' root has no name, so the build does not even begin.
    let report = site.build(&["--remote", &url, "zlib:do_fetch"]);
    assert_ne!(report.exit_code, Some(0));
    report.assert_says(&["the server is not one of bitzel", "--root-identity"]);
    let arguments = [
        "--remote",
        &url,
        "--root-identity",
        ROOT_IDENTITY,
        "zlib:do_fetch",
    ];
    let report = site.build(&arguments).failed();
    report.assert_says(&[
        "the execution service runs no tasks of this build",
        "unshare user and mount namespaces",
        "user namespaces for ordinary users",
    ]);
}
