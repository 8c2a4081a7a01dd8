//! Cached input files and layers, and the directories of a worker.

use std::os::unix::fs::MetadataExt;

use bitzel_proto::reapi::{Directory, FileNode};
use bitzel_worker::ActionRequest;

use crate::harness::*;

/// A directory with `count` files, which becomes a layer if they are enough.
fn layer_sized(count: usize) -> Node {
    let entries = (0..count).map(|index| (format!("f{index}"), file(format!("{}", index % 7))));
    Node::Directory(entries.collect(), None)
}

#[tokio::test]
async fn assembles_a_big_subtree_once() {
    let worker = Worker::new().await;
    let layers = || std::fs::read_dir(worker.cache().join("layers")).unwrap().count();
    let show =
        "stat -c %i a/sysroot a/sysroot/f0; cat a/marker; ls a/sysroot | wc -l; ls a; stat -c '%a %Y' a";
    let mut seen = vec![];
    for marker in ["one", "two"] {
        let tree = directory([(
            "a",
            directory([("sysroot", layer_sized(300)), ("marker", file(marker))]),
        )]);
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

    // Renames and links across the borders of layers work as in one tree.
    let tree = directory([(
        "a",
        directory([("sysroot", layer_sized(300)), ("marker", file("x"))]),
    )]);
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
async fn evicts_layers_and_files_that_are_not_in_use() {
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
async fn a_new_worker_keeps_the_cache_and_removes_the_rest() {
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
    assert!(matches!(
        taken.await,
        Err(bitzel_worker::Error::DirectoryInUse(_))
    ));

    worker.stop();
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
async fn concurrent_actions_download_a_blob_once() {
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
async fn a_file_may_exceed_the_link_limit() {
    // ext4 allows 65,000 links of one inode.
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
async fn the_next_action_does_not_download_kept_outputs() {
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
    // Links: one in the cache and two in the tree. The changed file has one in the tree.
    assert_eq!(
        worker.stdout(&used).await,
        "made\nmade\ninputmore\n444 3\n644 2\n[[], [], [], [], []]\n"
    );
    // Neither a download nor a copy restores extended attributes.
    for content in ["made\n", "inputmore\n", "x\n"] {
        assert_eq!(worker.store.reads_of(content.as_bytes()), 0, "{content}");
    }
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_separate_scratch_directory_holds_all_changes() {
    // In memory, so on another file system than the cache.
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
    // The output was copied into the file cache: the next Action downloads nothing.
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
