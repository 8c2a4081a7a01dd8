//! Files that a task leaves in shared places without declaring them.

use std::collections::BTreeSet;

use bitzel_tests::Site;

/// Writes a manifest as OE's images do, and appends to it in a later task.
const IMAGE: &str = r#"
LICENSE = "MIT"
MANIFESTS = "${DEPLOY_DIR}/licenses/image"
do_compile() {
	install -d ${MANIFESTS}
	echo compiled > ${MANIFESTS}/manifest
	ln -s manifest ${MANIFESTS}/link
}
do_install() {
	install -d ${D}
	echo installed >> ${MANIFESTS}/manifest
	cat ${MANIFESTS}/manifest
}
do_deploy() {
	cp ${MANIFESTS}/manifest ${DEPLOYDIR}/
}
addtask check after do_deploy
do_check() {
	grep installed ${MANIFESTS}/link
}
"#;

/// Reads the published file of the image and its undeclared manifest.
const READER: &str = r#"
LICENSE = "MIT"
do_compile[depends] = "image:do_deploy"
do_compile() {
	cmp ${DEPLOY_DIR}/licenses/image/link ${DEPLOY_DIR}/image/manifest
}
"#;

#[test]
fn later_tasks_and_the_output_have_undeclared_files() {
    let site = Site::empty();
    site.add_recipe("image", IMAGE);
    site.add_recipe("reader", READER);
    let output = site.path("output");
    let place = output.display().to_string();
    drop(site.build(&["--output", &place, "image:do_deploy"]).succeeded());
    let manifest = std::fs::read_to_string(output.join("image/manifest")).expect("a manifest");
    assert_eq!(manifest, "compiled\ninstalled\n");
    let undeclared =
        std::fs::read_to_string(output.join("licenses/image/link")).expect("the undeclared manifest");
    assert_eq!(undeclared, manifest);
    // Also after a shared task of the recipe, whose results include the manifest.
    let later = site.path("later");
    let place = later.display().to_string();
    drop(site.build(&["--output", &place, "image:do_check"]).succeeded());
    assert!(later.join("licenses/image/manifest").is_file());
    let report = site.build(&["reader:do_compile", "image:do_deploy"]).succeeded();
    assert!(
        report.tasks("ran").contains("reader:do_compile"),
        "{}",
        report.text
    );
    let report = site.build(&["reader:do_compile", "image:do_deploy"]).succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
}
