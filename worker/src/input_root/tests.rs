use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bitzel_cas::DirectoryTree;
use bitzel_proto::reapi::{Directory, DirectoryNode, FileNode, NodeProperties};
use bitzel_proto::{Digest, DigestFunction};

use super::layer_selection::{LayerKey, select_layers};
use super::small_tree::is_small;

/// A tree from pairs of a path and its number of files. The path of the root is `/`.
fn tree(counts: &[(&str, usize)]) -> DirectoryTree {
    let mut directories = HashMap::new();
    let root = build("", counts, &mut directories);
    DirectoryTree { root, directories }
}

fn build(path: &str, counts: &[(&str, usize)], directories: &mut HashMap<Digest, Arc<Directory>>) -> Digest {
    let mut directory = Directory::default();
    for (of, count) in counts {
        if of.trim_matches('/') == path {
            directory.files.extend((0..*count).map(|index| FileNode {
                name: format!("{index}"),
                digest: Some(DigestFunction::Sha256.digest(b"").into()),
                ..FileNode::default()
            }));
        }
    }
    let prefix = if path.is_empty() {
        String::new()
    } else {
        format!("{path}/")
    };
    let names: HashSet<&str> = counts
        .iter()
        .filter_map(|(of, _)| of.trim_matches('/').strip_prefix(&prefix)?.split('/').next())
        .filter(|name| !name.is_empty())
        .collect();
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    for name in names {
        let digest = build(&format!("{prefix}{name}"), counts, directories);
        directory.directories.push(DirectoryNode {
            name: name.into(),
            digest: Some(digest.into()),
        });
    }
    let (digest, _) = Digest::of_message(DigestFunction::Sha256, &directory);
    directories.insert(digest, Arc::new(directory));
    digest
}

fn paths(layers: &[LayerKey]) -> Vec<&str> {
    layers.iter().map(|key| key.path.as_str()).collect()
}

fn select(tree: &DirectoryTree) -> Vec<LayerKey> {
    select_layers(tree, |_| false).unwrap()
}

#[test]
fn a_small_tree_needs_no_layer() {
    assert!(select(&tree(&[("/", 100), ("a", 100), ("b/c", 55)])).is_empty());
}

#[test]
fn selects_a_big_directory_without_its_surroundings() {
    let layers = select(&tree(&[
        ("/", 5),
        ("a/small", 3),
        ("a/sysroot/include", 300),
        ("a/sysroot", 10),
    ]));
    assert_eq!(paths(&layers), ["a/sysroot/include"]);
}

#[test]
fn selects_a_directory_of_many_small_ones_as_one_layer() {
    let layers = select(&tree(&[
        ("lib/a", 100),
        ("lib/b", 100),
        ("lib/c", 100),
        ("other", 20),
    ]));
    assert_eq!(paths(&layers), ["lib"]);
}

#[test]
fn one_big_child_does_not_split_a_parent_of_many_files() {
    let layers = select(&tree(&[("lib/big", 300), ("lib", 200)]));
    assert_eq!(paths(&layers), ["lib"]);
}

#[test]
fn selects_a_cached_layer_whole() {
    let tree = tree(&[("a/b/one", 300), ("a/b/two", 400)]);
    let parts = select(&tree);
    assert_eq!(paths(&parts), ["a/b/one", "a/b/two"]);
    let root_child = select_layers(&tree, |key| key.path == "a").unwrap();
    assert_eq!(paths(&root_child), ["a"]);
}

#[test]
fn selects_the_biggest_layers_if_there_are_too_many() {
    let names: Vec<String> = (0..60).map(|index| format!("d{index:02}")).collect();
    let counts: Vec<(&str, usize)> = names
        .iter()
        .enumerate()
        .map(|(index, name)| (name.as_str(), 300 + index))
        .collect();
    let layers = select(&tree(&counts));
    assert_eq!(layers.len(), 48);
    assert_eq!(layers[0].path, "d12");
    assert_eq!(layers[47].path, "d59");
}

#[test]
fn refuses_a_tree_that_unfolds_to_astronomical_size() {
    let mut directories = HashMap::new();
    let mut digest = build("", &[("/", 1000)], &mut directories);
    for _ in 0..40 {
        let child = |name: &str| DirectoryNode {
            name: name.into(),
            digest: Some(digest.into()),
        };
        let directory = Directory {
            directories: vec![child("a"), child("b")],
            ..Directory::default()
        };
        digest = Digest::of_message(DigestFunction::Sha256, &directory).0;
        directories.insert(digest, Arc::new(directory));
    }
    let error = select_layers(
        &DirectoryTree {
            root: digest,
            directories,
        },
        |_| false,
    )
    .unwrap_err();
    assert!(error.to_string().contains("at most 16777216"), "{error}");
}

#[test]
fn a_small_tree_has_few_entries_few_bytes_no_properties() {
    assert!(is_small(&tree(&[])).unwrap());
    assert!(is_small(&tree(&[("/", 3), ("a/b", 5)])).unwrap());
    assert!(!is_small(&tree(&[("/", 3), ("a/b", 6)])).unwrap());
    let names = |count: u8| (b'a'..b'a' + count).map(|name| char::from(name).to_string());
    let directories = |count| {
        let names: Vec<String> = names(count).collect();
        let counts: Vec<_> = names.iter().map(|name| (name.as_str(), 0)).collect();
        is_small(&tree(&counts)).unwrap()
    };
    assert!(directories(16));
    assert!(!directories(17));

    let of_one_file = |change: &dyn Fn(&mut FileNode)| {
        let mut node = FileNode {
            name: "f".into(),
            digest: Some(DigestFunction::Sha256.digest(b"").into()),
            ..FileNode::default()
        };
        change(&mut node);
        let directory = Directory {
            files: vec![node],
            ..Directory::default()
        };
        let (root, _) = Digest::of_message(DigestFunction::Sha256, &directory);
        let directories = HashMap::from([(root, Arc::new(directory))]);
        is_small(&DirectoryTree { root, directories }).unwrap()
    };
    let of_size = |bytes| of_one_file(&|node| node.digest.as_mut().unwrap().size_bytes = bytes);
    assert!(of_size(256 << 10));
    assert!(!of_size((256 << 10) + 1));
    assert!(!of_one_file(
        &|node| node.node_properties = Some(NodeProperties::default())
    ));
}
