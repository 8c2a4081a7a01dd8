//! Supported releases: unmodified openembedded-core with the release's own `BitBake`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bitzel_tests::{Release, Site, copy_directory, text_of};

/// A recipe with all its sources in the layer.
const TARGET: &str = "makedevs-native";

/// Masks recipes that the target does not need, for a short parse. `sanity` refuses to run as root and needs network
/// access; the sources of quilt are upstream.
pub(super) const CONFIGURATION: &str = r#"
MACHINE = "qemux86-64"
DISTRO = "nodistro"
CONF_VERSION = "2"
INHERIT:remove = "sanity uninative"
ASSUME_PROVIDED += "quilt-native"
BB_NUMBER_THREADS = "2"
PARALLEL_MAKE = "-j2"
BBMASK = "/meta/recipes-(graphics|multimedia|gnome|sato|kernel|rt|bsp|connectivity|support|extended|core)/ /meta/recipes-devtools/[a-ln-z]"
"#;

macro_rules! releases {
    ($($name:ident = $tag:literal;)*) => {
        $(#[test]
        fn $name() {
            assert_equal_signatures($tag);
        })*
    };
}

releases! {
    yocto_5_0_5 = "5.0.5";
    yocto_5_0_19 = "5.0.19";
    yocto_5_2_1 = "5.2.1";
    yocto_5_2_4 = "5.2.4";
    yocto_5_3_4 = "5.3.4";
    yocto_6_0 = "6.0";
    yocto_6_0_2 = "6.0.2";
    yocto_master = "master";
}

fn assert_equal_signatures(tag: &str) {
    let Some(release) = Release::find_or_skip(tag) else {
        return;
    };
    let site = Site::of_release(&release, CONFIGURATION);
    let first = site.build(&[TARGET]).succeeded();
    for task in ["do_unpack", "do_compile", "do_install", "do_populate_sysroot"] {
        assert!(
            first.tasks("ran").contains(&format!("{TARGET}:{task}")),
            "{}",
            first.text
        );
    }
    let second = site.build(&[TARGET]).succeeded();
    assert_eq!(second.tasks("ran"), BTreeSet::new());

    let ours = exported_signatures(&site);
    let directory = site.path("plain");
    std::fs::create_dir(&directory).expect("a build directory for bitbake");
    copy_directory(&site.path("build/conf"), &directory.join("conf"));
    let output = release
        .bitbake_command()
        .args(["-S", "none", TARGET])
        .env("HOME", site.path("home"))
        .env("BUILDDIR", &directory)
        .current_dir(&directory)
        .output()
        .expect("bitbake starts");
    let theirs = written_signatures(&directory);
    assert_eq!(ours, theirs, "output of bitbake:\n{}", text_of(&output));
}

/// Taskhashes by task name, from `bitzel graph --json`.
fn exported_signatures(site: &Site) -> BTreeMap<String, String> {
    let graph = site.output_of("graph", &["--json", TARGET]);
    let graph: serde_json::Value = serde_json::from_str(&graph).expect("a graph");
    let text = |task: &serde_json::Value, name: &str| task[name].as_str().expect("a text").to_owned();
    let tasks = graph["tasks"].as_array().expect("a list of tasks");
    tasks
        .iter()
        .map(|task| (text(task, "name"), text(task, "taskhash")))
        .collect()
}

/// Taskhashes by task name, from the names of the files that `bitbake -S none` writes
/// (`…/1.0.do_compile.sigdata.HASH`).
fn written_signatures(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(&next).expect("a directory of bitbake") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("its type").is_dir() {
                pending.push(entry.path());
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((before, hash)) = name.split_once(".sigdata.")
                && let Some(at) = before.rfind(".do_")
            {
                found.insert(before[at + 1..].to_owned(), hash.to_owned());
            }
        }
    }
    found
}
