//! Recipes that build from a source tree of the user (openembedded-core's externalsrc, devtool).

use std::fs;

use super::releases::CONFIGURATION;
use bitzel_tests::{Release, Site};

const RECIPE: &str = r#"
SUMMARY = "A program whose author works on it"
LICENSE = "CLOSED"
INHIBIT_DEFAULT_DEPS = "1"
SRC_URI = "https://example.com/never-fetched.tar.gz"
CONFIGURE_FILES = "configure"
inherit native
do_configure() {
    sh ${S}/configure > configured
    echo generated > ${S}/src/generated
}
do_compile() {
    cat configured ${S}/src/program ${S}/src/generated > program
}
do_install() {
    install -D program ${D}${bindir}/external-demo
}
"#;

#[test]
fn changes_of_the_source_tree_rerun_what_bitbake_would_rerun() {
    let Some(release) = Release::find_or_skip("6.0.2") else {
        return;
    };
    let site = Site::of_release(&release, CONFIGURATION);
    site.add_layer_to_core("wrynose");
    site.add_recipe("external-demo-native", RECIPE);
    let source = site.path("home/work/external-demo");
    let write = |path: &str, text: &str| {
        let path = source.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a source");
    };
    write("configure", "echo configured\n");
    write("src/program", "first\n");
    // As `devtool modify` writes it, with a build directory of the user, which no task needs.
    fs::create_dir_all(site.path("build/workspace/appends")).expect("a workspace");
    fs::create_dir_all(site.path("build/workspace/conf")).expect("a workspace");
    fs::write(
        site.path("build/workspace/appends/external-demo-native_1.0.bbappend"),
        format!(
            "inherit externalsrc\nEXTERNALSRC:pn-external-demo-native = \"{0}\"\n\
             EXTERNALSRC_BUILD:pn-external-demo-native = \"{0}-build\"\n",
            source.display()
        ),
    )
    .expect("an append");
    fs::write(
        site.path("build/workspace/conf/layer.conf"),
        "BBPATH =. \"${LAYERDIR}:\"\nBBFILES += \"${LAYERDIR}/appends/*.bbappend\"\n\
         BBFILE_COLLECTIONS += \"workspacelayer\"\nBBFILE_PATTERN_workspacelayer = \"^${LAYERDIR}/\"\n\
         BBFILE_PRIORITY_workspacelayer = \"99\"\nLAYERSERIES_COMPAT_workspacelayer = \"wrynose\"\n",
    )
    .expect("a layer");
    site.add_layer(&site.path("build/workspace"));

    let install = ["-c", "install", "external-demo-native"];
    let task = |name: &str| format!("external-demo-native:{name}");
    let first = site.build(&install).succeeded();
    assert!(first.tasks("ran").contains(&task("do_compile")), "{}", first.text);
    let again = site.build(&install).succeeded();
    assert_eq!(again.tasks("ran"), [].into());

    write("src/program", "second\n");
    let output = site.path("output");
    let directory = output.display().to_string();
    let changed = site
        .build(&["-c", "install", "--output", &directory, "external-demo-native"])
        .succeeded();
    assert_eq!(
        changed.tasks("ran"),
        [task("do_compile"), task("do_install")].into(),
        "{}",
        changed.text
    );
    let programs = bitzel_tests::tree_of(&output);
    let program = programs
        .keys()
        .find(|path| path.ends_with("image/usr/bin/external-demo") || path.ends_with("external-demo"))
        .unwrap_or_else(|| panic!("{:?}", programs.keys()));
    let program = fs::read_to_string(output.join(program)).expect("the program");
    assert_eq!(program, "configured\nsecond\ngenerated\n");

    write("configure", "echo configured again\n");
    let configured = site.build(&install).succeeded();
    assert!(
        configured.tasks("ran").contains(&task("do_configure")),
        "{}",
        configured.text
    );
    // The same tree in another place has the same signatures.
    let moved = source.with_file_name("external-moved").join("external-demo");
    fs::create_dir_all(moved.parent().expect("a parent")).expect("a directory");
    fs::rename(&source, &moved).expect("the tree is moved");
    let append = site.path("build/workspace/appends/external-demo-native_1.0.bbappend");
    let text = fs::read_to_string(&append).expect("the append");
    let text = text.replace(&source.display().to_string(), &moved.display().to_string());
    fs::write(&append, text).expect("the append");
    let elsewhere = site.build(&install).succeeded();
    assert_eq!(elsewhere.tasks("ran"), [].into());
}
