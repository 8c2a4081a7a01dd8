//! A build from nothing and its output.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use bitzel_tests::{cold_build, run, tree_of};

fn root_file_system() -> PathBuf {
    cold_build().output.join("demo-image/rootfs")
}

/// Runs a program of the image with the image's libraries; returns its standard output.
fn run_from_image(program: &str, environment: &[(&str, &str)]) -> String {
    run(Command::new(root_file_system().join("usr/bin").join(program))
        .env("LD_LIBRARY_PATH", root_file_system().join("usr/lib"))
        .envs(environment.iter().copied()))
}

#[test]
fn a_cold_build_runs_the_tasks_of_every_recipe() {
    let report = &cold_build().report;
    let recipes = [
        "bzip2",
        "demo-image",
        "jansson",
        "json-c",
        "libpng",
        "lz4",
        "lz4-native",
        "picture-report",
        "pkgconf-native",
        "zlib",
    ];
    assert_eq!(report.recipes_that_ran(), recipes.map(str::to_owned).into());
    assert_eq!(report.tasks("failed"), BTreeSet::new());
    assert_eq!(report.tasks("hit"), BTreeSet::new());
}

#[test]
fn the_summary_agrees_with_the_events() {
    let report = &cold_build().report;
    let ran = report.tasks("ran").len();
    assert_eq!(report.summary("tasks_run"), ran as u64);
    assert_eq!(report.summary("signature_hits"), 0);
    assert_eq!(report.summary("failed"), 0);
    report.assert_says(&[&format!("tasks: {ran} run, 0 signature hits")]);
}

#[test]
fn the_built_program_runs_with_the_built_libraries() {
    let report: serde_json::Value =
        serde_json::from_str(&run_from_image("picture-report", &[])).expect("JSON");
    let expected = serde_json::json!({
        "width": 64, "height": 48, "crc32": "e9e966d5", "libpng": "1.6.39", "zlib": "1.2.13", "jansson": "2.14",
    });
    assert_eq!(report, expected);
}

#[test]
fn the_program_is_linked_with_its_sysroot() {
    let libraries = run_from_image("picture-report", &[("LD_TRACE_LOADED_OBJECTS", "1")]);
    for name in ["libpng16.so.16", "libz.so.1", "libjansson.so.4"] {
        let expected = format!(
            "{name} => {}",
            root_file_system().join("usr/lib").join(name).display()
        );
        assert!(libraries.contains(&expected), "no {expected:?} in:\n{libraries}");
    }
}

#[test]
fn hardlinks_and_symbolic_links_reach_the_output() {
    let programs = root_file_system().join("usr/bin");
    let inode = |name: &str| std::fs::metadata(programs.join(name)).expect("a program").ino();
    assert_eq!(inode("bzip2"), inode("bunzip2"));
    assert_eq!(inode("bzip2"), inode("bzcat"));
    let target = std::fs::read_link(programs.join("bzless")).expect("a symbolic link");
    assert_eq!(target, PathBuf::from("bzmore"));
}

#[test]
fn the_packed_image_holds_the_root_file_system() {
    let unpacked = tempfile::tempdir().expect("a temporary directory");
    let archive = unpacked.path().join("image.tar");
    let packed = cold_build().output.join("demo-image/demo-image.tar.lz4");
    run(Command::new(root_file_system().join("usr/bin/lz4"))
        .args(["-d", "-q"])
        .args([&packed, &archive]));
    let contents = unpacked.path().join("contents");
    std::fs::create_dir(&contents).expect("a directory");
    run(Command::new("tar")
        .arg("-xpf")
        .arg(&archive)
        .arg("-C")
        .arg(&contents));
    assert!(
        tree_of(&contents) == tree_of(&root_file_system()),
        "the archive and the tree differ"
    );
}
