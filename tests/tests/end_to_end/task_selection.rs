//! Which tasks a command asks for.

use bitzel_tests::Site;

#[test]
fn one_task_of_a_recipe_runs_with_what_it_needs() {
    let site = Site::empty();
    let report = site.build(&["-c", "configure", "zlib"]).succeeded();
    let ran = report.tasks("ran");
    assert!(ran.contains("zlib:do_configure"), "{}", report.text);
    assert!(ran.contains("zlib:do_unpack"), "{}", report.text);
    assert!(!ran.contains("zlib:do_compile"), "{}", report.text);
}

#[test]
fn a_target_may_name_its_task() {
    let site = Site::empty();
    let report = site.build(&["zlib:do_patch"]).succeeded();
    let ran = report.tasks("ran");
    assert!(ran.contains("zlib:do_patch"), "{}", report.text);
    assert!(!ran.contains("zlib:do_configure"), "{}", report.text);
}

#[test]
fn the_graph_lists_the_tasks_without_running_them() {
    let site = Site::empty();
    let output = site
        .bitzel("graph")
        .args(site.build_directory_arguments())
        .arg("demo-image")
        .output()
        .expect("bitzel graph starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for name in ["picture-report", "lz4-native", "do_rootfs"] {
        assert!(text.contains(name), "no {name} in:\n{text}");
    }
}
