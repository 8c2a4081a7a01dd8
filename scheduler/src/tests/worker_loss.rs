//! Workers that are lost.

use std::time::Duration;

use bitzel_proto::reapi::execution_stage::Value::{Executing, Queued};
use bitzel_proto::worker::scheduler_message;
use tonic::Code;

use super::fake_worker::{FakeWorker, exited, failed, hello_again};
use super::farm::{Farm, NO_WORKER_TIMEOUT, RECONNECT_TIMEOUT, with_timeout};

#[tokio::test]
async fn a_lost_workers_action_runs_on_another() {
    let farm = Farm::start().await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let mut lost = FakeWorker::connect(&farm, "lost", 1).await;
    let old = lost.assigned().await;
    operations.reach(Executing).await;
    drop(lost);
    farm.clock.pass_once_awaited(RECONNECT_TIMEOUT).await;
    operations.reach(Queued).await;
    let mut other = FakeWorker::connect(&farm, "other", 1).await;
    let new = other.run(exited(0)).await;
    assert_ne!(new.lease, old.lease);
    assert_eq!(new.queued_unix_nanos, old.queued_unix_nanos);
    assert_eq!(operations.response().await.result.unwrap().exit_code, 0);
}

#[tokio::test]
async fn a_worker_whose_stream_breaks_goes_on() {
    let farm = Farm::start().await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let lease = worker.assigned().await.lease;
    operations.reach(Executing).await;
    drop(worker);
    farm.clock.awaits(RECONNECT_TIMEOUT).await;
    // It is free, but the Action is that of the other one.
    let mut other = FakeWorker::connect(&farm, "other", 1).await;
    let worker = FakeWorker::connect_with(&farm, hello_again("w", 1, &lease)).await;
    worker.complete(&lease, exited(0)).await;
    assert_eq!(operations.response().await.result.unwrap().exit_code, 0);
    other.drain().await;
    let next = with_timeout(other.next()).await.unwrap();
    assert!(next.is_none(), "the other worker got {next:?}");
}

#[tokio::test]
async fn repeated_loss_fails_with_the_names_of_the_workers() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let mut operations = farm.execute(action).await.unwrap();
    for name in ["first", "second"] {
        let mut worker = FakeWorker::connect(&farm, name, 1).await;
        worker.assigned().await;
        drop(worker);
        farm.clock.pass_once_awaited(RECONNECT_TIMEOUT).await;
    }
    let status = operations.response().await.status.unwrap();
    assert_eq!(status.code, Code::Unavailable as i32);
    assert_eq!(
        status.message,
        "gave up after 2 attempts: worker first was lost; worker second was lost"
    );
    assert!(farm.action_cache.result(action).is_none());
}

#[tokio::test]
async fn a_failure_of_the_worker_is_tried_again() {
    for code in [Code::Unavailable, Code::Cancelled] {
        let farm = Farm::start().await;
        let mut operations = farm.execute(farm.action("a").await).await.unwrap();
        let mut worker = FakeWorker::connect(&farm, "w", 1).await;
        let lease = worker.assigned().await.lease;
        worker
            .complete(&lease, failed(code, "the store is unreachable"))
            .await;
        // The Action is assigned again, before or after the acknowledgement.
        let (mut again, mut acknowledged) = (None, false);
        while again.is_none() || !acknowledged {
            match worker.next().await.unwrap().unwrap() {
                scheduler_message::Message::Assign(assign) => again = Some(assign.lease),
                scheduler_message::Message::Acknowledged(message) => {
                    assert_eq!(message.lease, lease);
                    acknowledged = true;
                }
                other => panic!("{other:?}"),
            }
        }
        worker.complete(&again.unwrap(), exited(0)).await;
        assert_eq!(operations.response().await.result.unwrap().exit_code, 0);
    }
}

#[tokio::test]
async fn an_action_without_a_suitable_worker_names_properties() {
    let farm = Farm::start().await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    operations.reach(Queued).await;
    farm.clock.pass_once_awaited(NO_WORKER_TIMEOUT).await;
    let status = operations.response().await.status.unwrap();
    assert_eq!(status.code, Code::FailedPrecondition as i32);
    assert!(status.message.contains("OSFamily=linux"), "{}", status.message);
    assert!(!status.message.contains("network"), "{}", status.message);
}

#[tokio::test]
async fn a_worker_with_too_few_resources_hands_an_action_on() {
    let farm = Farm::start().await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let mut full = FakeWorker::connect(&farm, "full", 1).await;
    let lease = full.assigned().await.lease;
    let mut other = FakeWorker::connect(&farm, "other", 1).await;
    full.complete(&lease, failed(Code::Aborted, "no space left"))
        .await;
    assert_eq!(full.acknowledged().await, lease);
    // Although the first one has a free slot again.
    other.run(exited(0)).await;
    assert_eq!(operations.response().await.result.unwrap().exit_code, 0);
}

#[tokio::test]
async fn f7_an_action_does_not_travel_for_ever() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let mut operations = farm.execute(action).await.unwrap();
    let mut full = FakeWorker::connect(&farm, "full", 1).await;
    let lease = full.assigned().await.lease;
    full.complete(&lease, failed(Code::Aborted, "no space left"))
        .await;
    assert_eq!(full.acknowledged().await, lease);
    // The only worker gets it again, after longer and longer pauses.
    for pause in [10, 20] {
        farm.clock.pass_once_awaited(Duration::from_secs(pause)).await;
        let lease = full.assigned().await.lease;
        full.complete(&lease, failed(Code::Aborted, "no space left"))
            .await;
        assert_eq!(full.acknowledged().await, lease);
    }
    let status = operations.response().await.status.unwrap();
    assert_eq!(status.code, Code::Unavailable as i32);
    assert_eq!(
        status.message,
        format!(
            "gave up after 3 attempts: {0}; {0}; {0}",
            "worker full handed it back: no space left"
        )
    );
    assert!(farm.action_cache.result(action).is_none());
}
