//! Workers that claim to be others.

use bitzel_proto::reapi::execution_stage::Value::Executing;
use bitzel_proto::reapi::{ActionResult, ExecuteResponse, ExecutedActionMetadata};
use bitzel_proto::worker::{Hello, worker_message};
use tonic::Code;

use super::fake_worker::{FakeWorker, exited, hello_again};
use super::farm::{Farm, RECONNECT_TIMEOUT};

/// First message of another instance of a worker, which reports a lease.
fn thief(name: &str, lease: &str) -> worker_message::Message {
    match hello_again(name, 1, lease) {
        worker_message::Message::Hello(hello) => worker_message::Message::Hello(Hello {
            instance_secret: b"another instance".to_vec(),
            ..hello
        }),
        other => other,
    }
}

#[tokio::test]
async fn f18_a_lease_is_resumed_by_its_own_worker_alone() {
    let farm = Farm::start().await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let lease = worker.assigned().await.lease;
    operations.reach(Executing).await;
    drop(worker);
    farm.clock.awaits(RECONNECT_TIMEOUT).await;
    // It knows even the name of the lease.
    let mut thief = FakeWorker::connect_with(&farm, thief("w", &lease)).await;
    assert_eq!(thief.cancelled().await, lease);
    thief.complete(&lease, exited(7)).await;
    assert_eq!(thief.acknowledged().await, lease);
    thief.drain().await;
    assert!(thief.next().await.unwrap().is_none(), "it got no Action");
    let worker = FakeWorker::connect_with(&farm, hello_again("w", 1, &lease)).await;
    worker.complete(&lease, exited(3)).await;
    assert_eq!(operations.response().await.result.unwrap().exit_code, 3);
}

#[tokio::test]
async fn f18_the_name_of_an_operation_tells_no_lease() {
    let farm = Farm::start().await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let lease = worker.assigned().await.lease;
    operations.reach(Executing).await;
    // The random part may have `-` too.
    let (guess_end, _) = lease.match_indices('-').nth(1).unwrap();
    let (guessed, last) = lease.split_at(guess_end);
    assert!(last.len() > 32, "{lease} has too little that is random");
    worker.complete(guessed, exited(7)).await;
    assert_eq!(worker.acknowledged().await, guessed);
    worker.complete(&lease, exited(3)).await;
    assert_eq!(operations.response().await.result.unwrap().exit_code, 3);
}

#[tokio::test]
async fn f18_a_second_worker_of_one_name_is_refused() {
    let farm = Farm::start().await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let lease = worker.assigned().await.lease;
    let mut second = FakeWorker::connect_with(&farm, thief("w", &lease)).await;
    let status = second.next().await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains("host name"), "{status}");
    worker.complete(&lease, exited(0)).await;
    assert_eq!(operations.response().await.result.unwrap().exit_code, 0);
}

#[tokio::test]
async fn f18_the_server_names_the_worker_of_a_result() {
    let farm = Farm::start().await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let response = ExecuteResponse {
        result: Some(ActionResult {
            execution_metadata: Some(ExecutedActionMetadata {
                worker: "another".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    worker.run(response).await;
    let result = operations.response().await.result.unwrap();
    assert_eq!(result.execution_metadata.unwrap().worker, "w");
}
