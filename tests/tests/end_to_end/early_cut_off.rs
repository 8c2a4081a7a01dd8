//! Early cut-off: a change without effect on a task's outputs does not rebuild its dependents.

use std::collections::BTreeSet;
use std::process::Command;

use bitzel_tests::{Site, run};

#[test]
fn a_change_without_effect_rebuilds_its_recipe_only() {
    let site = Site::with_results_of_cold_build();
    site.edit_layer(
        "recipes/zlib/zlib_1.2.13.bb",
        "do_install() {",
        "do_compile() {\n\t# The same commands as in makefile.bbclass.\n\trun_make\n}\n\ndo_install() {",
    );
    let report = site.build(&["demo-image"]).succeeded();
    assert!(report.tasks("ran").contains("zlib:do_compile"), "{}", report.text);
    assert_eq!(
        report.recipes_that_ran(),
        BTreeSet::from(["zlib".to_owned()]),
        "{}",
        report.text
    );
    assert!(report.summary("early_cut_offs") > 0, "{}", report.text);

    let again = site.build(&["demo-image"]).succeeded();
    assert_eq!(again.tasks("ran"), BTreeSet::new());
}

#[test]
fn a_change_with_an_effect_rebuilds_its_dependents() {
    let site = Site::with_results_of_cold_build();
    site.edit_layer(
        "recipes/picture-report/files/picture-report.c",
        "WIDTH = 64",
        "WIDTH = 65",
    );
    let output = site.path("output");
    let report = site
        .build(&["--output", &output.display().to_string(), "demo-image"])
        .succeeded();
    let recipes = ["picture-report", "demo-image"].map(str::to_owned);
    assert_eq!(report.recipes_that_ran(), recipes.into(), "{}", report.text);

    let image = output.join("demo-image/rootfs");
    let text =
        run(Command::new(image.join("usr/bin/picture-report")).env("LD_LIBRARY_PATH", image.join("usr/lib")));
    assert!(text.contains("\"width\": 65"), "{text}");
}

#[test]
fn a_changed_header_rebuilds_the_recipes_that_include_it() {
    let site = Site::with_results_of_cold_build();
    site.edit_layer(
        "recipes/zlib/zlib_1.2.13.bb",
        "\trm ${D}${libdir}/libz.a\n",
        "\trm ${D}${libdir}/libz.a\n\techo '/* changed */' >> ${D}${includedir}/zlib.h\n",
    );
    let report = site.build(&["demo-image"]).succeeded();
    let ran = report.tasks("ran");
    assert!(
        !ran.contains("zlib:do_compile"),
        "zlib was compiled again:\n{}",
        report.text
    );
    assert!(ran.contains("libpng:do_compile"), "{}", report.text);
    assert!(!report.recipes_that_ran().contains("json-c"), "{}", report.text);
}
