//! Failing tasks.

use std::collections::BTreeSet;

use bitzel_tests::Site;

const BASE: &str = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${datadir}
	echo base > ${D}${datadir}/base
}
"#;

const BROKEN: &str = r#"
LICENSE = "MIT"
DEPENDS = "base"
do_compile() {
	echo "the tide is out by $(expr 40 + 2) feet"
	exit 3
}
do_install() {
	install -d ${D}${datadir}
	echo broken > ${D}${datadir}/broken
}
"#;

const NEEDS_BROKEN: &str = r#"
LICENSE = "MIT"
DEPENDS = "broken"
do_install() {
	install -d ${D}
}
"#;

fn broken_site() -> Site {
    let site = Site::empty();
    site.add_recipe("base", BASE);
    site.add_recipe("broken", BROKEN);
    site.add_recipe("needs-broken", NEEDS_BROKEN);
    site
}

fn task_names<const N: usize>(tasks: [&str; N]) -> BTreeSet<String> {
    tasks.map(str::to_owned).into()
}

#[test]
fn a_failing_task_stops_the_build_and_its_log_is_shown() {
    let site = broken_site();
    let report = site.build(&["needs-broken"]).failed();
    assert_eq!(report.tasks("failed"), task_names(["broken:do_compile"]));
    assert_eq!(report.summary("failed"), 1);
    report.assert_says(&["broken", "do_compile", "the tide is out by 42 feet"]);
    assert!(!report.started().contains("broken:do_install"));
    assert!(!report.started().contains("needs-broken:do_compile"));
}

#[test]
fn f15_escape_sequences_of_a_task_are_shown_as_text() {
    let site = Site::empty();
    let escapes = "printf 'before \\033]0;title\\007 after\\n'\n\texit 3";
    site.add_recipe(
        "hostile",
        &format!("LICENSE = \"MIT\"\ndo_compile() {{\n\t{escapes}\n}}\n"),
    );
    let report = site.build(&["hostile"]).failed();
    report.assert_says(&["before ␛]0;title␇ after"]);
    assert!(!report.text.contains('\u{1b}'), "{}", report.text);

    let log = site.output_of("log", &["hostile:do_compile"]);
    assert!(log.contains("before ␛]0;title␇ after"), "{log}");
    let raw = site.output_of("log", &["--raw", "hostile:do_compile"]);
    assert!(raw.contains("before \u{1b}]0;title\u{7} after"), "{raw}");
}

#[test]
fn a_build_after_a_repair_repeats_no_finished_task() {
    let site = broken_site();
    let before = site.build(&["-k", "needs-broken"]).failed();
    site.edit_layer("recipes/broken/broken_1.0.bb", "\texit 3\n", "");
    let after = site.build(&["needs-broken"]).succeeded();
    let repeated: Vec<_> = before
        .tasks("ran")
        .intersection(&after.tasks("ran"))
        .cloned()
        .collect();
    assert_eq!(repeated, Vec::<String>::new());
    assert!(after.tasks("ran").contains("broken:do_compile"));
}

#[test]
fn a_failed_task_runs_again_with_the_same_signature() {
    let site = broken_site();
    drop(site.build(&["broken"]).failed());
    let again = site.build(&["broken"]).failed();
    assert_eq!(again.tasks("failed"), task_names(["broken:do_compile"]));
    again.assert_says(&["the tide is out by 42 feet"]);
}

#[test]
fn keep_going_builds_everything_else() {
    let site = broken_site();
    site.add_recipe("independent", &BASE.replace("base", "independent"));
    let report = site
        .build(&["-k", "-j", "1", "needs-broken", "independent"])
        .failed();
    assert_eq!(report.tasks("failed"), task_names(["broken:do_compile"]));
    let ran = report.tasks("ran");
    for task in ["do_install", "do_populate_sysroot", "do_package", "do_deploy"] {
        assert!(
            ran.contains(&format!("independent:{task}")),
            "{task} did not run:\n{}",
            report.text
        );
    }
    assert!(!report.started().contains("needs-broken:do_compile"));

    let report = site.build(&["independent"]).succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
}

#[test]
fn the_log_of_a_failed_task_can_be_read() {
    let site = broken_site();
    drop(site.build(&["broken"]).failed());
    let text = site.output_of("log", &["broken:do_compile"]);
    assert!(text.contains("the tide is out by 42 feet"), "{text}");
}

#[test]
fn the_log_of_another_builds_task_can_be_read() {
    let site = Site::with_results_of_cold_build();
    let report = site.build(&["demo-image"]).succeeded();
    assert!(!report.started().contains("libpng:do_configure"));
    let text = site.output_of("log", &["libpng:do_configure"]);
    assert!(text.contains("checking for"), "{text}");
}
