//! Builds with results in the store.

use std::collections::BTreeSet;

use bitzel_tests::{Site, cold_build, tree_of};

#[test]
fn a_second_build_runs_nothing() {
    let site = Site::with_results_of_cold_build();
    let report = site.build(&["demo-image"]).succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
    assert_eq!(report.summary("tasks_run"), 0);
    assert!(report.summary("signature_hits") > 0);
    report.assert_says(&["tasks: 0 run"]);
}

#[test]
fn a_build_in_another_directory_has_equal_output() {
    let site = Site::with_results_of_cold_build();
    let output = site.path("placed/here");
    let report = site
        .build(&["--output", &output.display().to_string(), "demo-image"])
        .succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
    assert!(
        tree_of(&output) == tree_of(&cold_build().output),
        "the outputs of the two builds differ"
    );
}

#[test]
fn a_dry_run_names_the_tasks_and_runs_none() {
    let site = Site::with_results_of_cold_build();
    let nothing = site.build(&["-n", "demo-image"]).succeeded();
    assert_eq!(nothing.summary("would_run"), 0, "{}", nothing.text);
    site.edit_layer(
        "recipes/picture-report/files/picture-report.c",
        "WIDTH = 64",
        "WIDTH = 65",
    );
    let planned = site.build(&["--dry-run", "demo-image"]).succeeded();
    planned.assert_says(&["picture-report:do_compile would run", "dry run: at most"]);
    assert_eq!(planned.tasks("ran"), BTreeSet::new());
    let built = site.build(&["demo-image"]).succeeded();
    assert_eq!(built.tasks("ran"), planned.tasks("would_run"));
}

#[test]
fn cleaning_is_refused_with_what_to_do_instead() {
    let site = Site::empty();
    let report = site.build(&["-c", "cleansstate", "zlib"]).failed();
    report.assert_says(&["results are shared", "bitzel build -C unpack zlib"]);
}

#[test]
fn a_nostamp_task_alone_runs_in_every_build() {
    let site = Site::empty();
    site.add_recipe(
        "clock",
        r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${datadir}
	echo 12 > ${D}${datadir}/hour
}
addtask strike after do_install
do_strike[nostamp] = "1"
do_strike() {
	echo "the clock strikes $(cat ${D}${datadir}/hour)"
}
"#,
    );
    let first = site.build(&["-c", "strike", "clock"]).succeeded();
    assert!(first.tasks("ran").contains("clock:do_install"));
    for _ in 0..2 {
        let again = site.build(&["-c", "strike", "clock"]).succeeded();
        assert_eq!(again.tasks("ran"), BTreeSet::from(["clock:do_strike".to_owned()]));
    }
}
