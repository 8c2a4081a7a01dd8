//! Clients that go away.

use bitzel_proto::reapi::execution_stage::Value::{Executing, Queued};
use tonic::Code;

use super::fake_worker::{FakeWorker, exited, failed};
use super::farm::{Farm, GRACE};

#[tokio::test]
async fn an_action_without_clients_is_cancelled_after_the_grace_time() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let name = operations.reach(Executing).await.name;
    let lease = worker.assigned().await.lease;
    drop(operations);
    farm.clock.pass_once_awaited(GRACE).await;
    assert_eq!(worker.cancelled().await, lease);
    assert_eq!(farm.wait(&name).await.err().unwrap().code(), Code::NotFound);
    // The worker's answer frees the slot and is not taken for a result.
    let next = farm.action("next").await;
    let mut operations = farm.execute(next).await.unwrap();
    worker
        .complete(&lease, failed(Code::Cancelled, "cancelled"))
        .await;
    assert_eq!(worker.assigned().await.action_digest, Some(next.into()));
    operations.reach(Executing).await;
}

#[tokio::test]
async fn a_client_that_comes_back_within_the_grace_time_gets_its_result() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let name = operations.reach(Executing).await.name;
    drop(operations);
    let mut back = farm.wait(&name).await.unwrap();
    back.reach(Executing).await;
    worker.run(exited(0)).await;
    assert_eq!(back.response().await.result.unwrap().exit_code, 0);
}

#[tokio::test]
async fn the_grace_time_counts_from_the_last_departure() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let name = operations.reach(Executing).await.name;
    let lease = worker.assigned().await.lease;
    drop(operations);
    farm.clock.awaits(GRACE).await;
    let back = farm.wait(&name).await.unwrap();
    // The first departure's time is up, and nothing happens: the second one is noticed and waited for.
    farm.clock.pass_once_awaited(GRACE).await;
    drop(back);
    farm.clock.pass_once_awaited(GRACE).await;
    assert_eq!(worker.cancelled().await, lease);
}

#[tokio::test]
async fn an_action_with_a_client_left_goes_on() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let mut stays = farm.execute(action).await.unwrap();
    let leaves = farm.execute(action).await.unwrap();
    drop(leaves);
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    worker.run(exited(0)).await;
    assert_eq!(stays.response().await.result.unwrap().exit_code, 0);
}

#[tokio::test]
async fn a_server_that_stops_tells_its_clients_to_try_again() {
    let farm = Farm::start().await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    operations.reach(Queued).await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    worker.assigned().await;
    operations.reach(Executing).await;
    farm.background.shut_down().await;
    let status = loop {
        match operations.next().await {
            Ok(operation) => assert!(!operation.unwrap().done),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(worker.next().await.unwrap().is_none());
}
