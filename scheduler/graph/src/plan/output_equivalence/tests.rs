use std::sync::Arc;

use bitzel_proto::google::protobuf::{Timestamp, UInt32Value};
use bitzel_proto::graph::{FileChecksum, PathPair};
use bitzel_proto::reapi::NodeProperties;
use prost::Message;

use super::*;

const WORK: &str = "build/tmp/work/zlib";
const SYSROOT: &str = "build/tmp/sysroots/zlib";

fn store(directories: &mut Directories, content: &str, seconds: i64, mode: u32) -> Digest {
    let node_properties = Some(NodeProperties {
        mtime: Some(Timestamp { seconds, nanos: 0 }),
        unix_mode: Some(UInt32Value { value: mode }),
        ..NodeProperties::default()
    });
    let digest = Some(DIGEST_FUNCTION.digest(content.as_bytes()).to_wire());
    let known = directories.clone();
    let mut tree = Tree::new(&known);
    tree.put(
        "d/f",
        Node::File(FileNode {
            digest,
            node_properties,
            ..FileNode::default()
        }),
    )
    .unwrap();
    let finished = tree.finish();
    for (digest, bytes) in finished.blobs {
        directories.insert(digest, Arc::new(Directory::decode(bytes).unwrap()));
    }
    finished.root
}

fn digest(task: &Task, work: (&str, i64, u32), sysroot: (&str, i64, u32)) -> Digest {
    let recipe = Recipe {
        work_directory: WORK.to_owned(),
        ..Recipe::default()
    };
    let mut directories = Directories::new();
    let work = store(&mut directories, work.0, work.1, work.2);
    let sysroot = store(&mut directories, sysroot.0, sysroot.1, sysroot.2);
    let outputs = BTreeMap::from([
        (WORK.to_owned(), Node::Stored(work)),
        (SYSROOT.to_owned(), Node::Stored(sysroot)),
        ("bitzel/log".to_owned(), Node::Stored(work)),
    ]);
    let result = TaskResult {
        unihash: String::new(),
        outputs,
        before: BTreeMap::new(),
        milliseconds: 0,
        restored: false,
    };
    outputs_digest(
        &recipe,
        task,
        &result,
        &directories,
        &mut DigestsWithoutTimes::new(),
    )
    .unwrap()
}

fn compile() -> Task {
    Task {
        name: "do_compile".to_owned(),
        ..Task::default()
    }
}

fn populate_sysroot() -> Task {
    Task {
        name: "do_populate_sysroot".to_owned(),
        published_paths: vec![SYSROOT.to_owned()],
        sstate_directories: vec![PathPair {
            source: String::new(),
            destination: SYSROOT.to_owned(),
        }],
        ..Task::default()
    }
}

#[test]
fn times_do_not_count() {
    assert_eq!(
        digest(&compile(), ("a", 1, 0o644), ("s", 1, 0o644)),
        digest(&compile(), ("a", 2, 0o644), ("s", 2, 0o644))
    );
}

#[test]
fn content_and_modes_count() {
    let base = digest(&compile(), ("a", 1, 0o644), ("s", 1, 0o644));
    assert_ne!(base, digest(&compile(), ("b", 1, 0o644), ("s", 1, 0o644)));
    assert_ne!(base, digest(&compile(), ("a", 1, 0o755), ("s", 1, 0o644)));
}

#[test]
fn an_sstate_task_answers_for_what_it_published_only() {
    let base = digest(&populate_sysroot(), ("a", 1, 0o644), ("s", 1, 0o644));
    assert_eq!(
        base,
        digest(&populate_sysroot(), ("b", 1, 0o644), ("s", 1, 0o644))
    );
    assert_ne!(
        base,
        digest(&populate_sysroot(), ("a", 1, 0o644), ("t", 1, 0o644))
    );
}

#[test]
fn local_files_that_the_task_answers_for_count() {
    let fetch = |checksum: &str| Task {
        name: "do_fetch".to_owned(),
        file_checksums: vec![FileChecksum {
            path: "/work/layers/x/a.c".to_owned(),
            checksum: checksum.to_owned(),
        }],
        ..Task::default()
    };
    let outputs = (("same", 1, 0o644), ("same", 1, 0o644));
    assert_eq!(
        digest(&fetch("1"), outputs.0, outputs.1),
        digest(&fetch("1"), outputs.0, outputs.1)
    );
    assert_ne!(
        digest(&fetch("1"), outputs.0, outputs.1),
        digest(&fetch("2"), outputs.0, outputs.1)
    );
}

#[test]
fn a_plain_directory_counts_for_an_sstate_task() {
    let mut package = populate_sysroot();
    package.sstate_plain_directories = vec![format!("{WORK}/d")];
    let base = digest(&package, ("a", 1, 0o644), ("s", 1, 0o644));
    assert_ne!(base, digest(&package, ("b", 1, 0o644), ("s", 1, 0o644)));
}
