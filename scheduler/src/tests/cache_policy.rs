//! Reads and writes of the action cache.

use bitzel_cas::ActionCache;
use bitzel_proto::reapi::execution_stage::Value::{Executing, Queued};
use bitzel_proto::reapi::{ActionResult, ExecuteRequest, ExecuteResponse, OutputFile, RequestMetadata};
use bitzel_proto::{Digest, InstanceName};
use prost::Message;
use tonic::metadata::MetadataValue;

use super::fake_worker::{FakeWorker, exited};
use super::farm::{Farm, with_timeout};
use super::gated_action_cache::Gate;

#[tokio::test]
async fn a_cached_result_is_served_without_any_worker() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let result = ActionResult {
        stdout_raw: b"hello".to_vec(),
        ..Default::default()
    };
    farm.action_cache
        .put(&InstanceName::default(), action, result.clone())
        .await
        .unwrap();
    let response = farm.execute(action).await.unwrap().response().await;
    assert!(response.cached_result);
    assert_eq!(response.result, Some(result));
    // The cache of another instance is another cache.
    let mut elsewhere = farm
        .execute_with(action, |request| request.instance_name = "other".to_owned())
        .await
        .unwrap();
    let name = elsewhere.reach(Queued).await.name;
    assert!(name.starts_with("other/operations/"), "{name}");
}

#[tokio::test]
async fn requested_contents_are_inlined_executed_or_cached() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let stdout = farm.upload_bytes(b"said").await;
    let stderr = farm.upload_bytes(b"complained").await;
    let file = |path: &str, digest: Digest| OutputFile {
        path: path.to_owned(),
        digest: Some(digest.into()),
        ..Default::default()
    };
    let result = ActionResult {
        stdout_digest: Some(stdout.into()),
        stderr_digest: Some(stderr.into()),
        output_files: vec![file("wanted", stdout), file("other", stderr)],
        ..Default::default()
    };
    let asked = |request: &mut ExecuteRequest| {
        request.inline_stdout = true;
        request.inline_output_files = vec!["wanted".to_owned()];
    };
    let mut plain = farm.execute(action).await.unwrap();
    let mut asking = farm.execute_with(action, asked).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let completed = ExecuteResponse {
        result: Some(result.clone()),
        ..Default::default()
    };
    worker.run(completed).await;
    // Both follow one execution, and each gets the contents that it requested.
    let got = plain.response().await.result.unwrap();
    assert_eq!(
        (&got.stdout_raw[..], &got.output_files),
        (&b""[..], &result.output_files)
    );
    let executed = asking.response().await;
    let cached = farm.execute_with(action, asked).await.unwrap().response().await;
    assert!(!executed.cached_result && cached.cached_result);
    for response in [executed, cached] {
        let got = response.result.unwrap();
        assert_eq!(got.stdout_raw, b"said");
        assert_eq!(got.stdout_digest, Some(stdout.into()));
        assert_eq!(got.stderr_raw, b"");
        assert_eq!(got.output_files[0].contents, b"said");
        assert_eq!(got.output_files[1].contents, b"");
    }
}

#[tokio::test]
async fn requests_for_one_action_share_one_execution() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let mut first = farm.execute(action).await.unwrap();
    let mut second = farm.execute(action).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 2).await;
    worker.run(exited(0)).await;
    assert_eq!(first.response().await, second.response().await);
    // The result is in the cache now, so a third request reaches no worker either.
    assert!(farm.execute(action).await.unwrap().response().await.cached_result);
}

#[tokio::test]
async fn a_success_is_reported_after_it_is_in_the_cache() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let next = farm.action("next").await;
    farm.action_cache.gate.send_replace(Gate::Closed);
    let mut operations = farm.execute(action).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let assign = worker.assigned().await;
    operations.reach(Executing).await;
    worker.complete(&assign.lease, exited(0)).await;
    let mut writes = farm.action_cache.writes.subscribe();
    with_timeout(writes.wait_for(|writes| *writes == 1))
        .await
        .unwrap();
    // The slot is free already, so the next message is the next Action, and not an acknowledgement.
    farm.execute(next).await.unwrap();
    assert_eq!(worker.assigned().await.action_digest, Some(next.into()));
    farm.action_cache.gate.send_replace(Gate::Open);
    assert_eq!(worker.acknowledged().await, assign.lease);
    operations.response().await;
    assert!(farm.action_cache.result(action).is_some());
}

#[tokio::test]
async fn a_result_survives_its_worker_and_is_still_cached() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    farm.action_cache.gate.send_replace(Gate::Closed);
    let mut operations = farm.execute(action).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let assign = worker.assigned().await;
    worker.complete(&assign.lease, exited(0)).await;
    let mut writes = farm.action_cache.writes.subscribe();
    with_timeout(writes.wait_for(|writes| *writes == 1))
        .await
        .unwrap();
    drop(worker);
    farm.action_cache.gate.send_replace(Gate::Open);
    assert_eq!(operations.response().await.result.unwrap().exit_code, 0);
    assert!(farm.action_cache.result(action).is_some());
}

#[tokio::test]
async fn a_failing_cache_does_not_invalidate_the_result() {
    let farm = Farm::start().await;
    farm.action_cache.gate.send_replace(Gate::Failing);
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    worker.run(exited(0)).await;
    let response = operations.response().await;
    assert_eq!(response.result.unwrap().exit_code, 0);
    assert!(
        response.message.contains("the cache is read-only"),
        "{}",
        response.message
    );
}

#[tokio::test]
async fn request_metadata_reaches_the_worker() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let said = RequestMetadata {
        tool_invocation_id: "invocation".to_owned(),
        ..Default::default()
    };
    let mut request = tonic::Request::new(bitzel_proto::reapi::ExecuteRequest {
        action_digest: Some(action.into()),
        ..Default::default()
    });
    request.metadata_mut().insert_bin(
        "build.bazel.remote.execution.v2.requestmetadata-bin",
        MetadataValue::from_bytes(&said.encode_to_vec()),
    );
    let _operations = farm.client().execute(request).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    assert_eq!(worker.assigned().await.request_metadata, Some(said));
}
