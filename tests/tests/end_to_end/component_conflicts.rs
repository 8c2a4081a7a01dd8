//! Recipes that publish the same path.

use bitzel_tests::Site;

/// A recipe that publishes a file at the same path as other recipes of this kind.
fn publisher(content: &str) -> String {
    format!(
        r#"
LICENSE = "MIT"
do_install() {{
	install -d ${{D}}${{includedir}}
	echo {content} > ${{D}}${{includedir}}/common.h
}}
do_deploy[sstate-outputdirs] = "${{DEPLOY_DIR}}/shared"
do_deploy() {{
	echo {content} > ${{DEPLOYDIR}}/common.h
}}
"#
    )
}

const DEPLOY_USER: &str = r#"
LICENSE = "MIT"
do_compile[depends] = "sun:do_deploy moon:do_deploy"
do_compile() {
	cat ${DEPLOY_DIR}/shared/common.h
}
do_install() {
	install -d ${D}
}
"#;

const SYSROOT_USER: &str = r#"
LICENSE = "MIT"
DEPENDS = "sun moon"
do_compile() {
	cat ${RECIPE_SYSROOT}${includedir}/common.h
}
do_install() {
	install -d ${D}
}
"#;

fn site(sun: &str, moon: &str, user: &str) -> Site {
    let site = Site::empty();
    site.add_recipe("sun", &publisher(sun));
    site.add_recipe("moon", &publisher(moon));
    site.add_recipe("user", user);
    site
}

#[test]
fn a_conflict_in_a_published_path_names_both_recipes() {
    let report = site("bright", "pale", DEPLOY_USER).build(&["user"]).failed();
    report.assert_says(&["sun", "moon", "shared/common.h"]);
}

#[test]
fn equal_content_at_one_published_path_is_no_conflict() {
    let report = site("round", "round", DEPLOY_USER).build(&["user"]).succeeded();
    assert!(report.tasks("ran").contains("user:do_compile"));
}

#[test]
fn a_conflict_in_a_sysroot_names_both_recipes() {
    let report = site("bright", "pale", SYSROOT_USER).build(&["user"]).failed();
    report.assert_says(&["sun", "moon", "usr/include/common.h"]);
}

#[test]
fn equal_content_in_one_sysroot_is_no_conflict() {
    let report = site("round", "round", SYSROOT_USER).build(&["user"]).succeeded();
    assert!(report.tasks("ran").contains("user:do_compile"));
}
