//! Protocol of workers.

use bitzel_proto::reapi::execution_stage::Value::Executing;
use bitzel_proto::reapi::{Command, Platform};
use bitzel_proto::worker::{Drain, Hello, worker_message};
use tonic::Code;

use super::fake_worker::{FakeWorker, exited, hello, secret};
use super::farm::{Farm, platform, with_timeout};
use super::gated_action_cache::Gate;
use crate::worker_queue_service::MAX_MESSAGE_BYTES;

fn in_pool(pool: &str) -> worker_message::Message {
    worker_message::Message::Hello(Hello {
        worker_name: "w".to_owned(),
        slots: 1,
        pool: pool.to_owned(),
        ..Hello::default()
    })
}

#[tokio::test]
async fn a_worker_without_a_valid_hello_is_refused() {
    let farm = Farm::start().await;
    for first in [
        worker_message::Message::Drain(Drain {}),
        hello("", 1, &[]),
        hello("w", 0, &[]),
        hello("w", 100_000, &[]),
        hello(&"w".repeat(300), 1, &[]),
        // PostgreSQL refuses a text with NUL.
        hello("a\0b", 1, &[]),
        hello("a\u{1b}[2Jb", 1, &[]),
        hello("w", 1, &vec![("OSFamily", "linux"); 2000]),
        hello("w", 1, &[("OSFamily", &"x".repeat(300_000))]),
        in_pool("p\0"),
        in_pool(&"p".repeat(300)),
    ] {
        let mut worker = FakeWorker::connect_with(&farm, first).await;
        assert_eq!(worker.next().await.err().unwrap().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn f22_a_worker_learns_that_its_message_is_too_large() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let _client = farm.execute(farm.action("large").await).await.unwrap();
    let lease = worker.assigned().await.lease;
    let mut response = exited(0);
    response.message = "x".repeat(MAX_MESSAGE_BYTES);
    worker.complete(&lease, response).await;
    assert_eq!(worker.next().await.err().unwrap().code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_drained_worker_finishes_and_its_stream_ends() {
    let farm = Farm::start().await;
    let mut draining = FakeWorker::connect(&farm, "draining", 2).await;
    let mut first = farm.execute(farm.action("first").await).await.unwrap();
    let assign = draining.assigned().await;
    draining.drain().await;
    // The drain has taken effect when another worker gets an Action although the first one has a free slot.
    let mut other =
        FakeWorker::connect_with(&farm, hello("other", 1, &[("OSFamily", "linux"), ("gpu", "1")])).await;
    let gpu = farm
        .action_with("gpu", |action| action.platform = Some(platform(&[("gpu", "1")])))
        .await;
    let mut on_gpu = farm.execute(gpu).await.unwrap();
    let busy = other.assigned().await;
    on_gpu.reach(Executing).await;
    draining.complete(&assign.lease, exited(0)).await;
    assert_eq!(draining.acknowledged().await, assign.lease);
    assert!(draining.next().await.unwrap().is_none(), "its stream ends");
    assert_eq!(first.response().await.result.unwrap().exit_code, 0);
    let second = farm.action("second").await;
    let mut operations = farm.execute(second).await.unwrap();
    other.complete(&busy.lease, exited(0)).await;
    operations.reach(Executing).await;
}

#[tokio::test]
async fn an_idle_worker_that_drains_is_closed_at_once() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, "w", 2).await;
    worker.drain().await;
    assert!(worker.next().await.unwrap().is_none());
}

#[tokio::test]
async fn unknown_completions_are_acknowledged_and_ignored() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let lease = worker.assigned().await.lease;
    for unknown in ["", "1", "from-before-a-restart-1"] {
        worker.complete(unknown, exited(0)).await;
        assert_eq!(worker.acknowledged().await, unknown);
    }
    for _ in 0..2 {
        worker.complete(&lease, exited(0)).await;
        assert_eq!(worker.acknowledged().await, lease);
    }
    assert_eq!(operations.response().await.result.unwrap().exit_code, 0);
}

#[tokio::test]
async fn an_action_goes_to_a_worker_with_its_properties() {
    let farm = Farm::start().await;
    let mut plain = FakeWorker::connect(&farm, "plain", 1).await;
    let mut gpu =
        FakeWorker::connect_with(&farm, hello("gpu", 1, &[("OSFamily", "linux"), ("gpu", "1")])).await;
    let needs_gpu = farm
        .action_with("gpu", |action| {
            action.platform = Some(platform(&[("OSFamily", "linux"), ("gpu", "1")]));
        })
        .await;
    let first = farm.execute(needs_gpu).await.unwrap();
    assert_eq!(gpu.assigned().await.action_digest, Some(needs_gpu.into()));
    let simple = farm.action("simple").await;
    let second = farm.execute(simple).await.unwrap();
    assert_eq!(plain.assigned().await.action_digest, Some(simple.into()));
    drop((first, second));
}

#[tokio::test]
async fn older_clients_set_the_platform_in_the_command() {
    let farm = Farm::start().await;
    #[expect(deprecated, reason = "clients older than version 2.2 set it")]
    let command = Command {
        platform: Some(platform(&[("gpu", "1")])),
        ..Default::default()
    };
    let command = farm.upload(&command).await;
    let mut plain = FakeWorker::connect(&farm, "plain", 1).await;
    let with_platform = async |platform: Option<Platform>| {
        farm.action_with("a", |action| {
            action.command_digest = Some(command.into());
            action.platform = platform;
        })
        .await
    };
    // The Command's platform does not count if the Action has one.
    let preferred = with_platform(Some(platform(&[("OSFamily", "linux")]))).await;
    let _running = farm.execute(preferred).await.unwrap();
    assert_eq!(plain.assigned().await.action_digest, Some(preferred.into()));
    let legacy = with_platform(None).await;
    let _waiting = farm.execute(legacy).await.unwrap();
    let mut gpu = FakeWorker::connect_with(&farm, hello("gpu", 1, &[("gpu", "1")])).await;
    assert_eq!(gpu.assigned().await.action_digest, Some(legacy.into()));
}

#[tokio::test]
async fn a_result_sent_again_is_acknowledged_after_it_is_recorded() {
    let farm = Farm::start().await;
    farm.action_cache.gate.send_replace(Gate::Closed);
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let lease = worker.assigned().await.lease;
    worker.complete(&lease, exited(0)).await;
    let mut writes = farm.action_cache.writes.subscribe();
    with_timeout(writes.wait_for(|writes| *writes == 1))
        .await
        .unwrap();
    drop(worker);
    let again = worker_message::Message::Hello(Hello {
        worker_name: "w".to_owned(),
        slots: 1,
        leases: vec![lease.clone()],
        instance_secret: secret("w"),
        ..Hello::default()
    });
    let mut worker = FakeWorker::connect_with(&farm, again).await;
    assert_eq!(worker.cancelled().await, lease);
    worker.complete(&lease, exited(0)).await;
    worker.complete("unknown", exited(0)).await;
    assert_eq!(worker.acknowledged().await, "unknown");
    farm.action_cache.gate.send_replace(Gate::Open);
    assert_eq!(worker.acknowledged().await, lease);
    assert_eq!(operations.response().await.result.unwrap().exit_code, 0);
}
