use bitzel_proto::DigestFunction;
use bitzel_proto::reapi::OutputFile;
use bytes::Bytes;

use super::*;
use crate::blob_store::{one_chunk, read_whole};
use crate::testing::failing_blob_store::FailingBlobStore;
use crate::{MemoryActionCache, MemoryBlobStore};

struct Machine {
    cache: ReadThroughActionCache,
    blobs: Arc<MemoryBlobStore>,
    results: Arc<MemoryActionCache>,
}

fn machine(remote: &Arc<MemoryActionCache>, to: Option<Arc<dyn BlobStore>>) -> Machine {
    let (blobs, results) = (
        Arc::new(MemoryBlobStore::default()),
        Arc::new(MemoryActionCache::default()),
    );
    let cache = ReadThroughActionCache::new(
        results.clone(),
        remote.clone(),
        Arc::new(CircuitBreaker::new("remote")),
    );
    Machine {
        cache: match to {
            Some(to) => cache.with_write_through(blobs.clone(), to),
            None => cache,
        },
        blobs,
        results,
    }
}

/// A result with one small and one large output, both in `store`.
async fn result(store: &MemoryBlobStore) -> (ActionResult, Vec<Digest>) {
    let mut result = ActionResult::default();
    let mut digests = Vec::new();
    for content in [b"small".to_vec(), vec![7; 300 << 10]] {
        let digest = DigestFunction::Sha256.digest(&content);
        store
            .write(digest, one_chunk(Bytes::from(content)))
            .await
            .unwrap();
        result.output_files.push(OutputFile {
            path: digest.to_string(),
            digest: Some(digest.to_wire()),
            ..OutputFile::default()
        });
        digests.push(digest);
    }
    (result, digests)
}

fn action() -> Digest {
    DigestFunction::Sha256.digest(b"action")
}

#[tokio::test]
async fn a_result_is_uploaded_with_its_blobs() {
    let (remote, remote_blobs) = (
        Arc::new(MemoryActionCache::default()),
        Arc::new(MemoryBlobStore::default()),
    );
    let instance = InstanceName::default();
    let one = machine(&remote, Some(remote_blobs.clone()));
    let (result, digests) = result(&one.blobs).await;
    one.cache.put(&instance, action(), result.clone()).await.unwrap();
    one.cache.settled().await;
    for digest in digests {
        let (here, there) = (
            read_whole(&*one.blobs, digest).await,
            read_whole(&*remote_blobs, digest).await,
        );
        assert_eq!(here.unwrap(), there.unwrap());
    }
    let other = machine(&remote, None);
    assert_eq!(other.cache.get(&instance, action()).await.unwrap(), Some(result));
}

#[tokio::test]
async fn without_write_through_nothing_is_uploaded() {
    let remote = Arc::new(MemoryActionCache::default());
    let instance = InstanceName::default();
    let one = machine(&remote, None);
    let (result, _) = result(&one.blobs).await;
    one.cache.put(&instance, action(), result).await.unwrap();
    one.cache.settled().await;
    assert_eq!(remote.get(&instance, action()).await.unwrap(), None);
    assert!(one.results.get(&instance, action()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_result_is_never_uploaded_without_its_blobs() {
    let remote = Arc::new(MemoryActionCache::default());
    let instance = InstanceName::default();
    let one = machine(&remote, Some(Arc::new(FailingBlobStore)));
    let (result, _) = result(&one.blobs).await;
    one.cache.put(&instance, action(), result.clone()).await.unwrap();
    one.cache.settled().await;
    assert_eq!(remote.get(&instance, action()).await.unwrap(), None);
    assert_eq!(
        one.cache.get(&instance, action()).await.unwrap(),
        Some(result),
        "it stays in the local cache"
    );
}
