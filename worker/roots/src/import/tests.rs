#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use bitzel_proto::reapi::Directory;
use bitzel_worker::node_properties::hardlink_group;
use flate2::write::GzEncoder;
use prost::Message as _;
use serde_json::{Value, json};
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

/// An OCI image layout on disk.
struct Image {
    directory: tempfile::TempDir,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", ROOT_DIGEST_FUNCTION.digest(bytes).hash_hex())
}

impl Image {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
        fs::write(
            directory.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        Self {
            directory,
            layers: vec![],
            diff_ids: vec![],
        }
    }

    fn blob(&self, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        let path = self.directory.path().join("blobs").join(digest.replace(':', "/"));
        fs::write(path, bytes).unwrap();
        json!({"digest": digest, "size": bytes.len()})
    }

    fn layer(mut self, layer: Tar, compress: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let bytes = layer.finish();
        self.diff_ids.push(sha256(&bytes));
        let blob = self.blob(&compress(&bytes));
        self.layers.push(blob);
        self
    }

    fn manifest(&self) -> Value {
        let configuration = json!({"rootfs": {"type": "layers", "diff_ids": self.diff_ids}});
        let configuration = self.blob(configuration.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": configuration, "layers": self.layers});
        let mut descriptor = self.blob(manifest.to_string().as_bytes());
        descriptor["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
        descriptor
    }

    fn write_index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.directory.path().join("index.json"), index.to_string()).unwrap();
    }

    fn import(&self) -> Result<ImportedRoot, Error> {
        import(self.directory.path(), &std::env::temp_dir())
    }
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Three layers, each with another compression, that remove parts of those below.
fn layered() -> Image {
    Image::new()
        .layer(
            Tar::default()
                .directory("etc")
                .file("etc/kept", "1")
                .file("etc/removed", "1")
                .file("etc/replaced", "1")
                .file("opaque/below", "1")
                .file("opaque/deep/below", "1")
                .file("gone/below", "1")
                .file("to-directory", "1"),
            <[u8]>::to_vec,
        )
        .layer(
            Tar::default()
                .file("etc/.wh.removed", "")
                .file("etc/replaced", "2")
                // After an entry of its own layer, which it does not concern.
                .file("opaque/own", "2")
                .file("opaque/.wh..wh..opq", "")
                .file(".wh.gone", "")
                .file(".wh..wh.plnk", "")
                .directory("to-directory")
                .file("to-directory/inside", "2"),
            gzip,
        )
        .layer(
            Tar::default()
                .file("etc/.wh.own", "")
                .file("etc/own", "3")
                .hardlink("etc/link", "etc/kept"),
            zstd,
        )
}

const LAYERED: [&str; 9] = [
    "etc d",
    "etc/kept f 1",
    "etc/link f 1",
    "etc/own f 3",
    "etc/replaced f 2",
    "opaque d",
    "opaque/own f 2",
    "to-directory d",
    "to-directory/inside f 2",
];

#[test]
fn joins_the_layers_of_an_image() {
    let image = layered();
    image.write_index(&[image.manifest()]);
    let imported = image.import().unwrap();
    assert_eq!(listing(&imported), LAYERED);
    assert_eq!(imported.files.len(), 3, "contents of removed files are not kept");
}

#[test]
fn an_image_may_be_an_archive() {
    let image = layered();
    image.write_index(&[image.manifest()]);
    let archive = tempfile::NamedTempFile::new().unwrap();
    let status = Command::new("tar")
        .arg("-cf")
        .arg(archive.path())
        .arg("-C")
        .arg(image.directory.path())
        .arg(".")
        .status();
    assert!(status.unwrap().success());
    let imported = import(archive.path(), &std::env::temp_dir()).unwrap();
    assert_eq!(listing(&imported), LAYERED);
}

#[test]
fn chooses_the_image_of_this_platform() {
    let image = layered();
    let mut ours = image.manifest();
    ours["platform"] = json!({"os": "linux", "architecture": "amd64"});
    if cfg!(target_arch = "aarch64") {
        ours["platform"]["architecture"] = json!("arm64");
    }
    let mut other = ours.clone();
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let index = json!({"schemaVersion": 2, "manifests": [other, ours]});
    let mut nested = image.blob(index.to_string().as_bytes());
    nested["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    image.write_index(&[nested]);
    assert_eq!(listing(&image.import().unwrap()), LAYERED);
    image.write_index(&[ours.clone(), ours]);
    assert!(message(image.import()).contains("it has 2 images"));
}

#[test]
fn refuses_images_with_wrong_digests() {
    let damage = |image: &Image, digest: &Value, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let path = digest.as_str().unwrap().replace(':', "/");
        let path = image.directory.path().join("blobs").join(path);
        fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
    };
    // A layer with another content of the same size.
    let image = Image::new().layer(Tar::default().file("a", "good"), <[u8]>::to_vec);
    image.write_index(&[image.manifest()]);
    damage(&image, &image.layers[0]["digest"], &|mut bytes| {
        bytes[512..516].copy_from_slice(b"evil");
        bytes
    });
    assert!(message(image.import()).contains("the image is damaged"));
    // A layer that goes on after its archive.
    let image = Image::new().layer(Tar::default().file("a", "good"), <[u8]>::to_vec);
    image.write_index(&[image.manifest()]);
    damage(&image, &image.layers[0]["digest"], &|mut bytes| {
        bytes.push(1);
        bytes
    });
    assert!(message(image.import()).contains("bytes instead of"));
    // A content that is not the one of the configuration.
    let mut image = Image::new().layer(Tar::default().file("a", "good"), gzip);
    image.diff_ids = vec![sha256(b"other")];
    image.write_index(&[image.manifest()]);
    assert!(message(image.import()).contains("the content of layer"));
    // A manifest with other bytes.
    let image = layered();
    let manifest = image.manifest();
    image.write_index(std::slice::from_ref(&manifest));
    damage(&image, &manifest["digest"], &|mut bytes| {
        bytes[0] = b' ';
        bytes
    });
    assert!(message(image.import()).contains("the image is damaged"));
    // Digests that are paths.
    let image = layered();
    let mut manifest = image.manifest();
    manifest["digest"] = json!("sha256:../../../../etc/passwd");
    image.write_index(&[manifest]);
    assert!(message(image.import()).contains("is not a SHA-256 digest"));
}
