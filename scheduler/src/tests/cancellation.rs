//! Clients that disconnect.

use bitzel_proto::reapi::execution_stage::Value::{Executing, Queued};
use tonic::Code;

use super::fake_worker::{FakeWorker, exited, failed};
use super::farm::{ABANDONED_TIMEOUT, Farm};

#[tokio::test]
async fn an_abandoned_action_is_cancelled_after_the_timeout() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let name = operations.reach(Executing).await.name;
    let lease = worker.assigned().await.lease;
    drop(operations);
    farm.clock.pass_once_awaited(ABANDONED_TIMEOUT).await;
    assert_eq!(worker.cancelled().await, lease);
    assert_eq!(farm.wait(&name).await.err().unwrap().code(), Code::NotFound);
    // The worker's response frees the slot and is not used as a result.
    let next = farm.action("next").await;
    let mut operations = farm.execute(next).await.unwrap();
    worker
        .complete(&lease, failed(Code::Cancelled, "cancelled"))
        .await;
    assert_eq!(worker.assigned().await.action_digest, Some(next.into()));
    operations.reach(Executing).await;
}

#[tokio::test]
async fn a_client_that_returns_in_time_gets_the_result() {
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
async fn the_timeout_starts_with_the_last_detached_client() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let name = operations.reach(Executing).await.name;
    let lease = worker.assigned().await.lease;
    drop(operations);
    farm.clock.awaits(ABANDONED_TIMEOUT).await;
    let back = farm.wait(&name).await.unwrap();
    // The timeout of the first client has passed without an effect; that of the second one starts.
    farm.clock.pass_once_awaited(ABANDONED_TIMEOUT).await;
    drop(back);
    farm.clock.pass_once_awaited(ABANDONED_TIMEOUT).await;
    assert_eq!(worker.cancelled().await, lease);
}

#[tokio::test]
async fn an_action_with_another_client_continues() {
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
async fn a_stopping_server_answers_unavailable() {
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
