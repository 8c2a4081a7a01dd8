use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use bitzel_cas::blob_store::one_chunk;
use bitzel_cas::{BlobStore, MemoryBlobStore};
use bitzel_proto::Digest;
use bitzel_proto::reapi::{Directory, DirectoryNode, FileNode, NodeProperties, NodeProperty, SymlinkNode};
use prost::Message;

use super::layout::Layout;
use super::{Destination, write};
use crate::plan::tree::{DIGEST_FUNCTION, Node};
use crate::walk::BuildError;

async fn put(store: &MemoryBlobStore, bytes: Vec<u8>) -> Digest {
    let digest = DIGEST_FUNCTION.digest(&bytes);
    store.write(digest, one_chunk(bytes.into())).await.unwrap();
    digest
}

fn file_node(name: &str, digest: Digest) -> FileNode {
    FileNode {
        name: name.into(),
        digest: Some(digest.into()),
        ..FileNode::default()
    }
}

fn link_node(name: &str, target: &str) -> SymlinkNode {
    SymlinkNode {
        name: name.into(),
        target: target.into(),
        ..SymlinkNode::default()
    }
}

/// A result: the directory `x` with the file `f`.
async fn with_directory(store: &MemoryBlobStore) -> Node {
    let digest = put(store, b"result".to_vec()).await;
    let directory = Directory {
        files: vec![file_node("f", digest)],
        ..Directory::default()
    };
    let child = put(store, directory.encode_to_vec()).await;
    let root = Directory {
        directories: vec![DirectoryNode {
            name: "x".into(),
            digest: Some(child.into()),
        }],
        ..Directory::default()
    };
    Node::Stored(put(store, root.encode_to_vec()).await)
}

/// A result: the symbolic link `x`.
async fn with_link(store: &MemoryBlobStore, target: &Path) -> Node {
    let root = Directory {
        symlinks: vec![link_node("x", target.to_str().unwrap())],
        ..Directory::default()
    };
    Node::Stored(put(store, root.encode_to_vec()).await)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into()).collect()
}

struct Directories {
    _temporary: tempfile::TempDir,
    destination: PathBuf,
    outside: PathBuf,
}

fn directories() -> Directories {
    let temporary = tempfile::tempdir().unwrap();
    let (destination, outside) = (temporary.path().join("out"), temporary.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    Directories {
        _temporary: temporary,
        destination,
        outside,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_one_result_leads_no_file_of_another_outside() {
    let store = MemoryBlobStore::default();
    let there = directories();
    let results = [
        ("a:do_deploy", with_directory(&store).await),
        ("b:do_deploy", with_link(&store, &there.outside).await),
    ];
    for order in [[0, 1], [1, 0]] {
        let mut layout = Layout::default();
        let [(first, node), (second, other)] = order.map(|index| &results[index]);
        layout.add(&store, first, "images", node).await.unwrap();
        let error = layout.add(&store, second, "images", other).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, BuildError::OutputConflict { .. }), "{text}");
        for part in [
            "images/x is",
            "a directory in",
            "a symbolic link in",
            "a:do_deploy",
            "b:do_deploy",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
    // The link alone is placed, and leads where it does.
    let mut layout = Layout::default();
    layout.add(&store, "b", "images", &results[1].1).await.unwrap();
    write(&store, &layout, &there.destination).await.unwrap();
    assert_eq!(
        fs::read_link(there.destination.join("images/x")).unwrap(),
        there.outside
    );
    // A later build replaces it.
    let mut layout = Layout::default();
    layout.add(&store, "a", "images", &results[0].1).await.unwrap();
    write(&store, &layout, &there.destination).await.unwrap();
    let placed = there.destination.join("images/x/f");
    assert_eq!(fs::read(&placed).unwrap(), b"result");
    assert_eq!(fs::metadata(placed).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(entries(&there.outside), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn f2_a_link_that_appears_meanwhile_is_not_followed() {
    let store = MemoryBlobStore::default();
    let there = directories();
    let node = file_node("f", put(&store, b"result".to_vec()).await);
    let destination = Destination::open(&there.destination).unwrap();
    destination.create_directory("images").unwrap();
    symlink(&there.outside, there.destination.join("images/x")).unwrap();
    for path in [
        "images/x/f",
        "images/x/../../../outside/f",
        "../outside/f",
        "images/..",
    ] {
        destination.write_file(&store, path, &node).await.unwrap_err();
        destination.place_symlink(path, "target").unwrap_err();
        destination.place_link(path, "images/link").unwrap_err();
    }
    destination.create_directory("images/x/d").unwrap_err();
    destination.create_directory("../outside/d").unwrap_err();
    assert_eq!(entries(&there.outside), Vec::<PathBuf>::new());
    assert_eq!(
        entries(&there.destination.join("images")),
        ["x"].map(PathBuf::from)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_there_whole_or_as_it_was() {
    let store = MemoryBlobStore::default();
    let there = directories();
    let destination = Destination::open(&there.destination).unwrap();
    let lost = file_node("f", DIGEST_FUNCTION.digest(b"nobody has it"));
    destination.write_file(&store, "f", &lost).await.unwrap_err();
    assert_eq!(entries(&there.destination), Vec::<PathBuf>::new());
    let node = file_node("f", put(&store, b"result".to_vec()).await);
    destination.write_file(&store, "f", &node).await.unwrap();
    destination.write_file(&store, "f", &lost).await.unwrap_err();
    assert_eq!(fs::read(there.destination.join("f")).unwrap(), b"result");
    // A directory of an earlier build makes way.
    fs::create_dir_all(there.destination.join("g/h")).unwrap();
    destination.write_file(&store, "g", &node).await.unwrap();
    destination.place_symlink("f", "g").unwrap();
    assert_eq!(fs::read(there.destination.join("f")).unwrap(), b"result");
    assert_eq!(entries(&there.destination).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_one_file_stay_that() {
    let store = MemoryBlobStore::default();
    let there = directories();
    let mut node = file_node("", put(&store, b"result".to_vec()).await);
    node.node_properties = Some(NodeProperties {
        properties: vec![NodeProperty {
            name: "hardlink-group".into(),
            value: "a".into(),
        }],
        ..NodeProperties::default()
    });
    for _ in 0..2 {
        let mut layout = Layout::default();
        for path in ["a", "d/b"] {
            layout
                .add(&store, "task", path, &Node::File(node.clone()))
                .await
                .unwrap();
        }
        assert_eq!(layout.files().0.len(), 1);
        write(&store, &layout, &there.destination).await.unwrap();
        let inode = |path| fs::metadata(there.destination.join(path)).unwrap().ino();
        assert_eq!(inode("a"), inode("d/b"));
    }
    assert_eq!(entries(&there.destination).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_files_are_named_by_task_and_the_others_placed() {
    let store = MemoryBlobStore::default();
    let there = directories();
    let node = file_node("", put(&store, b"result".to_vec()).await);
    let lost = file_node("", DIGEST_FUNCTION.digest(b"nobody has it"));
    let mut layout = Layout::default();
    for (task, path, node) in [("a", "here", &node), ("b", "gone", &lost), ("b", "too", &lost)] {
        layout
            .add(&store, task, path, &Node::File(node.clone()))
            .await
            .unwrap();
    }
    let lost = write(&store, &layout, &there.destination).await.unwrap();
    assert_eq!(lost.keys().collect::<Vec<_>>(), ["b"]);
    assert!(lost["b"].is_lost_output(), "{:?}", lost["b"]);
    assert_eq!(entries(&there.destination), ["here"].map(PathBuf::from));
}
