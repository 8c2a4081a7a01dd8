#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod any_archive;
mod images;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use bitzel_proto::reapi::Directory;
use bitzel_worker::node_properties::hardlink_group;
use flate2::write::GzEncoder;
use prost::Message as _;
use tar::{EntryType, Header};

use super::*;
use crate::losses::Loss;
use crate::root_digest::ROOT_DIGEST_FUNCTION;

/// Paths of all entries of a root, with their contents or targets: `d`, `f CONTENT`, `l TARGET`.
fn listing(imported: &ImportedRoot) -> Vec<String> {
    let mut lines = vec![];
    list(imported, imported.root.digest, "", &mut lines);
    lines.sort();
    lines
}

fn list(imported: &ImportedRoot, digest: Digest, path: &str, lines: &mut Vec<String>) {
    let directory = Directory::decode(imported.root.directories[&digest].clone()).unwrap();
    let wire = |digest: &Option<bitzel_proto::reapi::Digest>| {
        Digest::from_wire_field(ROOT_DIGEST_FUNCTION, digest.as_ref()).unwrap()
    };
    for node in &directory.files {
        let content = fs::read(&imported.files[&wire(&node.digest)]).unwrap();
        lines.push(format!(
            "{path}{} f {}",
            node.name,
            String::from_utf8_lossy(&content)
        ));
    }
    for node in &directory.symlinks {
        lines.push(format!("{path}{} l {}", node.name, node.target));
    }
    for node in &directory.directories {
        lines.push(format!("{path}{} d", node.name));
        list(
            imported,
            wire(&node.digest),
            &format!("{path}{}/", node.name),
            lines,
        );
    }
}

/// Tar archive in memory. Names are written as they are, also those that the library refuses.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_500_000_000);
        header.set_size(content.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name);
        gnu.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), b"", content.as_bytes())
    }

    fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), b"", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"")
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name.as_bytes(), target.as_bytes(), b"")
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    fn import(self) -> Result<ImportedRoot, Error> {
        import_bytes(&self.finish())
    }
}

fn import_bytes(bytes: &[u8]) -> Result<ImportedRoot, Error> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("archive");
    fs::write(&path, bytes).unwrap();
    import(&path, &std::env::temp_dir())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn message(result: Result<ImportedRoot, Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_directory_and_its_archive_are_one_root() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().join("root");
    let long = "n".repeat(200);
    fs::create_dir_all(top.join("usr/lib").join(&long)).unwrap();
    fs::write(top.join("usr/lib").join(&long).join("x".repeat(200)), "long").unwrap();
    fs::write(top.join("usr/tool"), "tool").unwrap();
    fs::set_permissions(top.join("usr/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(top.join("usr/tool"), top.join("usr/again")).unwrap();
    symlink("/absolute/../elsewhere", top.join("link")).unwrap();
    let from_directory = import(&top, directory.path()).unwrap();
    assert!(listing(&from_directory).contains(&"link l /absolute/../elsewhere".to_owned()));

    for (format, compression) in [
        ("gnu", "--gzip"),
        ("pax", "--zstd"),
        ("posix", "--no-auto-compress"),
    ] {
        let archive = directory.path().join("root.tar");
        let status = Command::new("tar")
            .arg(format!("--format={format}"))
            .arg(compression)
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&top)
            .arg(".")
            .status()
            .unwrap();
        assert!(status.success());
        let imported = import(&archive, directory.path()).unwrap();
        assert_eq!(listing(&imported), listing(&from_directory), "{format}");
        assert_eq!(imported.root.digest, from_directory.root.digest, "{format}");
    }
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "temporary files are gone: {left:?}");
}

#[test]
fn names_what_a_directory_loses() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().join("root");
    fs::create_dir(&top).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).current_dir(&top).status();
        assert!(status.unwrap().success(), "{program} {arguments:?}");
    };
    run("mkfifo", &["pipe"]);
    fs::write(top.join("su"), "x").unwrap();
    run("chmod", &["4755", "su"]);
    let _socket = std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap();
    fs::write(top.join("labelled"), "x").unwrap();
    let name = std::os::unix::ffi::OsStrExt::as_bytes(top.join("labelled").as_os_str()).to_vec();
    rustix::fs::setxattr(name, "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
    fs::write(top.join(odd), "x").unwrap();

    let imported = import(&top, directory.path()).unwrap();
    assert_eq!(listing(&imported), ["labelled f x", "su f x"]);
    for loss in [
        Loss::NamedPipe,
        Loss::SetId,
        Loss::Socket,
        Loss::ExtendedAttributes,
        Loss::NotUtf8,
    ] {
        assert_eq!(imported.losses.count(loss), 1, "{loss}");
    }
    let lines: Vec<String> = imported.losses.lines().collect();
    assert!(lines.contains(&"named pipes: 1 (pipe)".to_owned()), "{lines:?}");
}

#[test]
fn names_what_an_archive_loses() {
    let imported = Tar::default()
        .file("kept", "x")
        .entry(EntryType::Char, b"dev/null", b"", b"")
        .entry(EntryType::Block, b"dev/sda", b"", b"")
        .entry(EntryType::Fifo, b"pipe", b"", b"")
        .entry(EntryType::Regular, b"\xff\xfe", b"", b"")
        .entry(EntryType::Symlink, b"link", b"\xff", b"")
        .import()
        .unwrap();
    assert_eq!(listing(&imported), ["kept f x"]);
    let count = |loss| imported.losses.count(loss);
    assert_eq!(
        [count(Loss::Device), count(Loss::NamedPipe), count(Loss::NotUtf8)],
        [2, 1, 2]
    );
}

#[test]
fn refuses_entries_that_lead_out_of_the_archive() {
    for name in ["../x", "a/../../x", "a/.."] {
        let refused = message(Tar::default().file(name, "x").import());
        assert!(refused.contains("leads out of the archive"), "{refused}");
        let refused = message(Tar::default().file("x", "x").hardlink("y", name).import());
        assert!(refused.contains("leads out of the archive"), "{refused}");
    }
    // As with tar itself, a leading slash means nothing.
    let imported = Tar::default().file("/etc/passwd", "x").import().unwrap();
    assert_eq!(listing(&imported), ["etc d", "etc/passwd f x"]);
}

#[test]
fn symlinks_of_an_archive_are_not_followed_outside() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().display().to_string();
    let imported = Tar::default()
        .symlink("out", &outside)
        .file("out/planted", "x")
        .import()
        .unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let inside = format!("{}/planted f x", outside.trim_start_matches('/'));
    assert!(listing(&imported).contains(&inside), "{:?}", listing(&imported));
}

#[test]
fn refuses_hostile_archives() {
    let archive = Tar::default().file("a", "content").finish();
    let refused = message(import_bytes(&archive[..515]));
    assert!(
        refused.contains("\"a\"") && refused.contains("ends after"),
        "{refused}"
    );
    let refused = message(import_bytes(b"no archive at all"));
    assert!(
        refused.contains("next to come") || refused.contains("not a root"),
        "{refused}"
    );
    let refused = message(import_bytes(&[0; 1024]));
    assert!(refused.contains("it has no entries"), "{refused}");
    let refused = message(import_bytes(b"\xfd7zXZ\0something"));
    assert!(refused.contains("decompress it first"), "{refused}");
    let refused = message(Tar::default().hardlink("a", "absent").import());
    assert!(refused.contains("which the archive does not have"), "{refused}");
    let refused = message(Tar::default().file("a", "x").file("a/b", "y").import());
    assert!(refused.contains("below a file"), "{refused}");
    let sparse = b"24 GNU.sparse.major=1.0\n".map(|byte| byte);
    let refused = message(
        Tar::default()
            .entry(EntryType::XHeader, b"pax", b"", &sparse)
            .file("a", "x")
            .import(),
    );
    assert!(refused.contains("sparse"), "{refused}");
}

#[test]
fn bounds_the_headers_of_an_archive() {
    let name = |length| b"n".repeat(length);
    let long = |kind, length| Tar::default().entry(EntryType::new(kind), b"long", b"", &name(length));
    let header = |kind| message(long(kind, 300 << 10).file("a", "x").import());
    for kind in *b"LKx" {
        let refused = header(kind);
        assert!(refused.contains("header has more than"), "{refused}");
    }
    // Contents that nobody reads are no header.
    let imported = Tar::default()
        .entry(EntryType::Directory, b"d", b"", &name(300 << 10))
        .file("a", "x")
        .import()
        .unwrap();
    assert_eq!(listing(&imported), ["a f x", "d d"]);
    let deep = Tar::default().entry(EntryType::GNULongName, b"long", b"", "a/".repeat(600).as_bytes());
    let refused = message(deep.file("a", "x").import());
    assert!(refused.contains("levels of directories"), "{refused}");
}

#[test]
fn hardlinks_of_an_archive_share_an_inode() {
    let imported = Tar::default()
        .file("b", "x")
        .hardlink("a", "./b")
        .import()
        .unwrap();
    let root = Directory::decode(imported.root.directories[&imported.root.digest].clone()).unwrap();
    for node in &root.files {
        assert_eq!(hardlink_group(node.node_properties.as_ref()), Some("a"));
    }
}
