//! Errors in the metadata, reported by `BitBake`.

use bitzel_tests::Site;

#[test]
fn an_unknown_target_is_named() {
    let report = Site::empty().build(&["no-such-recipe"]).failed();
    report.assert_says(&["Nothing PROVIDES 'no-such-recipe'"]);
}

#[test]
fn a_missing_dependency_names_its_dependent() {
    let site = Site::empty();
    site.add_recipe("lonely", "LICENSE = \"MIT\"\nDEPENDS = \"no-such-library\"\n");
    let report = site.build(&["lonely"]).failed();
    report.assert_says(&["no-such-library", "lonely"]);
}

#[test]
fn a_parse_error_names_file_and_line() {
    let site = Site::empty();
    site.add_recipe("crooked", "LICENSE = \"MIT\"\nthis is no assignment\n");
    let report = site.build(&["crooked"]).failed();
    report.assert_says(&["crooked_1.0.bb:2", "this is no assignment"]);
}

#[test]
fn an_unknown_task_is_named() {
    let report = Site::empty().build(&["-c", "no_such_task", "zlib"]).failed();
    report.assert_says(&["do_no_such_task", "zlib"]);
}

#[test]
fn a_directory_without_configuration_is_named() {
    let site = Site::empty();
    std::fs::remove_dir_all(site.path("build/conf")).expect("the configuration");
    let report = site.build(&["zlib"]).failed();
    report.assert_says(&["bblayers.conf"]);
}
