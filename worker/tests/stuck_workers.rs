//! Actions that would keep a worker, or one of its slots, from all others.

use bitzel_proto::google::protobuf::UInt32Value;
use bitzel_proto::google::rpc;
use bitzel_proto::reapi::{Command, NodeProperties};
use tonic::Code;

use crate::harness::*;

/// Asserts that an Action failed by its own fault.
#[track_caller]
fn assert_refused(status: &rpc::Status, parts: &[&str]) {
    let message = &status.message;
    assert_eq!(status.code, Code::FailedPrecondition as i32, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[tokio::test]
async fn f22_a_result_too_large_for_a_message_is_refused() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([])).await;
    let script = "exec /usr/bin/python3 -c '
import os
for number in range(4300): os.symlink(str(number) + \"x\" * 4000, \"link%d\" % number)'";
    let command = Command {
        arguments: vec!["sh".into(), "-euc".into(), script.into()],
        output_paths: (0..4300).map(|number| format!("link{number}")).collect(),
        ..Command::default()
    };
    let action = worker.action_of(root, &command, &Run::default()).await;
    let response = worker.execute(action).await;
    let status = response.status.unwrap();
    assert_refused(
        &status,
        &["16.0 MiB or more", "largest outputs are \"link1000\", "],
    );
    assert!(response.result.unwrap().output_symlinks.is_empty());
}

#[tokio::test]
async fn f22_targets_of_symlinks_count_as_output_bytes() {
    let worker = Worker::with(|config| config.bounds.output_bytes = 1000).await;
    let run = Run {
        script: "mkdir d; ln -s \"$(printf %01001d 0)\" d/link",
        outputs: &["d"],
        ..Run::default()
    };
    let status = worker.respond(&directory([]), run).await.status.unwrap();
    assert_refused(&status, &["the outputs are too large", "--action-output-size"]);
}

/// A file that its owner cannot read.
fn unreadable_file(content: &str) -> Node {
    let properties = NodeProperties {
        unix_mode: Some(UInt32Value { value: 0 }),
        ..NodeProperties::default()
    };
    Node::File(content.into(), Some(properties))
}

/// Fails without the answer only where the worker is not root, who can read all files.
#[tokio::test]
async fn f22_an_unreadable_file_fails_no_other_action() {
    let mut worker = Worker::new().await;
    let large = "x".repeat(300 << 10);
    let unreadable = directory([
        ("large", unreadable_file(&large)),
        ("tool", unreadable_file("tool")),
    ]);
    let readable = directory([("large", plain_file(&large)), ("tool", plain_file("tool"))]);
    let both = directory([
        ("a", unreadable_file("both")),
        ("b", plain_file("both")),
        ("c", unreadable_file(&large.replace('x', "y"))),
        ("d", plain_file(large.replace('x', "y"))),
    ]);
    let run = |script| Run {
        script,
        ..Run::default()
    };
    for _ in 0..2 {
        let result = worker.run(&unreadable, run("stat -c %a tool large")).await;
        assert_eq!(worker.stdout(&result).await, "0\n0\n");
        let result = worker.run(&readable, run("cat tool large | wc -c")).await;
        assert_eq!(worker.stdout(&result).await, "307204\n");
        let result = worker.run(&both, run("stat -c %a a c; cat b d | wc -c")).await;
        assert_eq!(worker.stdout(&result).await, "0\n0\n307204\n");
        worker.restart().await;
    }
}

#[tokio::test]
async fn f22_a_lost_cached_file_is_fetched_again() {
    let worker = Worker::new().await;
    let tree = directory([("a", plain_file("kept")), ("b", plain_file("lost"))]);
    let run = || Run {
        script: "cat a b",
        ..Run::default()
    };
    let lose = || {
        let files = worker.cache().join("files");
        for (path, content) in contents(&files) {
            if content == b"lost" {
                std::fs::remove_file(files.join(path)).unwrap();
            }
        }
    };
    for tree in tree.copied_and_overlaid() {
        worker.run(&tree, run()).await;
        lose();
        let result = worker.run(&tree, run()).await;
        assert_eq!(worker.stdout(&result).await, "keptlost");
        lose();
        // The lost file would be the source of a copy.
        let other_mode = directory([("a", Node::Executable(b"kept".into())), ("b", file("lost"))]);
        let result = worker.run(&other_mode, run()).await;
        assert_eq!(worker.stdout(&result).await, "keptlost");
        assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test]
async fn f22_parents_of_outputs_count_as_entries() {
    let worker = Worker::with(|config| config.bounds.input_entries = 3).await;
    let run = |output| Run {
        script: "ls a",
        outputs: output,
        ..Run::default()
    };
    let tree = directory([("a", directory([("in", plain_file("x"))]))]);
    for tree in tree.copied_and_overlaid() {
        worker
            .run(&tree, run(&["a/b/c/out", "a/b/out", "a/in/none/out"]))
            .await;
        let response = worker.respond(&tree, run(&["a/b/c/out", "b/c/d/out"])).await;
        assert_refused(
            &response.status.unwrap(),
            &["too many files", "allows 3;", "`input_entries`"],
        );
    }
}
