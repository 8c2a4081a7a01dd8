use std::collections::HashMap;
use std::sync::Arc;

use bitzel_proto::graph::{Settings, TaskGraph};
use bitzel_proto::reapi::Directory;
use prost::Message;

use super::*;
use crate::plan::task_index::tests::graph;
use crate::plan::tree::DIGEST_FUNCTION;

const SYSROOTS: &str = "build/tmp/sysroots";

fn store(directories: &mut Directories, files: &[(&str, &str)]) -> Digest {
    let known = directories.clone();
    let mut tree = Tree::new(&known);
    for (path, content) in files {
        tree.put_file(path, Bytes::copy_from_slice(content.as_bytes()))
            .unwrap();
    }
    let finished = tree.finish();
    for (digest, bytes) in finished.blobs {
        directories.insert(digest, Arc::new(Directory::decode(bytes).unwrap()));
    }
    finished.root
}

fn published(root: Digest) -> TaskResult {
    let outputs = BTreeMap::from([(SYSROOTS.to_owned(), Node::Stored(root))]);
    TaskResult {
        unihash: String::new(),
        outputs,
        before: BTreeMap::new(),
        milliseconds: 0,
        restored: false,
    }
}

/// zlib and png publish into one directory, and app sees both.
fn two_components(overlap_allowed: &[&str]) -> TaskGraph {
    let mut graph = graph(&[
        ("zlib", "do_x", &[]),
        ("png", "do_x", &[]),
        ("app", "do_x", &[0, 1]),
    ]);
    for component in 0..2 {
        graph.tasks[component].published_paths = vec![SYSROOTS.to_owned()];
    }
    graph.tasks[2].components = vec![0, 1];
    let overlap_allowed = overlap_allowed.iter().map(|path| (*path).to_owned()).collect();
    graph.settings = Some(Settings {
        overlap_allowed,
        ..Settings::default()
    });
    graph
}

fn plan(
    overlap_allowed: &[&str],
    zlib: &[(&str, &str)],
    png: &[(&str, &str)],
) -> Result<(Directories, Digest), InputRootError> {
    let index = TaskIndex::new(two_components(overlap_allowed)).unwrap();
    let mut directories = Directories::new();
    let metadata = store(&mut directories, &[("layers/core/x.bb", "metadata")]);
    let results = HashMap::from([
        (0, published(store(&mut directories, zlib))),
        (1, published(store(&mut directories, png))),
    ]);
    let private = BTreeMap::from([(
        "build/tmp/work/app".to_owned(),
        store(&mut directories, &[("s/app.c", "c")]),
    )]);
    let fixed = FixedInputs {
        metadata,
        files: vec![("bitzel/task.json", Bytes::from_static(b"{}"))],
        stored: vec![("bitzel/base.json".to_owned(), DIGEST_FUNCTION.digest(b"base"))],
    };
    let finished = input_root(
        &index,
        &index.inputs(2),
        fixed,
        &private,
        &|task| &results[&task],
        &directories,
    )?;
    for (digest, bytes) in finished.blobs {
        if let Ok(directory) = Directory::decode(bytes) {
            directories.insert(digest, Arc::new(directory));
        }
    }
    Ok((directories, finished.root))
}

fn content(directories: &Directories, root: Digest, path: &str) -> Option<Digest> {
    match Tree::stored(directories, root).get(path).unwrap()? {
        Node::File(file) => Digest::from_wire_field(DIGEST_FUNCTION, file.digest.as_ref()).ok(),
        _ => None,
    }
}

#[test]
fn everything_has_its_place() {
    let (directories, root) = plan(&[], &[("include/z.h", "z")], &[("include/png.h", "p")]).unwrap();
    for (path, expected) in [
        ("layers/core/x.bb", "metadata"),
        ("bitzel/task.json", "{}"),
        ("bitzel/base.json", "base"),
        ("build/tmp/sysroots/include/z.h", "z"),
        ("build/tmp/sysroots/include/png.h", "p"),
        ("build/tmp/work/app/s/app.c", "c"),
    ] {
        assert_eq!(
            content(&directories, root, path),
            Some(DIGEST_FUNCTION.digest(expected.as_bytes())),
            "{path}"
        );
    }
}

#[test]
fn undeclared_files_of_foreign_recipes_are_in_place() {
    let mut graph = graph(&[
        ("database", "do_unpack", &[]),
        ("report", "do_check", &[]),
        ("image", "do_rootfs", &[0, 1]),
    ]);
    graph.tasks[2].foreign_work_trees = vec![0, 1];
    let index = TaskIndex::new(graph).unwrap();
    let mut directories = Directories::new();
    let mut undeclared = |files: &[(&str, &str)]| {
        let root = Node::Stored(store(&mut directories, files));
        TaskResult {
            outputs: BTreeMap::from([(UNDECLARED_FILES.to_owned(), root)]),
            ..published(DIGEST_FUNCTION.digest(b""))
        }
    };
    let results = [
        undeclared(&[("build/tmp/log/index", "1"), ("build/tmp/nvd.db", "nvd")]),
        undeclared(&[("build/tmp/log/index", "2")]),
        undeclared(&[("build/conf/local.conf", "changed")]),
    ];
    let metadata = store(&mut directories, &[("build/conf/local.conf", "metadata")]);
    let plan = |sources: [usize; 2]| {
        let fixed = FixedInputs {
            metadata,
            files: Vec::new(),
            stored: Vec::new(),
        };
        input_root(
            &index,
            &index.inputs(2),
            fixed,
            &BTreeMap::new(),
            &|task| &results[sources[task as usize]],
            &directories,
        )
    };
    let finished = plan([0, 1]).unwrap();
    assert!(
        plan([0, 2]).is_err(),
        "the configuration is not a place for undeclared files"
    );
    for (digest, bytes) in finished.blobs {
        directories.insert(digest, Arc::new(Directory::decode(bytes).unwrap()));
    }
    for (path, expected) in [("build/tmp/log/index", "2"), ("build/tmp/nvd.db", "nvd")] {
        let found = content(&directories, finished.root, path);
        assert_eq!(found, Some(DIGEST_FUNCTION.digest(expected.as_bytes())), "{path}");
    }
}

#[test]
fn the_same_file_from_two_components_is_fine() {
    assert!(plan(&[], &[("LICENSE", "same")], &[("LICENSE", "same")]).is_ok());
}

#[test]
fn different_content_names_both_recipes_and_the_path() {
    let error = plan(&[], &[("include/x.h", "1")], &[("include/x.h", "2")]).unwrap_err();
    let expected = "zlib:do_x and png:do_x provide different content at build/tmp/sysroots/include/x.h";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn metadata_may_allow_an_overlap_and_the_later_component_wins() {
    let allowed = ["build/tmp/sysroots/include/"];
    let (directories, root) = plan(&allowed, &[("include/x.h", "1")], &[("include/x.h", "2")]).unwrap();
    let found = content(&directories, root, "build/tmp/sysroots/include/x.h");
    assert_eq!(found, Some(DIGEST_FUNCTION.digest(b"2")));
}
