//! Traps of Actions, their results and `Execute`.
#![expect(
    deprecated,
    reason = "clients of older versions of the specification set and read these fields"
)]

use bitzel_proto::google::protobuf;
use bitzel_proto::missing_blobs::{missing_blob_subjects, to_rpc_status};
use bitzel_proto::reapi::execution_stage::Value::{Completed, Executing, Queued};
use bitzel_proto::reapi::{
    ActionResult, Command, Directory, DirectoryNode, ExecuteOperationMetadata, ExecuteRequest,
    GetActionResultRequest, Tree, UpdateActionResultRequest, WaitExecutionRequest,
};
use bitzel_proto::{Digest, DigestFunction};
use prost::Message as _;
use tonic::Code;

use super::messages::{file, of_files, paths, request, response, shell, succeeded};
use super::server::Server;

const SHA256: DigestFunction = DigestFunction::Sha256;

async fn cached(server: &Server, action: Digest) -> Option<ActionResult> {
    let request = GetActionResultRequest {
        action_digest: Some(action.to_wire()),
        digest_function: action.function().to_wire(),
        ..Default::default()
    };
    match server.results().get_action_result(request).await {
        Ok(result) => Some(result.into_inner()),
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => panic!("{status}"),
    }
}

async fn record(server: &Server, action: Digest, result: ActionResult) {
    let request = UpdateActionResultRequest {
        action_digest: Some(action.to_wire()),
        action_result: Some(result),
        digest_function: action.function().to_wire(),
        ..Default::default()
    };
    server.results().update_action_result(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_04_hashes_the_bytes_as_received() {
    let server = Server::farm().await;
    let command = Command {
        output_paths: paths(&["kept"]),
        ..shell("echo ran; test -f kept/file")
    };
    // An unknown field at the end of every message: decoded and encoded again, it would be gone, and the digest with it.
    let unknown: &[u8] = &[0xfa, 0x3f, 1, b'x'];
    let encode = |message: Vec<u8>| [message.as_slice(), unknown].concat();
    let content = server.put(SHA256, b"content").await;
    let kept = server
        .put(
            SHA256,
            &encode(of_files(vec![file("file", content)]).encode_to_vec()),
        )
        .await;
    let root = Directory {
        directories: vec![DirectoryNode {
            name: "kept".to_owned(),
            digest: Some(kept.to_wire()),
        }],
        ..Default::default()
    };
    let root = server.put(SHA256, &encode(root.encode_to_vec())).await;
    let command = server.put(SHA256, &encode(command.encode_to_vec())).await;
    let action = bitzel_proto::reapi::Action {
        command_digest: Some(command.to_wire()),
        input_root_digest: Some(root.to_wire()),
        ..Default::default()
    };
    let encoded = encode(action.encode_to_vec());
    let action = server.put(SHA256, &encoded).await;
    assert_eq!(server.get(action).await, encoded);
    let result = succeeded(server.respond(request(action)).await);
    assert_eq!(
        cached(&server, action).await.unwrap().stdout_digest,
        result.stdout_digest
    );
    // The output is an unchanged input: every digest of it names an existing blob.
    let tree = result.output_directories[0].tree_digest.as_ref();
    let tree = server.get(Digest::from_wire_field(SHA256, tree).unwrap()).await;
    let files = Tree::decode(tree.as_slice()).unwrap().root.unwrap().files;
    assert_eq!(files, [file("file", content)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_07_do_not_cache_runs_every_time_and_records_nothing() {
    let server = Server::farm().await;
    let command = shell("cat /proc/sys/kernel/random/uuid");
    let action = server
        .action(SHA256, &command, |action| action.do_not_cache = true)
        .await;
    let (one, other) = tokio::join!(server.respond(request(action)), server.respond(request(action)));
    assert!(!one.cached_result && !other.cached_result);
    let (one, other) = (succeeded(one), succeeded(other));
    assert_ne!(
        one.stdout_digest, other.stdout_digest,
        "two requests are two runs"
    );
    assert_eq!(cached(&server, action).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_07_skip_cache_lookup_replaces_the_recorded_result() {
    let server = Server::farm().await;
    let action = server.action(SHA256, &shell("echo right"), |_| {}).await;
    let poison = server.put(SHA256, b"poison").await;
    let poisoned = ActionResult {
        stdout_digest: Some(poison.to_wire()),
        ..Default::default()
    };
    record(&server, action, poisoned.clone()).await;
    let hit = server.respond(request(action)).await;
    assert!(hit.cached_result);
    assert_eq!(hit.result, Some(poisoned));
    let again = ExecuteRequest {
        skip_cache_lookup: true,
        ..request(action)
    };
    let response = server.respond(again).await;
    assert!(!response.cached_result);
    let right = Some(SHA256.digest(b"right\n").to_wire());
    assert_eq!(succeeded(response).stdout_digest, right);
    assert_eq!(cached(&server, action).await.unwrap().stdout_digest, right);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_08_responds_with_errors_and_records_no_failures() {
    let server = Server::farm().await;
    let second = protobuf::Duration { seconds: 1, nanos: 0 };
    let wrong_type = Command {
        output_files: paths(&["out"]),
        ..shell("mkdir out")
    };
    let cases = [
        (shell("sleep 1000"), Some(second), Code::DeadlineExceeded),
        (wrong_type, None, Code::FailedPrecondition),
        (Command::default(), None, Code::InvalidArgument),
        (shell("exit 3"), None, Code::Ok),
    ];
    for (command, timeout, code) in cases {
        let action = server
            .action(SHA256, &command, |action| action.timeout = timeout)
            .await;
        // `respond` panics when the operation carries an error of its own.
        let response = server.respond(request(action)).await;
        let status = response.status.unwrap_or_default();
        assert_eq!(status.code, code as i32, "{status:?}");
        assert_eq!(cached(&server, action).await, None, "{command:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_09_names_missing_inputs_with_their_digest_function() {
    let server = Server::farm().await;
    for (function, prefix) in [(SHA256, "blobs"), (DigestFunction::Blake3, "blobs/blake3")] {
        let gone = function.digest(b"a file that nobody uploaded");
        let root = server
            .put_message(function, &of_files(vec![file("gone", gone)]))
            .await;
        let action = server
            .action(function, &shell("true"), |action| {
                action.input_root_digest = Some(root.to_wire());
            })
            .await;
        let in_instance = ExecuteRequest {
            instance_name: "team/one".to_owned(),
            ..request(action)
        };
        let status = server.respond(in_instance).await.status.unwrap();
        assert_eq!(status.code, Code::FailedPrecondition as i32);
        assert_eq!(missing_blob_subjects(&status), [format!("{prefix}/{gone}")]);
        // A missing Action: reported at once.
        let nowhere = function.digest(b"no action");
        let status = server.execute(request(nowhere)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        let subjects = missing_blob_subjects(&to_rpc_status(&status));
        assert_eq!(subjects, [format!("{prefix}/{nowhere}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_10_stages_lead_from_queued_to_completed() {
    let server = Server::farm().await;
    let action = server.action(SHA256, &shell("true"), |_| {}).await;
    let operations = server.execute(request(action)).await.unwrap();
    let mut stages: Vec<_> = operations
        .iter()
        .map(|operation| {
            let metadata = &operation.metadata.as_ref().unwrap().value;
            let metadata = ExecuteOperationMetadata::decode(metadata.as_slice()).unwrap();
            assert_eq!(metadata.action_digest, Some(action.to_wire()));
            assert_eq!(operation.done, metadata.stage() == Completed);
            metadata.stage()
        })
        .collect();
    stages.dedup();
    // Stages that end before they are reported may be left out.
    let in_order: Vec<_> = [Queued, Executing, Completed]
        .into_iter()
        .filter(|stage| stages.contains(stage))
        .collect();
    assert_eq!(stages, in_order);
    assert_eq!(stages.last(), Some(&Completed));
    // A late caller gets the result under the same name.
    let name = operations[0].name.clone();
    let mut late = server
        .executions()
        .wait_execution(WaitExecutionRequest { name: name.clone() })
        .await
        .unwrap()
        .into_inner();
    let last = late.message().await.unwrap().unwrap();
    assert_eq!((last.name.as_str(), last.done), (name.as_str(), true));
    succeeded(response(&last));
    assert!(late.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_10_waiting_for_an_unknown_execution_is_not_found() {
    let server = Server::cache().await;
    for name in [
        "",
        "nonsense",
        "a/operations/6a0f5f5c-8f0a-4a51-8b9e-0d5b7c2f9a11",
    ] {
        let waiting = WaitExecutionRequest {
            name: name.to_owned(),
        };
        let status = server.executions().wait_execution(waiting).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_11_inlines_contents_only_on_request_and_if_small() {
    let server = Server::farm().await;
    let command = Command {
        output_paths: paths(&["large", "small"]),
        ..shell("echo out; echo err >&2; echo small > small; head -c 5000000 /dev/zero > large")
    };
    let action = server.action(SHA256, &command, |_| {}).await;
    let executed = succeeded(server.respond(request(action)).await);
    let plain = cached(&server, action).await.unwrap();
    for result in [&executed, &plain] {
        assert_eq!(result.stdout_raw, b"");
        assert_eq!(result.stderr_raw, b"");
        assert_eq!(result.stdout_digest, Some(SHA256.digest(b"out\n").to_wire()));
        assert_eq!(result.stderr_digest, Some(SHA256.digest(b"err\n").to_wire()));
        assert!(result.output_files.iter().all(|file| file.contents.is_empty()));
    }
    let wishes = GetActionResultRequest {
        action_digest: Some(action.to_wire()),
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: paths(&["large", "small"]),
        ..Default::default()
    };
    let inlined = server
        .results()
        .get_action_result(wishes)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(inlined.stdout_raw, b"out\n");
    assert_eq!(inlined.stderr_raw, b"err\n");
    for file in &inlined.output_files {
        let expected: &[u8] = if file.path == "small" { b"small\n" } else { b"" };
        assert_eq!(file.contents, expected, "{}", file.path);
        assert!(file.digest.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_13_timeouts_cover_the_execution_and_have_a_maximum() {
    let server = Server::farm().await;
    let command = shell("sleep 1000");
    let timeout = |seconds| Some(protobuf::Duration { seconds, nanos: 0 });
    let action = server
        .action(SHA256, &command, |action| action.timeout = timeout(1))
        .await;
    let response = server.respond(request(action)).await;
    assert_eq!(response.status.unwrap().code, Code::DeadlineExceeded as i32);
    let metadata = response.result.unwrap().execution_metadata.unwrap();
    let duration = metadata.virtual_execution_duration.unwrap();
    assert!(duration.seconds >= 1, "{duration:?}");
    for seconds in [1_000_000, -1] {
        let action = server
            .action(SHA256, &command, |action| action.timeout = timeout(seconds))
            .await;
        let status = server.execute(request(action)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{seconds} s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_13_sets_all_nine_timestamps_in_order() {
    let server = Server::farm().await;
    let result = succeeded(server.run(&shell("true"), &Directory::default()).await);
    let metadata = result.execution_metadata.unwrap();
    let times = [
        metadata.queued_timestamp,
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
        .into_iter()
        .map(|time| time.map(|time| (time.seconds, time.nanos)).unwrap())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(metadata.virtual_execution_duration.is_some());
    assert_ne!(metadata.worker, "");
}
