//! Recipes that build from another recipe's source tree, as a compiler's libraries do.

use std::collections::BTreeSet;

use bitzel_tests::Site;

/// Unpacks into a shared work directory and publishes a directory of it. Two parallel tasks change it.
const SOURCE: &str = r#"
LICENSE = "MIT"
SRC_URI = "file://version"
WORKDIR = "${TMPDIR}/work-shared/compiler-1.0"
STAMP = "${STAMPS_DIR}/work-shared/compiler-1.0"
S = "${UNPACKDIR}"
deltask do_configure
deltask do_compile
deltask do_install
deltask do_populate_sysroot
deltask do_package
deltask do_deploy
do_preconfigure() {
	sed -i '$ a configured' ${S}/version
}
addtask preconfigure after do_patch before do_build
do_deploy_epoch[dirs] = "${WORKDIR}/epoch"
do_deploy_epoch[sstate-plaindirs] = "${WORKDIR}/epoch"
do_deploy_epoch() {
	echo 1234 > ${WORKDIR}/epoch/stamp
}
addtask deploy_epoch after do_patch before do_build
"#;

/// Depends on the source tree in `do_configure` alone, and reads it in every later task.
const COMPILER: &str = r#"
LICENSE = "MIT"
SHARED = "${TMPDIR}/work-shared/compiler-1.0"
S = "${SHARED}/sources"
B = "${WORKDIR}/build"
deltask do_fetch
deltask do_unpack
deltask do_patch
do_configure[depends] = "compiler-source:do_preconfigure"
do_configure() {
	grep configured ${S}/version
}
do_compile() {
	cat ${S}/version > program
}
do_install() {
	install -d ${D}${bindir}
	cp program ${D}${bindir}/
	cmp ${S}/version program
}
do_deploy() {
	cp ${D}${bindir}/program ${DEPLOYDIR}/
}
"#;

/// Copies a file of the published directory before `do_configure`.
const EPOCH: &str = r#"
do_take_epoch[depends] = "compiler-source:do_deploy_epoch"
do_take_epoch[dirs] = "${B}"
do_take_epoch() {
	cp ${SHARED}/epoch/stamp ${B}/epoch
}
addtask take_epoch before do_configure
do_deploy:append() {
	cat ${B}/epoch >> ${DEPLOYDIR}/program
}
"#;

fn site(recipe: &str) -> Site {
    let site = Site::empty();
    site.add_recipe("compiler-source", SOURCE);
    let files = site.layer().join("recipes/compiler-source/files");
    std::fs::create_dir(&files).expect("a directory");
    std::fs::write(files.join("version"), "14.2\n").expect("a source");
    site.add_recipe("compiler", recipe);
    site
}

/// Builds the recipe and returns the content of the deployed program.
fn program(site: &Site) -> String {
    let output = site.path("output");
    let report = site.build(&["--output", &output.display().to_string(), "compiler:do_deploy"]);
    drop(report.succeeded());
    std::fs::read_to_string(output.join("compiler/program")).expect("the recipe deploys a program")
}

#[test]
fn later_tasks_see_the_tree_of_an_earlier_dependency() {
    let site = site(COMPILER);
    assert_eq!(program(&site), "14.2\nconfigured\n");
    let report = site.build(&["compiler:do_deploy"]).succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
}

#[test]
fn a_directory_published_in_a_work_tree_is_visible() {
    let site = site(&format!("{COMPILER}{EPOCH}"));
    assert_eq!(program(&site), "14.2\nconfigured\n1234\n");
}
