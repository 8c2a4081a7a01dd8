//! Sources with files that no Directory message can represent.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use bitzel_tests::{Site, run};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// Checks all files in two tasks; the second task gets the tree of the first.
const RECIPE: &str = r#"
LICENSE = "MIT"
SRC_URI = "file://source.tar"
S = "${UNPACKDIR}/source"
B = "${S}"
look() {
	test -p pipe
	test "$(stat -c '%a %Y' pipe)" = "640 1000000000"
	test "$(stat -c %Y .)" = 1000000000
	test "$(cat "$(printf 'caf\351')")" = coffee
	test "$(cat "$(printf 'd\351p\364t/file')")" = deep
	test "$(readlink link)" = "$(printf 'caf\351')"
}
do_compile() {
	look
}
do_install() {
	look
	install -d ${D}
}
"#;

/// Packs a source directory into an archive.
fn write_archive(site: &Site, archive: &Path) {
    let source = site.path("source");
    let directory = source.join(OsStr::from_bytes(b"d\xe9p\xf4t"));
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("file"), "deep\n").expect("a file");
    std::fs::write(source.join(OsStr::from_bytes(b"caf\xe9")), "coffee\n").expect("a file");
    std::os::unix::fs::symlink(OsStr::from_bytes(b"caf\xe9"), source.join("link")).expect("a link");
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    mknodat(CWD, source.join("pipe"), FileType::Fifo, mode, 0).expect("a pipe");
    run(Command::new("tar")
        .args(["--mtime=@1000000000", "--mode=u+rw,g+r,o=", "-cf"])
        .arg(archive)
        .arg("-C")
        .arg(site.path(""))
        .arg("source"));
}

#[test]
fn later_tasks_see_pipes_and_names_that_are_not_utf8() {
    let site = Site::empty();
    site.add_recipe("special", RECIPE);
    let files = site.layer().join("recipes/special/files");
    std::fs::create_dir(&files).expect("a directory");
    write_archive(&site, &files.join("source.tar"));
    let report = site.build(&["special"]).succeeded();
    assert!(
        report.tasks("ran").contains("special:do_unpack"),
        "{}",
        report.text
    );
    let report = site.build(&["special"]).succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
}

/// Reads the tree that another recipe has unpacked.
const READER: &str = r#"
LICENSE = "MIT"
S = "${TMPDIR}/work/special-1.0/sources/source"
deltask do_fetch
deltask do_unpack
deltask do_patch
do_compile[depends] = "special:do_unpack"
do_compile() {
	test -p ${S}/pipe
	test "$(stat -c '%a %Y' ${S}/pipe)" = "640 1000000000"
	test "$(readlink ${S}/link)" = "$(printf 'caf\351')"
	test "$(cat ${S}/link)" = coffee
	test "$(cat "${S}/$(printf 'd\351p\364t/file')")" = deep
}
do_install() {
	test -p ${S}/pipe
	test "$(cat "${S}/$(printf 'caf\351')")" = coffee
	install -d ${D}
}
"#;

#[test]
fn tasks_of_other_recipes_see_special_files_too() {
    let site = Site::empty();
    site.add_recipe("special", RECIPE);
    site.add_recipe("reader", READER);
    let files = site.layer().join("recipes/special/files");
    std::fs::create_dir(&files).expect("a directory");
    write_archive(&site, &files.join("source.tar"));
    let report = site.build(&["-c", "install", "reader"]).succeeded();
    assert!(
        report.tasks("ran").contains("reader:do_install"),
        "{}",
        report.text
    );
}
