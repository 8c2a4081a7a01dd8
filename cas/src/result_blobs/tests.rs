use bitzel_proto::reapi::{Directory, FileNode};
use bytes::Bytes;

use prost::Message as _;

use super::*;
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::sha256;

/// Tree and root Directory with `names` names of one blob, in a store.
async fn directory_of_one_blob(store: &MemoryBlobStore, prefix: &str, names: usize) -> OutputDirectory {
    let file = |number: usize| FileNode {
        name: format!("{prefix}{number:07}"),
        digest: Some(sha256(b"x").to_wire()),
        ..FileNode::default()
    };
    let root = Directory {
        files: (0..names).map(file).collect(),
        ..Directory::default()
    };
    let tree = Tree {
        root: Some(root.clone()),
        children: Vec::new(),
    };
    let blobs = [root.encode_to_vec(), tree.encode_to_vec()].map(Bytes::from);
    let [root, tree] = blobs.clone().map(|blob| sha256(&blob));
    for written in store
        .write_batch([root, tree].into_iter().zip(blobs).collect())
        .await
    {
        written.unwrap();
    }
    OutputDirectory {
        tree_digest: Some(tree.to_wire()),
        root_directory_digest: Some(root.to_wire()),
        ..OutputDirectory::default()
    }
}

async fn needed(store: &MemoryBlobStore, directories: Vec<OutputDirectory>) -> Result<ResultDigests, Error> {
    let result = ActionResult {
        output_directories: directories,
        ..ActionResult::default()
    };
    let blobs = ResultBlobs::default();
    blobs.needed(store, DigestFunction::Sha256, &result).await
}

#[tokio::test]
async fn f21_a_directory_that_is_named_often_counts_once() {
    let store = MemoryBlobStore::default();
    let directory = directory_of_one_blob(&store, "", 5_000).await;
    // With each occurrence these are a billion names.
    let needed = needed(&store, vec![directory; 100_000]).await.unwrap();
    assert_eq!(needed.digests.len(), 3, "Tree, root and the file");
}

#[tokio::test]
async fn f21_few_large_results_are_looked_at_at_a_time() {
    let store = MemoryBlobStore::default();
    let directory = directory_of_one_blob(&store, "", LARGE_RESULT_BLOBS).await;
    let result = ActionResult {
        output_directories: vec![directory],
        ..ActionResult::default()
    };
    let blobs = ResultBlobs::default();
    let needed = || blobs.needed(&store, DigestFunction::Sha256, &result);
    let mut held = Vec::new();
    for _ in 0..MAX_CONCURRENT_LARGE_RESULTS {
        held.push(needed().await.unwrap());
    }
    let mut waiting = Box::pin(needed());
    assert!(futures::poll!(&mut waiting).is_pending());
    let small = ActionResult::default();
    let small = blobs.needed(&store, DigestFunction::Sha256, &small).await;
    assert!(small.unwrap().digests.is_empty());
    held.pop();
    waiting.await.unwrap();
}

#[tokio::test]
async fn f21_names_in_different_trees_are_added_up() {
    let store = MemoryBlobStore::default();
    let mut needed = NeededBlobs::default();
    let blobs = ResultBlobs::default();
    for prefix in ["a", "b"] {
        let directory = directory_of_one_blob(&store, prefix, 100).await;
        let added = blobs.add_directory(&store, DigestFunction::Sha256, &directory, &mut needed);
        added.await.unwrap();
    }
    // Those of each Tree, and of each root Directory, with the digests of the messages.
    assert_eq!((needed.names, needed.blobs.len()), (404, 5));
    needed.names = MAX_RESULT_NAMES;
    let directory = directory_of_one_blob(&store, "c", 1).await;
    let added = blobs.add_directory(&store, DigestFunction::Sha256, &directory, &mut needed);
    let refused = added.await.unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument(_)), "{refused}");
}

#[test]
fn f21_distinct_blobs_of_a_result_are_bounded() {
    let mut needed = NeededBlobs::default();
    let blob = |number: usize| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        Digest::new(DigestFunction::Sha256, hash, 1)
    };
    for number in 0..MAX_RESULT_BLOBS {
        needed.add(blob(number)).unwrap();
    }
    needed.add(blob(0)).unwrap();
    assert!(needed.add(blob(MAX_RESULT_BLOBS)).is_err());
}
