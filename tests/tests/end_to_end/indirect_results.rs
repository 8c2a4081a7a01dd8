//! Results that are visible behind unneeded dependencies.

use std::collections::BTreeSet;

use bitzel_tests::Site;

/// A task that publishes data about packages, as OE's `do_packagedata` does.
const CLASS: &str = r#"
DATADEST = "${WORKDIR}/packagedata"
do_packagedata[cleandirs] = "${DATADEST}"
do_packagedata[sstate-inputdirs] = "${DATADEST}"
do_packagedata[sstate-outputdirs] = "${PKGDATA_DIR}/${PN}"
do_packagedata[postfuncs] += "publish"
do_packagedata() {
	echo ${PN} > ${DATADEST}/name
}
addtask packagedata
"#;

/// The configuration's `BB_SETSCENE_DEPVALID` function: dependencies on `middle` are unneeded.
const VALIDITY: &str = r#"
def dependency_is_unneeded(task, dependees, notneeded, d, log=None):
    return dependees[task][0] == "middle"
"#;

fn recipe(depends: &str) -> String {
    format!("LICENSE = \"MIT\"\ninherit packagedata\ndo_packagedata[depends] = \"{depends}\"\n")
}

const READER: &str = r#"
LICENSE = "MIT"
do_compile[depends] = "high:do_packagedata"
do_compile() {
	cat ${PKGDATA_DIR}/high/name ${PKGDATA_DIR}/low/name
	test ! -e ${PKGDATA_DIR}/middle
}
"#;

#[test]
fn data_behind_an_unneeded_dependency_is_visible() {
    let site = Site::empty();
    for (name, text) in [("packagedata", CLASS), ("validity", VALIDITY)] {
        let class = site.layer().join(format!("classes/{name}.bbclass"));
        std::fs::write(class, text).expect("a class");
    }
    site.configure(
        r#"
INHERIT += "validity"
BB_SETSCENE_DEPVALID = "dependency_is_unneeded"
SSTATETASKS = "do_populate_sysroot do_package do_deploy do_packagedata"
PKGDATA_DIR = "${TMPDIR}/pkgdata"
"#,
    );
    site.add_recipe("low", &recipe(""));
    site.add_recipe("middle", &recipe("low:do_packagedata"));
    site.add_recipe("high", &recipe("middle:do_packagedata"));
    site.add_recipe("reader", READER);
    let report = site.build(&["reader:do_compile"]).succeeded();
    assert!(
        report.tasks("ran").contains("reader:do_compile"),
        "{}",
        report.text
    );
    let report = site.build(&["reader:do_compile"]).succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
}
