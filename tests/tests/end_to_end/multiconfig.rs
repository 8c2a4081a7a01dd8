//! Multiconfig: several configurations in one build directory.

use std::collections::BTreeSet;

use bitzel_tests::Site;

const RECIPE: &str = r#"
LICENSE = "MIT"
DEPENDS = "greeting-native"
GREETING ?= "nobody"
do_install() {
	install -d ${D}${datadir}
	greeting ${GREETING} > ${D}${datadir}/greeting
}
do_deploy() {
	cp ${D}${datadir}/greeting ${DEPLOYDIR}/
}
addtask deploy after do_install
"#;

const TOOL: &str = r#"
LICENSE = "MIT"
inherit native
do_install() {
	install -d ${D}${bindir}
	printf '#!/bin/sh\necho "hello $1"\n' > ${D}${bindir}/greeting
	chmod 755 ${D}${bindir}/greeting
}
"#;

/// A site with the default configuration and another one, with different greetings.
fn site() -> Site {
    let site = Site::empty();
    site.add_recipe("greeter", RECIPE);
    site.add_recipe("greeting-native", TOOL);
    site.configure("BBMULTICONFIG = \"other\"\nGREETING = \"default\"\n");
    let directory = site.path("build/conf/multiconfig");
    std::fs::create_dir_all(&directory).expect("a directory");
    let other = "TMPDIR = \"${TOPDIR}/tmp-other\"\nGREETING = \"other\"\n";
    std::fs::write(directory.join("other.conf"), other).expect("other.conf");
    site
}

/// Builds `target` and returns the content of `file` below the output.
fn greeting(site: &Site, target: &str, file: &str) -> String {
    let output = site.path("output");
    let report = site.build(&["--output", &output.display().to_string(), target]);
    drop(report.succeeded());
    std::fs::read_to_string(output.join(file)).expect("the target deploys a greeting")
}

#[test]
fn a_target_is_built_with_its_own_configuration() {
    let site = site();
    assert_eq!(greeting(&site, "greeter", "greeter/greeting"), "hello default\n");
    let of_other = greeting(&site, "mc:other:greeter", "other/greeter/greeting");
    assert_eq!(of_other, "hello other\n");
}

#[test]
fn each_configuration_has_its_own_results() {
    let site = site();
    let report = site.build(&["greeter", "mc:other:greeter"]).succeeded();
    let ran = report.tasks("ran");
    for task in ["greeter:do_install", "mc:other:greeter:do_install"] {
        assert!(ran.contains(task), "{task} did not run:\n{}", report.text);
    }
    let report = site.build(&["mc:other:greeter", "greeter"]).succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
}
