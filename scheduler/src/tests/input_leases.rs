//! Protection of inputs from eviction while their Actions wait or run.

use std::sync::Arc;

use bitzel_cas::blob_store::one_chunk;
use bitzel_cas::{BlobStore, DiskBlobStore, DiskBlobStoreOptions};
use bitzel_proto::reapi::execution_stage::Value::Executing;
use bitzel_proto::reapi::{Directory, DirectoryNode, FileNode};
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use tempfile::TempDir;

use super::fake_worker::{FakeWorker, exited};
use super::farm::Farm;

const BLOCK_BYTES: u64 = 4096;

async fn write(store: &DiskBlobStore, blob: Vec<u8>) -> Digest {
    let digest = DigestFunction::Sha256.digest(&blob);
    store.write(digest, one_chunk(Bytes::from(blob))).await.unwrap();
    digest
}

/// Writes far more than the store can hold.
async fn flood(store: &DiskBlobStore, from: u64) {
    for number in from..from + 200 {
        write(store, number.to_le_bytes().to_vec()).await;
    }
}

#[tokio::test]
async fn a_flood_evicts_no_input_of_a_waiting_or_running_action() {
    let root = TempDir::new().unwrap();
    let options = DiskBlobStoreOptions {
        limit_bytes: 20 * BLOCK_BYTES,
        free_space_floor_bytes: 0,
        compress: false,
    };
    let store = DiskBlobStore::open(root.path(), options).await.unwrap();
    let farm = Farm::start_on(Arc::new(store.clone())).await;
    let file = write(&store, b"deep in the input root".to_vec()).await;
    let below = Directory {
        files: vec![FileNode {
            name: "file".to_owned(),
            digest: Some(file.into()),
            ..FileNode::default()
        }],
        ..Directory::default()
    };
    let below = farm.upload(&below).await;
    let top = Directory {
        directories: vec![DirectoryNode {
            name: "below".to_owned(),
            digest: Some(below.into()),
        }],
        ..Directory::default()
    };
    let top = farm.upload(&top).await;
    let change = |action: &mut bitzel_proto::reapi::Action| action.input_root_digest = Some(top.into());
    let action = farm.action_with("a", change).await;
    // Shares the tree, and ends earlier.
    let other = farm.action_with("b", change).await;
    let inputs = [action, top, below, file];

    let mut operations = farm.execute(action).await.unwrap();
    let mut others = farm.execute(other).await.unwrap();
    operations.next().await.unwrap();
    others.next().await.unwrap();
    flood(&store, 0).await;
    assert_eq!(store.find_missing(&inputs).await.unwrap(), [], "while it waits");
    let mut worker = FakeWorker::connect(&farm, "w", 1).await;
    let running = worker.assigned().await;
    operations.reach(Executing).await;
    flood(&store, 1000).await;
    assert_eq!(store.find_missing(&inputs).await.unwrap(), [], "while it runs");
    worker.complete(&running.lease, exited(0)).await;
    operations.response().await;
    let running = worker.assigned().await;
    flood(&store, 2000).await;
    assert_eq!(
        store.find_missing(&inputs).await.unwrap(),
        [action],
        "the other Action still leases the tree"
    );
    worker.complete(&running.lease, exited(0)).await;
    others.response().await;
    assert_eq!(store.usage().leased_bytes, 0);
    flood(&store, 3000).await;
    assert_eq!(store.find_missing(&inputs).await.unwrap(), inputs, "afterwards");
}
