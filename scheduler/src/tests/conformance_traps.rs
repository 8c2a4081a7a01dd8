//! Requirements of `remote_execution.proto` that are easily violated. The numbers are those of the project's list of traps.

use bitzel_cas::ActionCache;
use bitzel_proto::google::protobuf;
use bitzel_proto::missing_blobs::{missing_blob_subjects, to_rpc_status};
use bitzel_proto::reapi::execution_stage::Value::{Completed, Executing, Queued};
use bitzel_proto::reapi::{Action, ActionResult, ExecuteResponse};
use bitzel_proto::worker::{StageChanged, worker_message};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use tonic::Code;

use super::fake_worker::{FakeWorker, exited, failed};
use super::farm::{Farm, metadata, response, stage};

#[tokio::test]
async fn trap_07_do_not_cache_means_no_merge_no_write_no_hit() {
    let farm = Farm::start().await;
    let action = farm.action_with("a", |action| action.do_not_cache = true).await;
    // A result exists all the same.
    let stale = ActionResult {
        exit_code: 3,
        ..Default::default()
    };
    farm.action_cache
        .put(&InstanceName::default(), action, stale.clone())
        .await
        .unwrap();
    let mut first = farm.execute(action).await.unwrap();
    let mut second = farm.execute(action).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 2).await;
    let leases = [worker.assigned().await.lease, worker.assigned().await.lease];
    assert_ne!(leases[0], leases[1]);
    for lease in leases {
        worker.complete(&lease, exited(0)).await;
        worker.acknowledged().await;
    }
    for operations in [&mut first, &mut second] {
        let response = operations.response().await;
        assert!(!response.cached_result);
        assert_eq!(response.result.unwrap().exit_code, 0);
    }
    assert_eq!(
        farm.action_cache.result(action),
        Some(stale),
        "nothing was written"
    );
}

#[tokio::test]
async fn trap_07_skip_cache_lookup_runs_again_and_overwrites() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let poisoned = ActionResult {
        stdout_raw: b"poisoned".to_vec(),
        ..Default::default()
    };
    farm.action_cache
        .put(&InstanceName::default(), action, poisoned)
        .await
        .unwrap();
    let mut operations = farm
        .execute_with(action, |request| request.skip_cache_lookup = true)
        .await
        .unwrap();
    // It may be merged with others in flight.
    let mut merged = farm
        .execute_with(action, |request| request.skip_cache_lookup = true)
        .await
        .unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 2).await;
    worker.run(exited(0)).await;
    assert!(!operations.response().await.cached_result);
    assert!(!merged.response().await.cached_result);
    assert_eq!(farm.action_cache.result(action).unwrap().stdout_raw, b"");
}

#[tokio::test]
async fn trap_08_errors_go_into_the_response_and_are_never_cached() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let timed_out = {
        let mut response = failed(Code::DeadlineExceeded, "timed out");
        // Output of what ran until then; the exit code says nothing.
        response.result = exited(0).result;
        response
    };
    for (name, answer, code) in [
        ("timed out", timed_out, Code::DeadlineExceeded),
        ("failed", failed(Code::Internal, "broken"), Code::Internal),
        ("exit code", exited(1), Code::Ok),
        ("nothing", ExecuteResponse::default(), Code::Internal),
    ] {
        let action = farm.action(name).await;
        let mut operations = farm.execute(action).await.unwrap();
        worker.run(answer).await;
        let last = operations.reach(Completed).await;
        // `response` panics when the operation carries `error`.
        let response = response(&last);
        assert_eq!(response.status.unwrap().code, code as i32, "{name}");
        assert_eq!(farm.action_cache.result(action), None, "{name}");
    }
}

#[tokio::test]
async fn trap_09_missing_blobs_are_named_without_instance() {
    let farm = Farm::start().await;
    let subjects = async |action: Digest| {
        let status = farm
            .execute_with(action, |request| {
                request.instance_name = "some/instance".to_owned();
            })
            .await
            .err()
            .unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition);
        missing_blob_subjects(&to_rpc_status(&status))
    };
    for function in DigestFunction::ALL {
        let (prefix, blob) = match function {
            DigestFunction::Sha256 => ("blobs", function.digest(b"sha256")),
            DigestFunction::Blake3 => ("blobs/blake3", function.digest(b"blake3")),
        };
        assert_eq!(subjects(blob).await, [format!("{prefix}/{blob}")]);
    }
    let (command, root) = (
        DigestFunction::Sha256.digest(b"command"),
        DigestFunction::Sha256.digest(b"root"),
    );
    let action = Action {
        command_digest: Some(command.into()),
        input_root_digest: Some(root.into()),
        ..Default::default()
    };
    let action = farm.upload(&action).await;
    assert_eq!(
        subjects(action).await,
        [format!("blobs/{command}"), format!("blobs/{root}")]
    );
}

#[tokio::test]
async fn trap_09_missing_blobs_of_the_worker_reach_the_client() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let missing = DigestFunction::Sha256.digest(b"deep");
    let status = bitzel_proto::missing_blobs::missing_blobs_status(&[missing]);
    let mut answer = failed(Code::Ok, "");
    answer.status = Some(to_rpc_status(&status));
    worker.run(answer).await;
    let status = operations.response().await.status.unwrap();
    assert_eq!(missing_blob_subjects(&status), [format!("blobs/{missing}")]);
}

#[tokio::test]
async fn trap_10_completed_means_done_and_the_end_of_the_stream() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let mut operations = farm.execute(action).await.unwrap();
    let first = operations.next().await.unwrap().unwrap();
    assert_eq!((stage(&first), first.done), (Queued, false));
    assert_eq!(metadata(&first).action_digest, Some(action.into()));
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let assign = worker.assigned().await;
    let second = operations.next().await.unwrap().unwrap();
    assert_eq!((stage(&second), second.done), (Executing, false));
    assert_eq!(metadata(&second).partial_execution_metadata.unwrap().worker, "w");
    // Back to the queue is legal.
    let stage_changed = StageChanged {
        lease: assign.lease.clone(),
        stage: Queued.into(),
    };
    worker
        .send(worker_message::Message::StageChanged(stage_changed))
        .await;
    assert_eq!(stage(&operations.next().await.unwrap().unwrap()), Queued);
    worker.complete(&assign.lease, exited(0)).await;
    let last = operations.next().await.unwrap().unwrap();
    assert_eq!((stage(&last), last.done), (Completed, true));
    assert!(operations.next().await.unwrap().is_none());
}

#[tokio::test]
async fn trap_10_wait_execution_reports_the_state_at_once() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let mut operations = farm.execute(action).await.unwrap();
    let name = operations.reach(Queued).await.name;
    let mut waiting = farm.wait(&name).await.unwrap();
    assert_eq!(stage(&waiting.next().await.unwrap().unwrap()), Queued);
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let assign = worker.assigned().await;
    let mut executing = farm.wait(&name).await.unwrap();
    assert_eq!(stage(&executing.next().await.unwrap().unwrap()), Executing);
    worker.complete(&assign.lease, exited(0)).await;
    operations.response().await;
    waiting.response().await;
    executing.response().await;
    let mut completed = farm.wait(&name).await.unwrap();
    let last = completed.next().await.unwrap().unwrap();
    assert_eq!((stage(&last), last.done, last.name), (Completed, true, name));
    assert!(completed.next().await.unwrap().is_none());
}

#[tokio::test]
async fn trap_10_an_unknown_operation_is_not_found() {
    let farm = Farm::start().await;
    for name in [
        "",
        "operations/",
        "nonsense",
        "operations/6a0f5f5c-8f0a-4a51-8b9e-0d5b7c2f9a11",
        "instance/operations/6a0f5f5c-8f0a-4a51-8b9e-0d5b7c2f9a11",
    ] {
        let status = farm.wait(name).await.err().unwrap();
        assert_eq!(status.code(), Code::NotFound, "{name}");
    }
}

#[tokio::test]
async fn trap_13_a_timeout_over_the_maximum_is_rejected() {
    let farm = Farm::start().await;
    for (seconds, nanos, accepted) in [
        (3600, 0, true),
        (3600, 1, false),
        (3601, 0, false),
        (-1, 0, false),
        (1, -1, false),
    ] {
        let timeout = protobuf::Duration { seconds, nanos };
        let action = farm
            .action_with("a", |action| action.timeout = Some(timeout))
            .await;
        let answer = farm.execute(action).await;
        match answer {
            Ok(_) => assert!(accepted, "{seconds} s {nanos} ns"),
            Err(status) => {
                assert!(!accepted, "{seconds} s {nanos} ns: {status}");
                assert_eq!(status.code(), Code::InvalidArgument);
            }
        }
    }
}

#[tokio::test]
async fn trap_13_the_server_sets_the_time_of_queueing() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let action = farm.action("a").await;
    let mut operations = farm.execute(action).await.unwrap();
    let first = operations.next().await.unwrap().unwrap();
    let queued = protobuf::Timestamp {
        seconds: 1_000_000,
        nanos: 0,
    };
    let partial = metadata(&first).partial_execution_metadata.unwrap();
    assert_eq!(partial.queued_timestamp, Some(queued));
    let assign = worker.run(exited(0)).await;
    assert_eq!(assign.queued_unix_nanos, 1_000_000 * 1_000_000_000);
    let result = operations.response().await.result.unwrap();
    let metadata = result.execution_metadata.unwrap();
    assert_eq!(
        (metadata.queued_timestamp, metadata.worker.as_str()),
        (Some(queued), "w")
    );
}
