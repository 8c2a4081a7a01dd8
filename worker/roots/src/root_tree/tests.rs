#![allow(clippy::unwrap_used, reason = "tests may panic")]

use bitzel_proto::reapi::Directory;
use bitzel_worker::node_properties::hardlink_group;
use prost::Message as _;

use super::*;
use crate::root_digest::ROOT_DIGEST_FUNCTION;

fn path(text: &str) -> Vec<String> {
    text.split('/')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn file(content: &str) -> RootFileEntry {
    RootFileEntry {
        digest: ROOT_DIGEST_FUNCTION.digest(content.as_bytes()),
        attributes: Attributes {
            mode: 0o644,
            mtime_seconds: 7,
        },
        inode: None,
    }
}

fn root_directory(root: &EncodedRoot) -> Directory {
    Directory::decode(root.directories[&root.digest].clone()).unwrap()
}

#[test]
fn follows_symlinks_inside_the_tree() {
    let mut tree = RootTree::default();
    tree.add_symlink(&path("lib"), "usr/lib".into(), 0).unwrap();
    tree.add_symlink(&path("out"), "/../../../etc".into(), 0).unwrap();
    tree.add_file(&path("lib/libc.so"), file("libc")).unwrap();
    tree.add_file(&path("out/passwd"), file("passwd")).unwrap();
    assert!(tree.file(&["usr", "lib", "libc.so"]).is_some());
    assert!(tree.file(&["etc", "passwd"]).is_some());
}

#[test]
fn refuses_symlinks_that_lead_in_circles() {
    let mut tree = RootTree::default();
    tree.add_symlink(&path("a"), "b".into(), 0).unwrap();
    tree.add_symlink(&path("b"), "a".into(), 0).unwrap();
    let error = tree.add_file(&path("a/file"), file("x")).unwrap_err();
    assert!(error.to_string().contains("too many symlinks"), "{error}");
}

#[test]
fn refuses_entries_below_a_file() {
    let mut tree = RootTree::default();
    tree.add_file(&path("a"), file("x")).unwrap();
    let error = tree.add_file(&path("a/b"), file("y")).unwrap_err();
    assert!(error.to_string().contains("below a file"), "{error}");
}

#[test]
fn refuses_trees_that_are_too_deep() {
    let mut tree = RootTree::default();
    let deep = vec!["d".to_owned(); MAX_DEPTH + 1];
    let error = tree.add_file(&deep, file("x")).unwrap_err();
    assert!(error.to_string().contains("levels"), "{error}");
}

#[test]
fn keeps_modes_that_a_worker_can_use() {
    let mut tree = RootTree::default();
    let mode = |mode| Attributes {
        mode,
        mtime_seconds: 7,
    };
    tree.add_directory(&path("closed"), mode(0o2000)).unwrap();
    let setuid = RootFileEntry {
        attributes: mode(0o4111),
        ..file("x")
    };
    tree.add_file(&path("su"), setuid).unwrap();
    let root = tree.encode().unwrap();
    let directory = root_directory(&root);
    let file = directory.files[0].node_properties.clone().unwrap();
    assert_eq!(file.unix_mode.unwrap().value, 0o511);
    assert_eq!(file.mtime.unwrap().seconds, 7);
    let closed =
        Digest::from_wire_field(ROOT_DIGEST_FUNCTION, directory.directories[0].digest.as_ref()).unwrap();
    let closed = Directory::decode(root.directories[&closed].clone()).unwrap();
    assert_eq!(closed.node_properties.unwrap().unix_mode.unwrap().value, 0o700);
}

#[test]
fn names_of_one_inode_are_a_hardlink_group() {
    let mut tree = RootTree::default();
    tree.add_file(&path("b"), file("x")).unwrap();
    tree.add_file(&path("other"), file("x")).unwrap();
    tree.add_hardlink(&path("a"), &path("b")).unwrap();
    let root = tree.encode().unwrap();
    let groups: Vec<_> = root_directory(&root)
        .files
        .into_iter()
        .map(|node| hardlink_group(node.node_properties.as_ref()).map(str::to_owned))
        .collect();
    assert_eq!(groups, [Some("a".to_owned()), Some("a".to_owned()), None]);
    assert_eq!((root.file_count, root.bytes), (3, 2));
}

#[test]
fn refuses_hardlinks_to_nothing() {
    let mut tree = RootTree::default();
    tree.add_directory(&path("d"), Attributes::default()).unwrap();
    for target in ["absent", "d", "d/absent", ""] {
        assert!(tree.add_hardlink(&path("a"), &path(target)).is_err(), "{target}");
    }
}

#[test]
fn a_directory_takes_the_place_of_a_symlink() {
    let mut tree = RootTree::default();
    tree.add_symlink(&path("a"), "/etc".into(), 0).unwrap();
    tree.add_directory(&path("a"), Attributes::default()).unwrap();
    tree.add_file(&path("a/b"), file("x")).unwrap();
    assert!(tree.file(&["a", "b"]).is_some());
    assert!(tree.file(&["etc", "b"]).is_none());
}

#[test]
fn the_order_of_entries_does_not_matter() {
    let entries = ["a", "b/c", "b/d", "e/f/g"];
    let digest_of = |entries: &mut dyn Iterator<Item = &&str>| {
        let mut tree = RootTree::default();
        for entry in entries {
            tree.add_file(&path(entry), file(entry)).unwrap();
        }
        tree.encode().unwrap().digest
    };
    assert_eq!(
        digest_of(&mut entries.iter()),
        digest_of(&mut entries.iter().rev())
    );
}

#[test]
fn f22_refuses_symlinks_that_take_long_to_follow() {
    let mut tree = RootTree::default();
    let error = tree.add_symlink(&path("long"), "x".repeat(4096), 0).unwrap_err();
    assert!(error.to_string().contains("more than 4095 bytes"), "{error}");
    tree.add_directory(&path("d"), Attributes::default()).unwrap();
    for number in 0..39 {
        let next = format!("l{}", number + 1);
        let target = "d/../".repeat(800) + if number < 38 { &next } else { "d" };
        tree.add_symlink(&path(&format!("l{number}")), target, 0).unwrap();
    }
    tree.add_file(&path("l38/near"), file("x")).unwrap();
    assert!(tree.file(&["d", "near"]).is_some());
    let error = tree.add_file(&path("l0/far"), file("x")).unwrap_err();
    assert!(error.to_string().contains("more than 4096 names"), "{error}");
}
