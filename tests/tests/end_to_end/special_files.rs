//! Sources with files that no message of the Remote Execution API can name.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use bitzel_tests::Site;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// Looks for everything in two tasks; the second one gets what the first one left.
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
    mkfifo(&source.join("pipe"), Mode::from_bits_truncate(0o640)).expect("a pipe");
    let status = Command::new("tar")
        .args(["--mtime=@1000000000", "--mode=u+rw,g+r,o=", "-cf"])
        .arg(archive)
        .arg("-C")
        .arg(site.path(""))
        .arg("source")
        .status()
        .expect("tar starts");
    assert!(status.success(), "tar failed");
}

#[test]
fn pipes_and_names_that_are_not_utf8_come_along() {
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
