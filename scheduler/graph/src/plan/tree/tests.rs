use bitzel_proto::google::protobuf::{Timestamp, UInt32Value};
use proptest::prelude::*;
use prost::Message;

use super::*;

fn file(content: &str) -> Node {
    Node::File(FileNode {
        digest: Some(DIGEST_FUNCTION.digest(content.as_bytes()).to_wire()),
        ..FileNode::default()
    })
}

fn file_at(content: &str, seconds: i64) -> Node {
    let Node::File(mut node) = file(content) else {
        unreachable!()
    };
    let mtime = Some(Timestamp { seconds, nanos: 0 });
    node.node_properties = Some(NodeProperties {
        mtime,
        unix_mode: Some(UInt32Value { value: 0o644 }),
        ..NodeProperties::default()
    });
    Node::File(node)
}

fn link(target: &str) -> Node {
    Node::Symlink(SymlinkNode {
        target: target.to_owned(),
        ..SymlinkNode::default()
    })
}

/// Stores a tree of the given files and gives its root.
fn store(directories: &mut Directories, files: &[(&str, Node)]) -> Digest {
    let known = directories.clone();
    let mut tree = Tree::new(&known);
    for (path, node) in files {
        tree.put(path, node.clone()).unwrap();
    }
    let finished = tree.finish();
    for (digest, bytes) in finished.blobs {
        directories.insert(digest, Arc::new(Directory::decode(bytes).unwrap()));
    }
    finished.root
}

fn never(_: &str) -> bool {
    false
}

#[test]
fn an_untouched_tree_keeps_its_digest_and_makes_no_blob() {
    let mut directories = Directories::new();
    let root = store(&mut directories, &[("a/b", file("1")), ("c", link("/nowhere"))]);
    let finished = Tree::stored(&directories, root).finish();
    assert_eq!(finished.root, root);
    assert!(finished.blobs.is_empty());
}

#[test]
fn the_way_a_tree_was_built_does_not_matter() {
    let mut directories = Directories::new();
    let whole = store(
        &mut directories,
        &[("a/b", file("1")), ("a/c/d", file("2")), ("e", link("x"))],
    );
    let part = store(&mut directories, &[("d", file("2"))]);
    let mut tree = Tree::new(&directories);
    tree.put("e", link("x")).unwrap();
    tree.put("a/c", Node::Stored(part)).unwrap();
    tree.put("a/b", file("1")).unwrap();
    assert_eq!(tree.finish().root, whole);
}

#[test]
fn a_union_joins_directories_and_shares_equal_files() {
    let mut directories = Directories::new();
    let zlib = store(
        &mut directories,
        &[("usr/lib/libz.a", file("z")), ("usr/share/same", file("s"))],
    );
    let png = store(
        &mut directories,
        &[("usr/lib/libpng.a", file("p")), ("usr/share/same", file("s"))],
    );
    let both = store(
        &mut directories,
        &[
            ("usr/lib/libz.a", file("z")),
            ("usr/lib/libpng.a", file("p")),
            ("usr/share/same", file("s")),
        ],
    );
    let mut tree = Tree::new(&directories);
    for component in [zlib, png] {
        tree.merge("", None, Some(&Node::Stored(component)), &never)
            .unwrap();
    }
    assert_eq!(tree.finish().root, both);
}

#[test]
fn union_refuses_different_content_unless_allowed() {
    let mut directories = Directories::new();
    let one = store(&mut directories, &[("usr/a", file("1"))]);
    let other = store(&mut directories, &[("usr/a", file("2"))]);
    let mut tree = Tree::stored(&directories, one);
    let conflict = tree
        .clone()
        .merge("", None, Some(&Node::Stored(other)), &never)
        .unwrap_err();
    assert_eq!(
        conflict,
        TreeError::Conflict(MergeConflict {
            path: "/usr/a".to_owned()
        })
    );
    tree.merge("", None, Some(&Node::Stored(other)), &|path| path == "/usr/a")
        .unwrap();
    assert_eq!(tree.finish().root, other);
}

#[test]
fn three_way_merge_keeps_both_sides_and_their_deletions() {
    let mut directories = Directories::new();
    let base = store(
        &mut directories,
        &[
            ("s/keep", file("k")),
            ("s/gone", file("g")),
            ("s/changed", file("1")),
        ],
    );
    let mine = store(
        &mut directories,
        &[
            ("s/keep", file("k")),
            ("s/gone", file("g")),
            ("s/changed", file("1")),
            ("sysroot/x", file("x")),
        ],
    );
    let theirs = store(
        &mut directories,
        &[
            ("s/keep", file("k")),
            ("s/changed", file("2")),
            ("s/new", file("n")),
        ],
    );
    let merged = store(
        &mut directories,
        &[
            ("s/keep", file("k")),
            ("s/changed", file("2")),
            ("s/new", file("n")),
            ("sysroot/x", file("x")),
        ],
    );
    let mut tree = Tree::stored(&directories, mine);
    tree.merge("", Some(&Node::Stored(base)), Some(&Node::Stored(theirs)), &never)
        .unwrap();
    assert_eq!(tree.finish().root, merged);
}

#[test]
fn both_sides_changing_one_file_differently_is_a_conflict() {
    let mut directories = Directories::new();
    let base = store(&mut directories, &[("f", file("0"))]);
    let mine = store(&mut directories, &[("f", file("1"))]);
    let theirs = store(&mut directories, &[("f", file("2"))]);
    let removed = store(&mut directories, &[]);
    for other in [theirs, removed] {
        let mut tree = Tree::stored(&directories, mine);
        let conflict = tree
            .merge("", Some(&Node::Stored(base)), Some(&Node::Stored(other)), &never)
            .unwrap_err();
        assert_eq!(
            conflict,
            TreeError::Conflict(MergeConflict {
                path: "/f".to_owned()
            })
        );
    }
}

#[test]
fn times_alone_are_no_conflict_and_the_later_one_stays() {
    let mut directories = Directories::new();
    let one = store(&mut directories, &[("f", file_at("same", 1))]);
    let other = store(&mut directories, &[("f", file_at("same", 2))]);
    let mut tree = Tree::stored(&directories, one);
    tree.merge("", None, Some(&Node::Stored(other)), &never).unwrap();
    assert_eq!(tree.finish().root, other);
}

#[test]
fn a_file_in_the_way_is_named() {
    let directories = Directories::new();
    let mut tree = Tree::new(&directories);
    tree.put("a", file("1")).unwrap();
    assert_eq!(
        tree.put("a/b", file("2")),
        Err(TreeError::NotADirectory("a/b".to_owned()))
    );
}

#[test]
fn a_directory_that_was_not_given_is_named() {
    let directories = Directories::new();
    let digest = DIGEST_FUNCTION.digest(b"elsewhere");
    let mut tree = Tree::stored(&directories, digest);
    assert_eq!(tree.put("a", file("1")), Err(TreeError::UnknownDirectory(digest)));
}

/// A small model: files by path, no path below another.
fn files() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[ab]/[ab]/[abc]", "[01]", 0..8)
}

fn stored(directories: &mut Directories, files: &BTreeMap<String, String>) -> Digest {
    let nodes: Vec<_> = files
        .iter()
        .map(|(path, content)| (path.as_str(), file(content)))
        .collect();
    store(directories, &nodes)
}

proptest! {
    /// The merge of files agrees with the text-book definition applied path by path.
    #[test]
    fn merge_agrees_with_the_model(base in files(), mine in files(), theirs in files()) {
        let mut expected = mine.clone();
        let mut conflict = false;
        for path in base.keys().chain(theirs.keys()) {
            let (before, after, current) = (base.get(path), theirs.get(path), mine.get(path));
            if before == after || current == after {
                continue;
            }
            if current != before {
                conflict = true;
            }
            match after {
                Some(content) => expected.insert(path.clone(), content.clone()),
                None => expected.remove(path),
            };
        }
        let mut directories = Directories::new();
        let roots = [&base, &mine, &theirs].map(|files| stored(&mut directories, files));
        let mut tree = Tree::stored(&directories, roots[1]);
        let merged = tree.merge("", Some(&Node::Stored(roots[0])), Some(&Node::Stored(roots[2])), &never);
        prop_assert_eq!(merged.is_err(), conflict);
        if merged.is_ok() {
            for path in base.keys().chain(mine.keys()).chain(theirs.keys()) {
                let expected = expected.get(path).map(|content| file(content));
                prop_assert_eq!(tree.get(path).unwrap(), expected, "{}", path);
            }
        }
    }
}
