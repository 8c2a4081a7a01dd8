//! Inputs stay what they are, and come back as they were.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use std::os::unix::fs::MetadataExt;

use bitzel_proto::reapi::{Directory, FileNode};
use bitzel_worker::{ActionExecutor, ActionRequest};
use support::*;

/// Writes in place to inputs, each in another way, and each as root of a namespace of its own as well.
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
async fn a_write_in_place_changes_neither_the_cache_nor_another_action() {
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
    let [copied, below] = tree.both_ways();
    // What was copied has the modes of everything that has none, read-only ones.
    for (tree, prefix) in [(below, ""), (copied, "chmod u+w in/a in/lib.a; ")] {
        a_write_changes_nothing_else(&worker, &tree, prefix).await;
    }
}

async fn a_write_changes_nothing_else(worker: &Worker, tree: &Node, prefix: &str) {
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
async fn two_actions_at_once_do_not_see_each_other() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([("a", file("1"))])).await;
    // Both run at the same time: each waits for the other's start.
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
async fn a_tree_comes_back_exactly_as_it_was() {
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
    // Hardlink groups are those that were recorded, no others: the twin is a file of its own.
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
    // What nobody touched is the same message, without having been read.
    assert_eq!(worker.input_of(&restored, "t").await, tree);
}

#[tokio::test]
async fn deletions_and_replacements_are_seen_in_outputs() {
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
    for (tree, keep) in tree.both_ways().iter().zip([keep.without_properties(), keep]) {
        changes_are_seen(&worker, tree, script, &keep).await;
    }
}

async fn changes_are_seen(worker: &Worker, tree: &Node, script: &str, keep: &Node) {
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
async fn a_directory_that_a_command_closed_comes_back_closed_and_whole() {
    let worker = Worker::new().await;
    let tree = directory([(
        "t",
        directory([("d", directory([("a", file("a"))])), ("e", directory([]))]),
    )]);
    for tree in tree.both_ways() {
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

/// A directory with enough files to become a layer of its own.
fn big(count: usize) -> Node {
    let entries = (0..count).map(|index| (format!("f{index}"), file(format!("{}", index % 7))));
    Node::Directory(entries.collect(), None)
}

#[tokio::test]
async fn a_big_subtree_is_assembled_once() {
    let worker = Worker::new().await;
    let layers = || std::fs::read_dir(worker.cache().join("layers")).unwrap().count();
    let show =
        "stat -c %i a/sysroot a/sysroot/f0; cat a/marker; ls a/sysroot | wc -l; ls a; stat -c '%a %Y' a";
    let mut seen = vec![];
    for marker in ["one", "two"] {
        let tree = directory([("a", directory([("sysroot", big(300)), ("marker", file(marker))]))]);
        let result = worker
            .run(
                &tree,
                Run {
                    script: show,
                    ..Run::default()
                },
            )
            .await;
        seen.push(worker.stdout(&result).await);
        assert_eq!(layers(), 1);
    }
    assert_eq!(seen[0].replace("one", "two"), seen[1]);
    assert!(
        seen[0].ends_with("one300\nmarker\nsysroot\n755 946684800\n"),
        "{}",
        seen[0]
    );

    // Renames and links across the layers' borders work as in any one tree.
    let tree = directory([("a", directory([("sysroot", big(300)), ("marker", file("x"))]))]);
    let script =
        "mv a/sysroot/f1 a/f1; ln a/marker a/sysroot/marker; rm a/sysroot/f2; mv a/sysroot b; ls b | wc -l";
    let result = worker
        .run(
            &tree,
            Run {
                script,
                outputs: &["b"],
                ..Run::default()
            },
        )
        .await;
    assert_eq!(worker.stdout(&result).await, "299\n");
    let again = worker
        .run(
            &tree,
            Run {
                script: show,
                ..Run::default()
            },
        )
        .await;
    assert_eq!(worker.stdout(&again).await, seen[0].replace("one", "x"));
    assert_eq!(layers(), 1);
}

#[tokio::test]
async fn a_small_cache_evicts_layers_and_files_but_not_those_in_use() {
    let worker = Worker::with(|config| config.cache_size_bytes = 40_000).await;
    for round in 0..6 {
        let entries = (0..300).map(|index| {
            (
                format!("f{index}"),
                file(format!("{round} {index} {}", "x".repeat(90))),
            )
        });
        let tree = directory([("d", Node::Directory(entries.collect(), None))]);
        let result = worker
            .run(
                &tree,
                Run {
                    script: "cat d/* | wc -c",
                    ..Run::default()
                },
            )
            .await;
        assert!(worker.stdout(&result).await.trim().parse::<u64>().unwrap() > 27_000);
    }
    let cached: usize = contents(&worker.cache().join("files"))
        .values()
        .map(Vec::len)
        .sum();
    assert!(cached <= 40_000, "{cached} bytes are cached");
}

#[tokio::test]
async fn a_worker_that_was_killed_leaves_files_that_its_successor_uses_or_removes() {
    let mut worker = Worker::new().await;
    let tree = directory([("a", file("kept")), ("b", file("cut short"))]);
    worker
        .run(
            &tree,
            Run {
                script: "true",
                ..Run::default()
            },
        )
        .await;
    let files = worker.cache().join("files");
    let cut = contents(&files)
        .into_iter()
        .find(|(_, content)| content == b"cut short")
        .unwrap()
        .0;
    let kept = contents(&files)
        .into_iter()
        .find(|(_, content)| content == b"kept")
        .unwrap()
        .0;
    let inode = std::fs::metadata(files.join(&kept)).unwrap().ino();

    let taken = bitzel_worker::SandboxedActionExecutor::open(
        bitzel_worker::ExecutorConfig::new(worker.cache()),
        std::sync::Arc::new(worker.store.clone() as std::sync::Arc<dyn bitzel_cas::BlobStore>),
    );
    assert!(matches!(taken.await, Err(bitzel_worker::Error::CacheInUse(_))));

    worker.kill();
    std::fs::write(files.join(&cut), "cut").unwrap();
    std::fs::create_dir_all(worker.cache().join("actions/0/work/work")).unwrap();
    std::fs::write(worker.cache().join("temporary/0"), "half").unwrap();
    std::fs::create_dir_all(worker.cache().join("layers/7/usr")).unwrap();
    worker.restart().await;
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
    assert_eq!(
        std::fs::read_dir(worker.cache().join("layers")).unwrap().count(),
        0
    );
    assert_eq!(std::fs::metadata(files.join(&kept)).unwrap().ino(), inode);
    let result = worker
        .run(
            &tree,
            Run {
                script: "cat a b",
                ..Run::default()
            },
        )
        .await;
    assert_eq!(worker.stdout(&result).await, "keptcut short");
}

#[tokio::test]
async fn each_blob_is_downloaded_once_however_many_actions_want_it() {
    let worker = Worker::new().await;
    let large = "large".repeat(100_000);
    let tree = directory([
        ("small", file("small")),
        ("large", file(&large)),
        ("copy", file(&large)),
    ]);
    let root = worker.put_tree(&tree).await;
    let mut actions = vec![];
    for index in 0..4 {
        let script = format!("cat small large copy | wc -c; : {index}");
        actions.push(
            worker
                .action(
                    root,
                    &Run {
                        script: &script,
                        ..Run::default()
                    },
                )
                .await,
        );
    }
    let responses = futures::future::join_all(actions.into_iter().map(|action| worker.execute(action))).await;
    for response in responses {
        let result = worker.succeeded(response).await;
        assert_eq!(worker.stdout(&result).await, format!("{}\n", 5 + 2 * large.len()));
    }
    for content in [b"small".to_vec(), large.into_bytes()] {
        assert_eq!(worker.store.reads_of(&content), 1);
    }
}

#[tokio::test]
async fn a_file_may_have_more_names_than_the_file_system_gives_links() {
    // ext4 ends at 65,000 links of one inode.
    const NAMES: usize = 66_000;
    let worker = Worker::new().await;
    let digest = worker.put("same").await;
    let files = (0..NAMES).map(|number| FileNode {
        name: format!("{number:06}"),
        digest: Some(digest.into()),
        ..FileNode::default()
    });
    let root = Directory {
        files: files.collect(),
        ..Directory::default()
    };
    let root = worker.put_message(&root).await;
    let run = Run {
        script: "ls -U | wc -l; cat 065999",
        ..Run::default()
    };
    let action = worker.action(root, &run).await;
    let response = worker.execute(action).await;
    let result = worker.succeeded(response).await;
    assert_eq!(worker.stdout(&result).await, format!("{NAMES}\nsame"));
}

#[tokio::test]
async fn a_cancelled_download_leaves_the_cache_usable() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([("a", file("content"))])).await;
    let action = worker
        .action(
            root,
            &Run {
                script: "cat a",
                ..Run::default()
            },
        )
        .await;
    worker.store.hold(b"content");
    let request: ActionRequest = Worker::request(action);
    let cancellation = request.cancellation.clone();
    let (response, ()) = tokio::join!(worker.executor().execute(request), async {
        worker.store.held().await;
        cancellation.cancel();
    });
    assert_eq!(response.status.unwrap().code, tonic::Code::Cancelled as i32);
    worker.store.release();
    let response = worker.execute(action).await;
    let result = worker.succeeded(response).await;
    assert_eq!(worker.stdout(&result).await, "content");
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn what_one_action_made_the_next_one_does_not_download() {
    let worker = Worker::new().await;
    let script = "mkdir t; echo made > t/file; echo in > t/input; chmod 444 t/file; ln t/file t/link; echo x > t/marked; \
                  python3 -c 'import os; os.setxattr(\"t/marked\", \"user.mark\", b\"1\")'; echo more >> in; mv in t/changed";
    let tree = directory([("in", file("input"))]);
    let made = worker
        .run(
            &tree,
            Run {
                script,
                outputs: &["t"],
                properties: EXACT,
                ..Run::default()
            },
        )
        .await;
    let root = Directory {
        directories: vec![bitzel_proto::reapi::DirectoryNode {
            name: "t".into(),
            digest: Some(worker.input_of(&made, "t").await.into()),
        }],
        ..Directory::default()
    };
    let root = worker.put_message(&root).await;
    let script = "cd t; cat file link changed; stat -c '%a %h' file changed; \
                  python3 -c 'import os; print([os.listxattr(name) for name in sorted(os.listdir())])'";
    let action = worker
        .action(
            root,
            &Run {
                script,
                ..Run::default()
            },
        )
        .await;
    let used = worker.execute(action).await;
    let used = worker.succeeded(used).await;
    // In the cache, and twice in the tree; the changed file once.
    assert_eq!(
        worker.stdout(&used).await,
        "made\nmade\ninputmore\n444 3\n644 2\n[[], [], [], [], []]\n"
    );
    // An attribute is nothing that a download would bring along, nor does a copy.
    for content in ["made\n", "inputmore\n", "x\n"] {
        assert_eq!(worker.store.reads_of(content.as_bytes()), 0, "{content}");
    }
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn actions_that_write_elsewhere_leave_the_same_and_nothing_there() {
    // In memory: another file system than that of the cache.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let scratch = memory.path().join("scratch");
    let worker = Worker::with(|config| config.scratch_directory = Some(scratch.clone())).await;
    let run = Run {
        script: "cat input; mkdir out; echo made > out/file; chmod 600 out/file; rm input; grep ' /work ' /proc/mounts >&2",
        outputs: &["out"],
        properties: EXACT,
        ..Run::default()
    };
    let result = worker.run(&directory([("input", file("given"))]), run).await;
    assert_eq!(worker.stdout(&result).await, "given");
    let mount = worker.stderr(&result).await;
    assert!(mount.contains("upperdir=changes/"), "{mount}");
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
    assert!(contents(&worker.cache().join("changes")).is_empty());
    // What it made was kept for the next one: copied, and nothing is downloaded.
    let root = worker.input_of(&result, "out").await;
    let run = Run {
        script: "cat file; stat -c %a file",
        ..Run::default()
    };
    let action = worker.action(root, &run).await;
    let response = worker.execute(action).await;
    let result = worker.succeeded(response).await;
    assert_eq!(worker.stdout(&result).await, "made\n600\n");
    assert_eq!(worker.store.reads_of(b"made\n"), 0);
}
