//! Resources of Actions, and hints of clients.

use bitzel_proto::reapi::execution_stage::Value::{Executing, Queued};
use bitzel_proto::reapi::{ActionResult, ExecuteRequest, ExecuteResponse, ExecutedActionMetadata};
use bitzel_proto::resource_usage;
use bitzel_proto::scheduling_hint::REMAINING_PATH;
use bitzel_proto::worker::{Hello, ResourceUsage, WorkerResources, worker_message};
use tonic::{Code, Request};

use super::fake_worker::{FakeWorker, exited, failed};
use super::farm::{Farm, platform, with_timeout};

/// Worker with this memory, of which one Action may use all.
fn hello(name: &str, slots: u32, memory_gib: u64) -> worker_message::Message {
    worker_message::Message::Hello(Hello {
        worker_name: name.to_owned(),
        slots,
        platform: Some(platform(&[("OSFamily", "linux")])),
        resources: Some(WorkerResources {
            memory_bytes: memory_gib << 30,
            action_memory_bytes: memory_gib << 30,
            ..WorkerResources::default()
        }),
        ..Hello::default()
    })
}

#[tokio::test]
async fn a_stated_amount_is_planned_and_not_matched() {
    let farm = Farm::start().await;
    let action = |memory: &'static str| {
        farm.action_with(memory, move |action| {
            action.platform = Some(platform(&[("OSFamily", "linux"), ("bitzel:memory", memory)]));
        })
    };
    let mut worker = FakeWorker::connect_with(&farm, hello("w", 2, 8)).await;
    let mut first = farm.execute(action("5GiB").await).await.unwrap();
    let lease = worker.assigned().await.lease;
    first.reach(Executing).await;
    let mut second = farm.execute(action("4GiB").await).await.unwrap();
    second.reach(Queued).await;
    worker.complete(&lease, exited(0)).await;
    // The second one is assigned when the first has left, before or after the acknowledgement.
    second.reach(Executing).await;
    let refused = farm.execute(action("a lot").await).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("bitzel:memory=a lot"),
        "{}",
        refused.message()
    );
}

/// Response of a worker that ended an Action at its bound of memory.
fn out_of_memory(bound_gib: u64) -> ExecuteResponse {
    let mut metadata = ExecutedActionMetadata::default();
    let usage = ResourceUsage {
        memory_bound_bytes: bound_gib << 30,
        ..ResourceUsage::default()
    };
    resource_usage::record(&mut metadata, &usage);
    ExecuteResponse {
        result: Some(ActionResult {
            exit_code: 137,
            execution_metadata: Some(metadata),
            ..ActionResult::default()
        }),
        ..failed(Code::FailedPrecondition, "the Action uses too much memory")
    }
}

#[tokio::test]
async fn an_action_out_of_memory_runs_where_more_is_allowed() {
    let farm = Farm::start().await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let mut small = FakeWorker::connect_with(&farm, hello("small", 1, 4)).await;
    let lease = small.assigned().await.lease;
    let mut big = FakeWorker::connect_with(&farm, hello("big", 1, 16)).await;
    small.complete(&lease, out_of_memory(4)).await;
    assert_eq!(small.acknowledged().await, lease);
    let lease = big.assigned().await.lease;
    big.complete(&lease, out_of_memory(16)).await;
    let response = operations.response().await;
    assert_eq!(
        response.status.unwrap().code,
        Code::FailedPrecondition as i32,
        "once"
    );
}

#[tokio::test]
async fn the_header_of_the_remaining_path_orders_a_build() {
    let farm = Farm::start().await;
    let execute = async |name: &str, path: &str| {
        let action = farm.action(name).await;
        let mut request = Request::new(ExecuteRequest {
            action_digest: Some(action.into()),
            digest_function: action.function().to_wire(),
            ..ExecuteRequest::default()
        });
        request
            .metadata_mut()
            .insert(REMAINING_PATH, path.parse().unwrap());
        let stream = with_timeout(farm.client().execute(request)).await.unwrap();
        let mut stream = stream.into_inner();
        // It is in the queue now.
        with_timeout(stream.message()).await.unwrap();
        (action, stream)
    };
    let (short, _short) = execute("short", "1000").await;
    let (long, _long) = execute("long", "600000").await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let first = worker.assigned().await;
    assert_eq!(first.action_digest, Some(long.into()));
    assert_ne!(first.action_digest, Some(short.into()));
}
