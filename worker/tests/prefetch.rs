//! Inputs that are fetched before their Action is there.

use std::sync::Arc;
use std::time::Duration;

use bitzel_cas::BlobStore;
use bitzel_proto::{Digest, InstanceName};
use bitzel_worker::{
    ActionExecutor as _, ExecutorConfig, InputPrefetcher as _, SandboxedActionExecutor, UpcomingAction,
};

use crate::harness::*;

/// Another worker on the store of `worker`, with this limit of prefetched bytes.
async fn prefetching(worker: &Worker, prefetch_bytes: u64) -> SandboxedActionExecutor {
    let mut config = ExecutorConfig::new(worker.directory.path().join("prefetching"));
    config.prefetch_bytes = prefetch_bytes;
    let store: Arc<dyn BlobStore> = worker.store.clone();
    SandboxedActionExecutor::open(config, Arc::new(store))
        .await
        .unwrap()
}

fn upcoming(action: Digest) -> UpcomingAction {
    UpcomingAction {
        instance: InstanceName::default(),
        action,
    }
}

/// Content of a file that is read by itself, not in a batch.
fn content(name: &str) -> String {
    name.repeat(300 << 10)
}

/// An Action with two files of 300 KiB each.
async fn put_action(worker: &Worker) -> Digest {
    let tree = directory([("a", file(content("a"))), ("b", file(content("b")))]);
    let root = worker.put_tree(&tree).await;
    let run = Run {
        script: "cat a b | wc -c",
        ..Run::default()
    };
    worker.action(root, &run).await
}

fn reads(worker: &Worker) -> [usize; 2] {
    ["a", "b"].map(|name| worker.store.reads_of(content(name).as_bytes()))
}

#[tokio::test]
async fn an_action_finds_the_inputs_that_were_fetched_ahead() {
    let worker = Worker::new().await;
    let executor = prefetching(&worker, 1 << 20).await;
    let action = put_action(&worker).await;
    let inputs = executor.prefetch(&upcoming(action)).await.unwrap();
    assert_eq!(reads(&worker), [1, 1]);
    let result = worker
        .succeeded(executor.execute(Worker::request(action)).await)
        .await;
    assert_eq!(worker.stdout(&result).await, "614400\n");
    assert_eq!(reads(&worker), [1, 1], "they are not fetched again");
    drop(inputs);
}

#[tokio::test]
async fn upcoming_actions_share_a_limit_of_bytes() {
    let worker = Worker::new().await;
    let executor = prefetching(&worker, 700 << 10).await;
    let action = put_action(&worker).await;
    let small = directory([("c", file(content("c")))]);
    let other = worker
        .action(worker.put_tree(&small).await, &Run::default())
        .await;
    let inputs = executor.prefetch(&upcoming(action)).await.unwrap();
    let read_c = || worker.store.reads_of(content("c").as_bytes());
    drop(executor.prefetch(&upcoming(other)).await.unwrap());
    assert_eq!((reads(&worker), read_c()), ([1, 1], 0), "600 of 700 KiB are used");
    drop(inputs);
    drop(executor.prefetch(&upcoming(other)).await.unwrap());
    assert_eq!(read_c(), 1, "the first ones are not held any more");
}

#[tokio::test]
async fn an_action_takes_over_from_a_fetch_that_ends() {
    let worker = Arc::new(Worker::new().await);
    let executor = Arc::new(prefetching(&worker, 1 << 20).await);
    let action = put_action(&worker).await;
    worker.store.hold(content("a").as_bytes());
    let fetch = tokio::spawn({
        let executor = Arc::clone(&executor);
        async move { executor.prefetch(&upcoming(action)).await.map(drop) }
    });
    worker.store.held().await;
    fetch.abort();
    assert!(fetch.await.unwrap_err().is_cancelled());
    worker.store.release();
    worker
        .succeeded(executor.execute(Worker::request(action)).await)
        .await;
}

#[tokio::test]
async fn a_prefetch_gives_way_to_an_action() {
    let worker = Arc::new(Worker::new().await);
    let executor = Arc::new(prefetching(&worker, 1 << 20).await);
    let next = upcoming(put_action(&worker).await);
    let root = worker.put_tree(&directory([("own", file(content("o")))])).await;
    let own = worker
        .action(
            root,
            &Run {
                script: "true",
                ..Run::default()
            },
        )
        .await;
    worker.store.hold(content("o").as_bytes());
    let execution = tokio::spawn({
        let executor = Arc::clone(&executor);
        async move { executor.execute(Worker::request(own)).await }
    });
    worker.store.held().await;
    let fetch = executor.prefetch(&next);
    tokio::pin!(fetch);
    // Long enough for a fetch that does not wait.
    let waited = tokio::time::timeout(Duration::from_millis(300), fetch.as_mut()).await;
    assert!(waited.is_err(), "it does not wait for the Action");
    assert_eq!(reads(&worker), [0, 0]);
    worker.store.release();
    worker.succeeded(execution.await.unwrap()).await;
    fetch.await.unwrap();
    assert_eq!(reads(&worker), [1, 1]);
}

#[tokio::test]
async fn a_prefetch_names_missing_inputs() {
    let worker = Worker::new().await;
    let executor = prefetching(&worker, 1 << 20).await;
    let unknown = FUNCTION.digest(b"nobody has it");
    assert!(executor.prefetch(&upcoming(unknown)).await.is_err());
}
