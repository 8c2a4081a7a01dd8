//! Execution of Actions in real sandboxes.

use bitzel_proto::missing_blobs::missing_blob_subjects;
use bitzel_proto::reapi::Command;
use bitzel_proto::reapi::command::EnvironmentVariable;
use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn runs_a_command_and_collects_its_outputs() {
    let worker = Worker::new().await;
    let tree = directory([
        ("a", directory([("b", file("hello"))])),
        ("tool", Node::Executable(b"#!/bin/sh\necho from tool\n".to_vec())),
        ("empty", directory([])),
    ]);
    let result = worker
        .run(
            &tree,
            Run {
                script: "test -d empty && test -d out/deep; cat a/b > out/deep/file; ./tool; echo oops >&2",
                outputs: &["out/deep/file", "not/there"],
                ..Run::default()
            },
        )
        .await;
    assert_eq!(worker.output(&result, "out/deep/file").await, "hello");
    assert_eq!(result.output_files.len(), 1);
    assert_eq!(worker.stdout(&result).await, "from tool\n");
    assert_eq!(worker.stderr(&result).await, "oops\n");
    let metadata = result.execution_metadata.unwrap();
    let times = [
        metadata.worker_start_timestamp,
        metadata.input_fetch_start_timestamp,
        metadata.input_fetch_completed_timestamp,
        metadata.execution_start_timestamp,
        metadata.execution_completed_timestamp,
        metadata.output_upload_start_timestamp,
        metadata.output_upload_completed_timestamp,
        metadata.worker_completed_timestamp,
    ];
    let times: Vec<_> = times
        .iter()
        .map(|time| time.as_ref().map(|time| (time.seconds, time.nanos)).unwrap())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn returns_exit_code_logs_and_outputs_of_a_failed_command() {
    let worker = Worker::new().await;
    let response = worker
        .respond(
            &directory([]),
            Run {
                script: "echo partial > log; echo sorry >&2; exit 7",
                outputs: &["log"],
                ..Run::default()
            },
        )
        .await;
    assert_eq!(response.status.unwrap().code, 0);
    let result = response.result.unwrap();
    assert_eq!(result.exit_code, 7);
    assert_eq!(worker.output(&result, "log").await, "partial\n");
    assert_eq!(worker.stderr(&result).await, "sorry\n");
}

#[tokio::test]
async fn names_all_missing_blobs() {
    let worker = Worker::new().await;
    let [one, two] = [FUNCTION.digest(b"one"), FUNCTION.digest(b"two")];
    let node = |name: &str, digest: bitzel_proto::Digest| bitzel_proto::reapi::FileNode {
        name: name.into(),
        digest: Some(digest.into()),
        ..Default::default()
    };
    let root = bitzel_proto::reapi::Directory {
        files: vec![node("a", one), node("b", two)],
        ..Default::default()
    };
    let root = worker.put_message(&root).await;
    let action = worker
        .action(
            root,
            &Run {
                script: "true",
                ..Run::default()
            },
        )
        .await;
    let response = worker.execute(action).await;
    let status = response.status.unwrap();
    assert_eq!(status.code, Code::FailedPrecondition as i32);
    let mut expected = [format!("blobs/{one}"), format!("blobs/{two}")];
    expected.sort();
    let mut subjects = missing_blob_subjects(&status);
    subjects.sort();
    assert_eq!(subjects, expected);
    assert!(response.result.is_none());

    let response = worker.execute(FUNCTION.digest(b"no action")).await;
    assert_eq!(missing_blob_subjects(&response.status.unwrap()).len(), 1);
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn refuses_invalid_commands_with_a_reason() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([("f", file(""))])).await;
    let command = |change: fn(&mut Command)| {
        let mut command = Command {
            arguments: vec!["true".into()],
            ..Command::default()
        };
        change(&mut command);
        command
    };
    let cases: [(Command, &str); 8] = [
        (
            command(|command| command.arguments.clear()),
            "the Command has no arguments",
        ),
        (
            command(|command| command.output_paths = vec!["/etc/passwd".into()]),
            "output_paths \"/etc/passwd\" is absolute",
        ),
        (
            command(|command| command.output_paths = vec!["a/../../b".into()]),
            "output_paths \"a/../../b\" leads out of the input root",
        ),
        (
            command(|command| command.output_node_properties = vec!["mtime".into(), "owner".into()]),
            "output_node_properties: \"owner\" is not known",
        ),
        (
            command(|command| command.working_directory = "missing".into()),
            "working directory \"missing\" is not in the input root",
        ),
        (
            command(|command| command.working_directory = "../x".into()),
            "working_directory \"../x\" leads out of the input root",
        ),
        (
            command(|command| command.working_directory = "f".into()),
            "working directory \"f\" is not in the input root",
        ),
        (
            command(|command| command.arguments = vec!["no-such-program".into()]),
            "the command cannot be started: no-such-program: No such file",
        ),
    ];
    for (command, reason) in cases {
        let action = worker.action_of(root, &command, &Run::default()).await;
        let status = worker.execute(action).await.status.unwrap();
        assert_eq!(status.code, Code::InvalidArgument as i32, "{}", status.message);
        assert!(status.message.contains(reason), "{}", status.message);
    }
}

#[tokio::test]
async fn reports_a_signal_as_a_shell_does() {
    let worker = Worker::new().await;
    // Also a signal without a name, which ends an orphan, too.
    for (script, code) in [
        ("kill -SEGV $$", 11),
        ("(sh -c 'kill -34 $$' &); kill -35 $$", 35),
    ] {
        let run = Run {
            script,
            ..Run::default()
        };
        let response = worker.respond(&directory([]), run).await;
        assert_eq!(response.status.unwrap().code, 0);
        assert_eq!(response.result.unwrap().exit_code, 128 + code);
    }
}

#[tokio::test]
async fn names_an_output_of_a_wrong_type() {
    let worker = Worker::new().await;
    let run = Run {
        script: "mkdir out; mkfifo out/pipe",
        outputs: &["out"],
        ..Run::default()
    };
    let response = worker.respond(&directory([]), run).await;
    let status = response.status.unwrap();
    assert_eq!(status.code, Code::FailedPrecondition as i32);
    assert!(
        status.message.contains("\"out/pipe\" is a named pipe"),
        "{}",
        status.message
    );
}

#[tokio::test]
async fn finds_a_program_as_a_shell_does() {
    let worker = Worker::new().await;
    let tree = directory([
        (
            "bin",
            directory([("tool", Node::Executable(b"echo $0 $1".to_vec()))]),
        ),
        ("data", directory([("tool", plain_file("no program"))])),
    ]);
    let root = worker.put_tree(&tree).await;
    // The script has no line that names an interpreter.
    let command = Command {
        arguments: vec!["tool".into(), "found".into()],
        environment_variables: vec![EnvironmentVariable {
            name: "PATH".into(),
            value: "/work/data:/work/bin:/usr/bin".into(),
        }],
        ..Command::default()
    };
    let action = worker.action_of(root, &command, &Run::default()).await;
    let response = worker.execute(action).await;
    let result = worker.succeeded(response).await;
    assert_eq!(worker.stdout(&result).await, "/work/bin/tool found\n");
}
