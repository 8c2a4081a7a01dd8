//! Inputs are isolated from writes, restored exactly, and merged with changes.

use std::os::unix::fs::MetadataExt;

use bitzel_proto::reapi::Directory;

use crate::harness::*;

/// Different ways to write to inputs in place, some of them as root of a user namespace.
const WRITES: [(&str, &str); 10] = [
    ("truncate", ": > in/a"),
    ("append", "echo more >> in/a"),
    ("write", "printf X | dd of=in/a conv=notrunc status=none"),
    ("ar", "echo new > member; ar r in/lib.a member"),
    ("chmod", "chmod 755 in/a"),
    (
        "mmap",
        "python3 -c 'import mmap; f=open(\"in/a\",\"r+b\"); m=mmap.mmap(f.fileno(),0); m[0:1]=b\"X\"; m.flush()'",
    ),
    ("touch", "touch -d 2001-01-01 in/a"),
    (
        "xattr",
        "python3 -c 'import os; os.setxattr(\"in/a\",\"user.x\",b\"y\")'",
    ),
    ("root truncate", "unshare -Ur sh -c ': > in/a; : > in/read-only'"),
    (
        "root mmap",
        "unshare -Ur python3 -c 'import mmap; f=open(\"in/read-only\",\"r+b\"); m=mmap.mmap(f.fileno(),0); m[0:1]=b\"X\"; m.flush()'",
    ),
];

#[tokio::test]
async fn a_write_in_place_stays_in_its_action() {
    let worker = Worker::new().await;
    let archive = worker
        .run(
            &directory([]),
            Run {
                script: "echo old > member; ar rc lib.a member",
                outputs: &["lib.a"],
                ..Run::default()
            },
        )
        .await;
    let archive = worker.read(archive.output_files[0].digest.as_ref()).await;
    let tree = directory([(
        "in",
        directory([
            ("a", file("original")),
            ("lib.a", file(archive)),
            ("read-only", plain_file("fixed")),
        ]),
    )]);
    let [copied, below] = tree.copied_and_overlaid();
    // Copied files have the default modes, which are read-only.
    for (tree, prefix) in [(below, ""), (copied, "chmod u+w in/a in/lib.a; ")] {
        check_that_writes_stay(&worker, &tree, prefix).await;
    }
}

async fn check_that_writes_stay(worker: &Worker, tree: &Node, prefix: &str) {
    let show =
        "cd in; stat -c '%n %s %a %Y' *; sha256sum *; python3 -c 'import os; print(os.listxattr(\"a\"))'";
    let before = worker
        .run(
            tree,
            Run {
                script: show,
                ..Run::default()
            },
        )
        .await;
    let before = worker.stdout(&before).await;
    let cached = contents(&worker.cache().join("files"));
    let metadata = || {
        let paths = cached.keys().map(|path| worker.cache().join("files").join(path));
        let stats = paths.map(|path| std::fs::metadata(path).unwrap());
        stats
            .map(|stat| (stat.ino(), stat.mode(), stat.mtime(), stat.size()))
            .collect::<Vec<_>>()
    };
    let stats = metadata();
    for (way, script) in WRITES {
        let script = format!("{prefix}{script}; {show}");
        let result = worker
            .run(
                tree,
                Run {
                    script: &script,
                    platform: USER_NAMESPACES,
                    ..Run::default()
                },
            )
            .await;
        assert_ne!(worker.stdout(&result).await, before, "{way} had no effect inside");
        assert_eq!(
            contents(&worker.cache().join("files")),
            cached,
            "{way} reached the cache"
        );
        assert_eq!(metadata(), stats, "{way} reached an inode of the cache");
        let after = worker
            .run(
                tree,
                Run {
                    script: show,
                    ..Run::default()
                },
            )
            .await;
        assert_eq!(
            worker.stdout(&after).await,
            before,
            "{way} reached the next Action"
        );
    }
}

#[tokio::test]
async fn concurrent_actions_do_not_see_each_other() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([("a", file("1"))])).await;
    let script = "echo changed > a; test -f a";
    let first = worker
        .action(
            root,
            &Run {
                script,
                outputs: &["a"],
                ..Run::default()
            },
        )
        .await;
    let second = worker
        .action(
            root,
            &Run {
                script: "cat a",
                outputs: &["a"],
                ..Run::default()
            },
        )
        .await;
    let (first, second) = tokio::join!(worker.execute(first), worker.execute(second));
    let (first, second) = (worker.succeeded(first).await, worker.succeeded(second).await);
    assert_eq!(worker.output(&first, "a").await, "changed\n");
    assert_eq!(worker.output(&second, "a").await, "1");
    assert_eq!(worker.stdout(&second).await, "1");
}

#[tokio::test]
async fn restores_a_tree_exactly() {
    let worker = Worker::new().await;
    let make = "mkdir -p t/empty t/sticky t/private/deep; cd t; echo data > file; echo data > twin; chmod 640 file; \
                printf '#!/bin/sh' > tool; chmod 4755 tool; ln tool same; ln -s /nowhere/at/all absolute; \
                ln -s ../missing dangling; ln -s private/deep inside; ln file private/deep/linked; chmod 1777 sticky; \
                : > nothing; echo x > private/secret; chmod 400 private/secret; \
                find . -exec touch -h -d '2011-02-03 04:05:06.789' {} +; chmod 500 private";
    let listing = "cd t; find . -printf '%p %y %m %s %T@ %l\\n' | sort";
    let script = format!("{make}; cd ..; {listing}");
    let made = worker
        .run(
            &directory([]),
            Run {
                script: &script,
                outputs: &["t"],
                properties: EXACT,
                ..Run::default()
            },
        )
        .await;
    let expected = worker.stdout(&made).await;
    let tree = worker.input_of(&made, "t").await;
    let root = Directory {
        directories: vec![bitzel_proto::reapi::DirectoryNode {
            name: "t".into(),
            digest: Some(tree.into()),
        }],
        ..Directory::default()
    };
    let root = worker.put_message(&root).await;
    // Only recorded hardlinks are restored: the twin has an inode of its own.
    let groups = "
import collections, os
inodes = collections.defaultdict(list)
for directory, _, files in os.walk(\".\"):
    for name in files:
        path = os.path.join(directory, name)
        if not os.path.islink(path):
            inodes[os.stat(path).st_ino].append(path)
for paths in sorted(sorted(paths) for paths in inodes.values()):
    print(*paths)
";
    let script = format!("{listing}; echo groups; python3 -c '{groups}'");
    let action = worker
        .action(
            root,
            &Run {
                script: &script,
                outputs: &["t"],
                properties: EXACT,
                ..Run::default()
            },
        )
        .await;
    let restored = worker.execute(action).await;
    let restored = worker.succeeded(restored).await;
    let shown = worker.stdout(&restored).await;
    let (attributes, groups) = shown.split_once("groups\n").unwrap();
    assert_eq!(attributes, expected);
    assert_eq!(attributes.lines().count(), 15);
    assert_eq!(
        groups,
        "./file ./private/deep/linked\n./nothing\n./private/secret\n./same ./tool\n./twin\n"
    );
    // An unchanged tree keeps its message and is not read.
    assert_eq!(worker.input_of(&restored, "t").await, tree);
}

#[tokio::test]
async fn outputs_show_deletions_and_replacements() {
    let worker = Worker::new().await;
    let keep = directory([("a", file("a"))]);
    let tree = directory([(
        "t",
        directory([
            ("keep", keep.clone()),
            ("gone", file("x")),
            ("gone-directory", directory([("b", file("b"))])),
            ("to-file", directory([("c", file("c"))])),
            ("to-directory", file("d")),
            ("refilled", directory([("old", file("old"))])),
            ("moved", directory([("e", file("e")), ("link", symlink("e"))])),
        ]),
    )]);
    let script = "cd t; rm gone; rm -r gone-directory; rm -r to-file; echo f > to-file; rm to-directory; \
                  mkdir to-directory; touch to-directory/new; rm -r refilled; mkdir refilled; touch refilled/new; \
                  mv moved elsewhere";
    for (tree, keep) in tree
        .copied_and_overlaid()
        .iter()
        .zip([keep.without_properties(), keep])
    {
        check_changes(&worker, tree, script, &keep).await;
    }
}

async fn check_changes(worker: &Worker, tree: &Node, script: &str, keep: &Node) {
    let run = Run {
        script,
        outputs: &["t"],
        ..Run::default()
    };
    let result = worker.run(tree, run).await;
    let root = worker.input_of(&result, "t").await;
    let wrapped = Directory {
        directories: vec![bitzel_proto::reapi::DirectoryNode {
            name: "t".into(),
            digest: Some(root.into()),
        }],
        ..Directory::default()
    };
    let wrapped = worker.put_message(&wrapped).await;
    let action = worker
        .action(
            wrapped,
            &Run {
                script: "find t -printf '%p %y\\n' | sort",
                ..Run::default()
            },
        )
        .await;
    let listed = worker.execute(action).await;
    let listed = worker.succeeded(listed).await;
    assert_eq!(
        worker.stdout(&listed).await,
        "t d\nt/elsewhere d\nt/elsewhere/e f\nt/elsewhere/link l\nt/keep d\nt/keep/a f\nt/refilled d\n\
         t/refilled/new f\nt/to-directory d\nt/to-directory/new f\nt/to-file f\n"
    );
    let root = worker.tree(&result, "t").await.root.unwrap();
    let kept = root.directories.iter().find(|node| node.name == "keep").unwrap();
    assert_eq!(kept.digest, Some(worker.put_tree(keep).await.to_wire()));
}

#[tokio::test]
async fn collects_a_directory_without_permissions() {
    let worker = Worker::new().await;
    let tree = directory([(
        "t",
        directory([("d", directory([("a", file("a"))])), ("e", directory([]))]),
    )]);
    for tree in tree.copied_and_overlaid() {
        let run = Run {
            script: "echo b > t/d/b; chmod 0 t/d t/e",
            outputs: &["t"],
            properties: EXACT,
            ..Run::default()
        };
        let result = worker.run(&tree, run).await;
        let collected = worker.tree(&result, "t").await;
        assert_eq!(collected.root.unwrap().directories.len(), 2);
        let mode = |directory: &Directory| {
            let properties = directory.node_properties.as_ref();
            properties
                .and_then(|properties| properties.unix_mode)
                .map(|mode| mode.value)
        };
        let mut found: Vec<_> = collected
            .children
            .iter()
            .map(|directory| (mode(directory), directory.files.len()))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(Some(0), 0), (Some(0), 2)]);
    }
}
