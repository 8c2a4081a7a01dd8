use std::collections::HashMap;
use std::sync::Arc;

use bitzel_proto::reapi::{Directory, FileNode};
use prost::Message;

use super::*;
use crate::plan::tree::DIGEST_FUNCTION;

const WORK: &str = "build/tmp/work/zlib";

fn recipe() -> Recipe {
    Recipe {
        work_directory: WORK.to_owned(),
        ..Recipe::default()
    }
}

fn store(directories: &mut Directories, files: &[(&str, &str)]) -> Digest {
    let known = directories.clone();
    let mut tree = Tree::new(&known);
    for (path, content) in files {
        let digest = Some(DIGEST_FUNCTION.digest(content.as_bytes()).to_wire());
        tree.put(
            path,
            Node::File(FileNode {
                digest,
                ..FileNode::default()
            }),
        )
        .unwrap();
    }
    let finished = tree.finish();
    for (digest, bytes) in finished.blobs {
        directories.insert(digest, Arc::new(Directory::decode(bytes).unwrap()));
    }
    finished.root
}

fn result(before: Option<Digest>, after: Option<Digest>) -> TaskResult {
    let node = |digest| (WORK.to_owned(), Node::Stored(digest));
    TaskResult {
        unihash: "u".to_owned(),
        outputs: after.map(node).into_iter().collect(),
        before: before
            .map(|digest| (WORK.to_owned(), digest))
            .into_iter()
            .collect(),
        milliseconds: 1,
        restored: false,
    }
}

fn sources(primary: u32, replay: &[u32]) -> TreeSources {
    TreeSources {
        primary: Some(primary),
        replay: replay.to_vec(),
    }
}

#[test]
fn the_changes_of_a_parallel_chain_are_replayed() {
    let mut directories = Directories::new();
    let unpacked = store(&mut directories, &[("s/a.c", "old"), ("s/drop.c", "x")]);
    let patched = store(&mut directories, &[("s/a.c", "new")]);
    let sysroot = store(
        &mut directories,
        &[("s/a.c", "old"), ("s/drop.c", "x"), ("sysroot/z.h", "z")],
    );
    let both = store(&mut directories, &[("s/a.c", "new"), ("sysroot/z.h", "z")]);
    let results = HashMap::from([
        (1, result(Some(unpacked), Some(patched))),
        (2, result(Some(unpacked), Some(sysroot))),
    ]);
    for (primary, replay) in [(1, 2), (2, 1)] {
        let trees = private_trees(
            &recipe(),
            &sources(primary, &[replay]),
            &|task| &results[&task],
            &directories,
        );
        assert_eq!(
            roots(&trees.unwrap())[WORK],
            both,
            "whichever of the two is the start"
        );
    }
}

#[test]
fn tasks_that_left_nothing_leave_nothing() {
    let results = HashMap::from([(1, result(None, None))]);
    let trees = private_trees(
        &recipe(),
        &sources(1, &[]),
        &|task| &results[&task],
        &Directories::new(),
    )
    .unwrap();
    assert!(trees.is_empty());
}

#[test]
fn two_tasks_that_change_one_file_differently_are_named() {
    let mut directories = Directories::new();
    let one = store(&mut directories, &[("f", "1")]);
    let other = store(&mut directories, &[("f", "2")]);
    let results = HashMap::from([(1, result(None, Some(one))), (2, result(None, Some(other)))]);
    let error = private_trees(
        &recipe(),
        &sources(1, &[2]),
        &|task| &results[&task],
        &directories,
    )
    .unwrap_err();
    assert_eq!(
        error,
        PrivateTreeError::Conflict {
            task: 2,
            path: format!("{WORK}/f")
        }
    );
}
