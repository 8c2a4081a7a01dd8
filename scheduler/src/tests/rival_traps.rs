//! Faults that other engines of remote execution had, as tests of the services. Each test has the name of the project and the
//! number of the report. Those of the queue alone are in `operation_queue/rival_traps.rs`.

use std::sync::Arc;

use bitzel_cas::blob_store::one_chunk;
use bitzel_cas::{
    ActionCache, BlobSource, BlobStore, CompletenessCheckingActionCache, MemoryBlobStore, upload_missing,
};
use bitzel_proto::reapi::{ActionResult, OutputFile};
use bitzel_proto::worker::scheduler_message;
use bitzel_proto::{DigestFunction, InstanceName};
use tonic::Code;

use super::fake_worker::{FakeWorker, exited, failed};
use super::farm::{Farm, with_timeout};
use super::gated_action_cache::GatedActionCache;

/// Files at the same time that the upload test has: more than any limit of open files or of concurrent calls.
const MANY_FILES: u32 = 5_000;

/// A client that does not read its stream, and a worker that does not read its own, hold up nobody: nothing waits for a
/// receiver under the lock of the queue.
#[tokio::test]
async fn nativelink_2706_slow_readers_hold_up_nobody() {
    let farm = Farm::start().await;
    let deaf = FakeWorker::connect(&farm, "deaf", 1).await;
    let mut unread = vec![];
    for number in 0..200 {
        unread.push(
            farm.execute(farm.action(&format!("unread {number}")).await)
                .await
                .unwrap(),
        );
    }
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let mut acknowledged = 0;
    while acknowledged < 100 {
        match worker.next().await.unwrap() {
            Some(scheduler_message::Message::Assign(assign)) => {
                worker.complete(&assign.lease, exited(0)).await;
            }
            Some(scheduler_message::Message::Acknowledged(_)) => acknowledged += 1,
            other => panic!("{other:?}"),
        }
    }
    drop((deaf, unread));
}

/// More files are uploaded than there are permits for.
#[tokio::test]
async fn nativelink_2638_more_files_than_permits_are_uploaded() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryBlobStore::default();
    let files: Vec<_> = (0..MANY_FILES)
        .map(|number| {
            let path = directory.path().join(number.to_string());
            std::fs::write(&path, number.to_string()).unwrap();
            let digest = DigestFunction::Sha256.digest(number.to_string().as_bytes());
            (digest, BlobSource::File(path))
        })
        .collect();
    let digests: Vec<_> = files.iter().map(|(digest, _)| *digest).collect();
    with_timeout(upload_missing(&store, files)).await.unwrap();
    assert!(store.find_missing(&digests).await.unwrap().is_empty());
}

/// A result whose outputs are gone is no result.
#[tokio::test]
async fn buildfarm_1501_a_result_without_its_blobs_is_not_found() {
    let store = Arc::new(MemoryBlobStore::default());
    let cache = CompletenessCheckingActionCache::new(
        Arc::new(GatedActionCache::default()),
        Arc::clone(&store) as Arc<dyn BlobStore>,
    );
    let (action, output) = (
        DigestFunction::Sha256.digest(b"action"),
        DigestFunction::Sha256.digest(b"output"),
    );
    let result = ActionResult {
        output_files: vec![OutputFile {
            path: "out".to_owned(),
            digest: Some(output.into()),
            ..OutputFile::default()
        }],
        ..ActionResult::default()
    };
    let instance = InstanceName::default();
    cache.put(&instance, action, result).await.unwrap();
    assert!(cache.get(&instance, action).await.unwrap().is_none());
    store
        .write(output, one_chunk(b"output".to_vec().into()))
        .await
        .unwrap();
    assert!(cache.get(&instance, action).await.unwrap().is_some());
}

/// A worker that was told to end delivers its result, and is told that it is recorded before its stream ends.
#[tokio::test]
async fn bb_remote_execution_220_the_last_result_of_a_worker_is_kept() {
    let farm = Farm::start().await;
    let action = farm.action("a").await;
    let mut operations = farm.execute(action).await.unwrap();
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let lease = worker.assigned().await.lease;
    worker.drain().await;
    worker.complete(&lease, exited(0)).await;
    assert_eq!(worker.acknowledged().await, lease);
    assert!(
        farm.action_cache.result(action).is_some(),
        "it was recorded before"
    );
    assert!(worker.next().await.unwrap().is_none(), "then the stream ends");
    assert_eq!(operations.response().await.result.unwrap().exit_code, 0);
}

/// A failure of the machinery is not the client's: the Action runs elsewhere.
#[tokio::test]
async fn bb_remote_execution_77_a_workers_failure_is_tried_again() {
    let farm = Farm::start().await;
    let mut operations = farm.execute(farm.action("a").await).await.unwrap();
    let mut broken = FakeWorker::connect(&farm, "broken", 1).await;
    let lease = broken.assigned().await.lease;
    broken
        .complete(&lease, failed(Code::Aborted, "no space left on device"))
        .await;
    assert_eq!(broken.acknowledged().await, lease);
    let mut whole = FakeWorker::connect(&farm, "whole", 1).await;
    whole.run(exited(0)).await;
    assert_eq!(operations.response().await.result.unwrap().exit_code, 0);
}
