use async_trait::async_trait;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::blob_store::{BlobStream, collect, read_whole};
use crate::forward_blob_store;
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::{noise, sha256};

/// Records the calls to it.
#[derive(Default)]
struct RecordingBlobStore {
    inner: MemoryBlobStore,
    calls: Mutex<Vec<(&'static str, usize)>>,
}

#[async_trait]
impl BlobStore for RecordingBlobStore {
    forward_blob_store!(inner: read, lease, resolve);

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        self.calls.lock().push(("find_missing", digests.len()));
        self.inner.find_missing(digests).await
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let blob = collect(blob).await?;
        self.calls.lock().push(("write", blob.len()));
        self.inner.write(digest, one_chunk(blob)).await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let bytes = blobs.iter().map(|(_, blob)| blob.len()).sum();
        self.calls.lock().push(("write_batch", bytes));
        self.inner.write_batch(blobs).await
    }
}

fn in_memory(blob: &[u8]) -> (Digest, BlobSource) {
    (sha256(blob), BlobSource::Bytes(Bytes::copy_from_slice(blob)))
}

#[tokio::test]
async fn only_missing_blobs_are_uploaded_and_each_once() {
    let store = RecordingBlobStore::default();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("large");
    let large = noise(1, 4 << 20);
    std::fs::write(&path, &large).unwrap();
    let (present, source) = in_memory(b"present");
    upload_missing(&store, [(present, source)]).await.unwrap();
    store.calls.lock().clear();

    let small = directory.path().join("small");
    std::fs::write(&small, "small file").unwrap();
    let blobs = [
        in_memory(b"present"),
        in_memory(b""),
        in_memory(b"twice"),
        in_memory(b"twice"),
        (sha256(b"small file"), BlobSource::File(small)),
        (sha256(&large), BlobSource::File(path)),
    ];
    let summary = upload_missing(&store, blobs).await.unwrap();
    let bytes = 5 + 10 + (4 << 20);
    assert_eq!(summary, UploadSummary { blobs: 3, bytes });
    assert_eq!(read_whole(&store, sha256(&large)).await.unwrap(), large);
    assert_eq!(
        read_whole(&store, sha256(b"small file")).await.unwrap(),
        "small file"
    );
    let mut calls = store.calls.lock().clone();
    calls.sort_unstable();
    assert_eq!(
        calls,
        [("find_missing", 5), ("write", 4 << 20), ("write_batch", 15)]
    );
}

#[tokio::test]
async fn many_small_blobs_go_in_batches_below_the_message_limit() {
    let store = RecordingBlobStore::default();
    let blobs: Vec<_> = (0..20).map(|seed| in_memory(&noise(seed, 500_000))).collect();
    upload_missing(&store, blobs).await.unwrap();
    let calls = store.calls.lock().clone();
    assert_eq!(calls.len(), 1 + 4, "{calls:?}");
    assert!(
        calls[1..]
            .iter()
            .all(|(call, bytes)| *call == "write_batch" && *bytes <= 3 << 20),
        "{calls:?}"
    );
}

#[tokio::test]
async fn a_file_that_changed_or_is_gone_fails_the_upload() {
    let store = MemoryBlobStore::default();
    let directory = TempDir::new().unwrap();
    for size in [10, 2 << 20] {
        let path = directory.path().join("file");
        let announced = noise(1, size);
        for content in [noise(2, size), noise(1, size + 1), noise(1, size - 1)] {
            std::fs::write(&path, content).unwrap();
            let blob = (sha256(&announced), BlobSource::File(path.clone()));
            let result = upload_missing(&store, [blob]).await;
            assert!(matches!(result, Err(Error::DigestMismatch { .. })), "{result:?}");
        }
        let gone = (
            sha256(&announced),
            BlobSource::File(directory.path().join("gone")),
        );
        let error = upload_missing(&store, [gone]).await.unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
    }
}

#[tokio::test]
async fn an_upload_can_be_spawned() {
    let store: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
    let upload = tokio::spawn(async move { upload_missing(&*store, vec![in_memory(b"blob")]).await });
    assert_eq!(upload.await.unwrap().unwrap().blobs, 1);
}

#[tokio::test]
async fn blobs_of_another_store_are_uploaded_in_batches() {
    let (from, store) = (
        Arc::new(MemoryBlobStore::default()),
        RecordingBlobStore::default(),
    );
    let blobs = [noise(1, 10), noise(2, 20), noise(3, 2 << 20)];
    for blob in &blobs {
        let digest = sha256(blob);
        from.write(digest, one_chunk(blob.clone().into())).await.unwrap();
    }
    let source = |digest: Digest| (digest, BlobSource::Store(from.clone()));
    let here = in_memory(b"in memory");
    let all = blobs.iter().map(|blob| source(sha256(blob))).chain([here]);
    let summary = upload_missing(&store, all).await.unwrap();
    assert_eq!(summary.blobs, 4);
    let mut calls = store.calls.lock().clone();
    calls.sort_unstable();
    assert_eq!(
        calls,
        [("find_missing", 4), ("write", 2 << 20), ("write_batch", 39)]
    );
    for blob in &blobs {
        assert!(read_whole(&store.inner, sha256(blob)).await.unwrap() == *blob);
    }
    let lost = sha256(b"lost");
    let error = upload_missing(&store, [source(lost)]).await.unwrap_err();
    assert!(
        matches!(error, Error::NotFound(digest) if digest == lost),
        "{error}"
    );
}
