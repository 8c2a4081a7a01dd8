//! A small image root: a few programs of this machine with their libraries.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::input_tree::{Node, symlink};

const PROGRAMS: [&str; 14] = [
    "cat", "chmod", "head", "id", "ls", "mkdir", "mount", "mv", "rm", "sh", "stat", "touch", "umount",
    "unshare",
];

/// A root with a shell, tools for files and `further` files, given by their paths.
pub fn image_root(further: &[(&str, Node)]) -> Node {
    let mut root = Node::Directory(BTreeMap::new(), None);
    for link in ["bin", "lib", "lib64", "sbin"] {
        insert(&mut root, link, symlink(&format!("usr/{link}")));
    }
    for program in PROGRAMS {
        let path = Path::new("/usr/bin").join(program).canonicalize().unwrap();
        add(
            &mut root,
            &path,
            Path::new("/usr/bin").join(program).to_str().unwrap(),
        );
        let output = Command::new("ldd").arg(&path).output().unwrap();
        for word in String::from_utf8(output.stdout).unwrap().split_whitespace() {
            if word.starts_with('/') {
                let directory = Path::new(word).parent().unwrap().canonicalize().unwrap();
                let name = directory.join(Path::new(word).file_name().unwrap());
                add(&mut root, Path::new(word), name.to_str().unwrap());
            }
        }
    }
    for (path, node) in further {
        insert(&mut root, path, node.clone());
    }
    root
}

fn add(root: &mut Node, from: &Path, path: &str) {
    insert(root, path, Node::Executable(std::fs::read(from).unwrap()));
}

/// Puts a node at a path, in place of what is there.
fn insert(root: &mut Node, path: &str, node: Node) {
    let mut directory = root;
    let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
    for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
        directory = entries(directory)
            .entry(parent.to_owned())
            .or_insert_with(|| Node::Directory(BTreeMap::new(), None));
    }
    entries(directory).insert(name.to_owned(), node);
}

fn entries(node: &mut Node) -> &mut BTreeMap<String, Node> {
    match node {
        Node::Directory(entries, _) => entries,
        other => panic!("{other:?} is no directory"),
    }
}
