//! Builds on `BuildGrid`, an execution service that knows nothing of bitzel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bitzel_tests::peers::{BUILDGRID, skip};
use bitzel_tests::{
    BuildGrid, BuildReport, DebianRoot, Entry, Site, UserNamespaces, cold_build, run, tree_of,
};

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

/// Deploys a file of the root, and says what a task can do to the root.
const REPORT: &str = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}
}
do_deploy() {
	cat /usr/lib/image-root > ${DEPLOYDIR}/report
	if touch /usr/lib/image-root 2>/dev/null; then echo writable >> ${DEPLOYDIR}/report; fi
	if test -e /usr/include/stdio.h; then echo headers >> ${DEPLOYDIR}/report; fi
}
"#;

/// Builds the report in an image root on a client with an empty cache, and returns its text, too.
fn build_in_root(client: &Site, engine: &BuildGrid, root: &str) -> (BuildReport, String) {
    client.add_recipe("report", REPORT);
    let output = client.path("output");
    let place = output.display().to_string();
    let url = engine.url();
    let report = client
        .build(&[
            "--remote",
            &url,
            "--root",
            root,
            "--output",
            &place,
            "report:do_deploy",
        ])
        .succeeded();
    let text = std::fs::read_to_string(output.join("report/report")).expect("a deployed report");
    (report, text)
}

#[test]
fn an_image_root_travels_to_the_workers_of_an_engine() {
    let Some(program) = BUILDGRID.program_or_skip() else {
        return;
    };
    let Some(trixie) = DebianRoot::find("trixie") else {
        skip(
            "root of Debian 13",
            "`make setup` makes it with Debian's mmdebstrap where it is root and has a mirror",
        );
        return;
    };
    let Some(engine) = BuildGrid::start_or_skip(&program, UserNamespaces::Allowed) else {
        return;
    };
    let first_client = Site::empty();
    let root = first_client.path("root");
    std::fs::create_dir(&root).expect("a directory");
    trixie.copy_without_compiler(&root);
    std::fs::write(root.join("usr/lib/image-root"), "from the image\n").expect("a file");
    let mut import = first_client.bitzel("root");
    import.arg("import").arg(&root);
    let digest = run(import.args(["--name", "small", "--remote", &engine.url()]));

    let (first, text) = build_in_root(&first_client, &engine, "small");
    assert_eq!(text, "from the image\n", "{}", first.text);
    assert!(first.tasks("ran").contains("report:do_deploy"), "{}", first.text);

    // This client fetches the root from the engine's store.
    let second_client = Site::empty();
    let (second, text) = build_in_root(&second_client, &engine, digest.trim());
    assert_eq!(text, "from the image\n", "{}", second.text);
    assert_eq!(second.tasks("ran"), BTreeSet::new(), "{}", second.text);
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
