//! Actions that name the root file system in which they run.

use bitzel_proto::missing_blobs::missing_blob_subjects;
use bitzel_proto::reapi::ExecuteResponse;
use tonic::Code;

use crate::harness::*;

const MARKER: &str = "usr/share/marker";

/// Runs a script in an image root.
async fn respond(worker: &Worker, root: &Node, script: &str) -> ExecuteResponse {
    let root = worker.put_tree(root).await.to_string();
    let run = Run {
        script,
        platform: &[("root-image", &root)],
        ..Run::default()
    };
    worker.respond(&directory([]), run).await
}

/// Standard output of a script that succeeds in an image root.
async fn output(worker: &Worker, root: &Node, script: &str) -> String {
    let response = respond(worker, root, script).await;
    let result = worker.succeeded(response).await;
    worker.stdout(&result).await
}

/// Status of an Action that names a root by this text.
async fn status(worker: &Worker, root: &str) -> bitzel_proto::google::rpc::Status {
    let run = Run {
        script: "true",
        platform: &[("root-image", root)],
        ..Run::default()
    };
    let response = worker.respond(&directory([]), run).await;
    response.status.unwrap()
}

fn layers(worker: &Worker) -> usize {
    std::fs::read_dir(worker.cache().join("layers")).unwrap().count()
}

#[tokio::test]
async fn runs_in_the_root_that_an_action_names() {
    let worker = Worker::new().await;
    let root = image_root(&[(MARKER, file("of the image"))]);
    let seen = output(
        &worker,
        &root,
        "cat /usr/share/marker; id -un; test ! -e /usr/bin/python3; test ! -e /sys; echo x > in-work; pwd; \
         echo x > /tmp/file; echo x > /var/tmp/other; cat /tmp/other; ls /proc/self/exe /dev/null",
    );
    assert_eq!(
        seen.await,
        "of the imagebitzel\n/work\nx\n/dev/null\n/proc/self/exe\n"
    );
    // The next one runs on this machine's root again.
    let result = worker
        .run(
            &directory([]),
            Run {
                script: "test ! -e /usr/share/marker; test -e /usr/bin/env",
                ..Run::default()
            },
        )
        .await;
    assert_eq!(result.exit_code, 0);
}

#[tokio::test]
async fn each_root_has_its_own_launchers() {
    let worker = Worker::new().await;
    let [one, two] = ["one", "two"].map(|text| image_root(&[(MARKER, file(text))]));
    for _ in 0..2 {
        assert_eq!(output(&worker, &one, "cat /usr/share/marker").await, "one");
        assert_eq!(output(&worker, &two, "cat /usr/share/marker").await, "two");
    }
}

#[tokio::test]
async fn fetches_and_assembles_a_root_once() {
    let worker = Worker::new().await;
    let root = image_root(&[(MARKER, file("marker"))]);
    let inode = "stat -c %i /usr/bin/sh";
    output(&worker, &root, inode).await;
    assert_eq!(layers(&worker), 1);
    let file = std::fs::read_dir(worker.cache().join("layers")).unwrap().next();
    let before = std::fs::metadata(file.unwrap().unwrap().path()).unwrap();
    output(&worker, &root, inode).await;
    assert_eq!(layers(&worker), 1);
    let file = std::fs::read_dir(worker.cache().join("layers")).unwrap().next();
    let after = std::fs::metadata(file.unwrap().unwrap().path()).unwrap();
    assert_eq!(
        before.created().unwrap(),
        after.created().unwrap(),
        "the same directory"
    );
    assert_eq!(worker.store.reads_of(b"marker"), 1);
}

#[tokio::test]
async fn a_command_cannot_change_an_image_root() {
    let worker = Worker::new().await;
    // Everything is writable by its mode, and the command's user owns it.
    let root = image_root(&[(MARKER, file("old"))]);
    let attempts = [
        "echo new > /usr/share/marker",
        "rm /usr/share/marker",
        "mv /usr/share/marker /usr/share/other",
        "chmod 777 /usr/share/marker",
        "touch /usr/share/new",
        "touch /new",
        "mkdir /usr/new",
        "echo root::0:0::/:/bin/sh > /etc/passwd",
        "touch /run/new",
        "touch /var/new",
    ];
    for attempt in attempts {
        let script = format!("if {{ {attempt}; }} 2> error; then exit 1; fi; cat error");
        let said = output(&worker, &root, &script).await;
        assert!(said.contains("Read-only file system"), "{attempt}: {said}");
    }
    assert_eq!(output(&worker, &root, "cat /usr/share/marker").await, "old");
    let stored = contents(&worker.cache().join("files"));
    assert!(stored.values().any(|content| content == b"old"));
    assert!(!stored.values().any(|content| content == b"new\n"));
}

#[tokio::test]
async fn mounts_of_an_image_root_are_locked() {
    let worker = Worker::new().await;
    let root = image_root(&[(MARKER, file("old"))]);
    let digest = worker.put_tree(&root).await.to_string();
    let attempts = [
        "mount -o remount,bind,rw / && touch /usr/new",
        "mount -o remount,rw / && touch /usr/new",
        "umount /work && ls /work/files",
        "umount /proc && umount /proc",
        "mount -o remount,bind,rw /etc/hosts",
    ];
    for attempt in attempts {
        let script = format!("unshare --user --map-root-user --mount sh -c '{attempt}'");
        let run = Run {
            script: &script,
            platform: &[("root-image", &digest), ("user-namespaces", "on")],
            ..Run::default()
        };
        let response = worker.respond(&directory([]), run).await;
        let result = response.result.unwrap();
        assert_ne!(result.exit_code, 0, "{attempt}");
        let said = worker.stderr(&result).await;
        assert!(
            !said.contains("unshare:"),
            "it comes as far as the attempt: {said}"
        );
    }
    // What it tries is possible for mounts of its own.
    let own = Run {
        script: "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs none /tmp && umount /tmp'",
        platform: &[("root-image", &digest), ("user-namespaces", "on")],
        ..Run::default()
    };
    worker.run(&directory([]), own).await;
}

#[tokio::test]
async fn symlinks_of_a_root_do_not_lead_out_of_it() {
    let worker = Worker::new().await;
    let secret = worker.directory.path().join("secret");
    std::fs::write(&secret, "of the machine").unwrap();
    let outside = format!("/oldroot{}", worker.directory.path().display());
    let root = image_root(&[
        ("etc", symlink(&outside)),
        ("dev", symlink(&outside)),
        ("proc", symlink("/oldroot/proc")),
        ("run", symlink(&outside)),
        ("tmp", symlink(&outside)),
        ("var", symlink(&outside)),
        ("work", symlink(&outside)),
        ("secret", symlink(&format!("{outside}/secret"))),
        ("above", symlink("../../../../../../../..")),
    ]);
    let seen = output(
        &worker,
        &root,
        "head -n 1 /etc/passwd; echo x > /tmp/file; test ! -e /secret; ls /above/usr/share 2> /dev/null || ls /above/usr; \
         test -c /dev/null; test -d /proc/self",
    );
    assert_eq!(seen.await, "root:x:0:0:root:/root:/bin/sh\nbin\nlib\nlib64\n");
    let left = std::fs::read_dir(worker.directory.path()).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["cache", "secret"], "nothing was written outside");
    assert_eq!(std::fs::read_to_string(secret).unwrap(), "of the machine");
}

#[tokio::test]
async fn runs_nothing_of_a_root_outside_of_the_sandbox() {
    let worker = Worker::new().await;
    // Outside, `/work` is the worker's directory.
    let trap = "#!/bin/sh\n: > /work/escaped\nexec /usr/bin/head -c 1\n";
    let trap = || Node::Executable(trap.into());
    let root = image_root(&[("usr/bin/cat", trap()), ("usr/bin/bwrap", trap())]);
    assert_eq!(output(&worker, &root, "echo fine").await, "fine\n");
    assert!(!worker.cache().join("escaped").exists());
}

#[tokio::test]
async fn needs_no_program_of_a_root_for_the_sandbox() {
    let worker = Worker::new().await;
    // Neither a program nor a dynamic linker: the command is what cannot start.
    let response = respond(&worker, &directory([("a", file("b"))]), "true").await;
    let status = response.status.unwrap();
    assert_eq!(status.code, Code::InvalidArgument as i32, "{}", status.message);
    assert!(status.message.contains("sh: "), "{}", status.message);
}

#[tokio::test]
async fn an_input_root_may_equal_the_image_root() {
    let worker = Worker::new().await;
    // As large as a layer of an input root has to be.
    let files: Vec<_> = (0..300).map(|index| format!("usr/share/f{index}")).collect();
    let files: Vec<_> = files.iter().map(|path| (path.as_str(), file("x"))).collect();
    let root = image_root(&files);
    let digest = worker.put_tree(&root).await.to_string();
    let run = Run {
        script: "test -e usr/share/f1; test ! -e etc; test ! -e dev; test -e /etc/passwd",
        platform: &[("root-image", &digest)],
        ..Run::default()
    };
    assert_eq!(worker.run(&root, run).await.exit_code, 0);
}

#[tokio::test]
async fn names_the_missing_parts_of_a_root() {
    let worker = Worker::new().await;
    let absent = FUNCTION.digest(b"absent").to_string();
    let status = status(&worker, &absent).await;
    assert_eq!(status.code, Code::FailedPrecondition as i32, "{}", status.message);
    assert_eq!(missing_blob_subjects(&status).len(), 1);
}

#[tokio::test]
async fn refuses_a_root_that_is_no_digest() {
    let worker = Worker::new().await;
    for wrong in ["debian:12", "00/1", "", "x/y"] {
        let status = status(&worker, wrong).await;
        assert_eq!(
            status.code,
            Code::InvalidArgument as i32,
            "{wrong}: {}",
            status.message
        );
        assert!(status.message.contains("HASH/SIZE"), "{}", status.message);
    }
}

#[tokio::test]
async fn evicts_roots_that_only_idle_launchers_hold() {
    // Everything is over this limit.
    let worker = Worker::with(|config| config.cache_size_bytes = 1).await;
    let [one, two] = ["one", "two"].map(|text| image_root(&[(MARKER, file(text))]));
    for _ in 0..2 {
        for (root, text) in [(&one, "one"), (&two, "two")] {
            assert_eq!(output(&worker, root, "cat /usr/share/marker").await, text);
            assert_eq!(layers(&worker), 1, "the root of the last command");
        }
    }
}

#[tokio::test]
async fn evicts_image_roots_after_other_layers() {
    let root = image_root(&[(MARKER, file("marker"))]);
    let files = |text: &'static str| {
        let entries = (0..300).map(|index| (format!("f{index}"), file(format!("{text}{index}"))));
        directory([("a", Node::Directory(entries.collect(), None))])
    };
    // The root and one of the two trees fit. Each file takes a block.
    let worker = Worker::with(|config| config.cache_size_bytes = 8 << 20).await;
    output(&worker, &root, "true").await;
    let reads = worker.store.reads_of(b"marker");
    for text in ["x", "y", "z", "x", "y", "z"] {
        let run = Run {
            script: "cat a/f1",
            ..Run::default()
        };
        worker.run(&files(text), run).await;
    }
    output(&worker, &root, "true").await;
    assert_eq!(
        worker.store.reads_of(b"marker"),
        reads,
        "the root was not fetched again"
    );
}
