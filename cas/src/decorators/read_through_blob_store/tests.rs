use super::*;
use crate::MemoryBlobStore;
use crate::blob_store::{one_chunk, read_whole};
use crate::testing::failing_blob_store::{FailingBlobStore, SwitchedBlobStore};

fn blob(text: &'static str) -> (Digest, Bytes) {
    (DigestFunction::Sha256.digest(text.as_bytes()), text.into())
}

fn read_through(local: &Arc<MemoryBlobStore>, remote: Arc<dyn BlobStore>) -> ReadThroughBlobStore {
    ReadThroughBlobStore::new(
        Arc::clone(local) as Arc<dyn BlobStore>,
        remote,
        Arc::new(CircuitBreaker::new("remote")),
    )
}

#[tokio::test]
async fn a_blob_of_the_remote_is_present_and_read_into_the_local() {
    let (local, remote) = (
        Arc::new(MemoryBlobStore::default()),
        Arc::new(MemoryBlobStore::default()),
    );
    let [(there, text), (nowhere, _)] = [blob("there"), blob("nowhere")];
    remote.write(there, one_chunk(text.clone())).await.unwrap();
    let store = read_through(&local, remote);
    assert_eq!(store.find_missing(&[there, nowhere]).await.unwrap(), [nowhere]);
    assert_eq!(local.find_missing(&[there]).await.unwrap(), [there]);
    assert_eq!(read_whole(&store, there).await.unwrap(), text);
    assert_eq!(local.find_missing(&[there]).await.unwrap(), []);
    assert!(matches!(read_whole(&store, nowhere).await, Err(Error::NotFound(digest)) if digest == nowhere));
}

#[tokio::test]
async fn batches_are_completed_from_the_remote() {
    let (local, remote) = (
        Arc::new(MemoryBlobStore::default()),
        Arc::new(MemoryBlobStore::default()),
    );
    let [(here, one), (there, two), (nowhere, _)] = [blob("here"), blob("there"), blob("nowhere")];
    local.write(here, one_chunk(one.clone())).await.unwrap();
    remote.write(there, one_chunk(two.clone())).await.unwrap();
    let blobs = read_through(&local, remote)
        .read_batch(&[nowhere, there, here])
        .await;
    assert!(matches!(blobs[0], Err(Error::NotFound(digest)) if digest == nowhere));
    assert_eq!(*blobs[1].as_ref().unwrap(), two);
    assert_eq!(*blobs[2].as_ref().unwrap(), one);
}

#[tokio::test]
async fn a_remote_that_is_down_fails_no_call() {
    let local = Arc::new(MemoryBlobStore::default());
    let store = read_through(&local, Arc::new(FailingBlobStore));
    let [(here, text), (elsewhere, _)] = [blob("here"), blob("elsewhere")];
    store.write(here, one_chunk(text.clone())).await.unwrap();
    assert_eq!(store.find_missing(&[here, elsewhere]).await.unwrap(), [elsewhere]);
    assert_eq!(read_whole(&store, here).await.unwrap(), text);
    assert!(matches!(
        read_whole(&store, elsewhere).await,
        Err(Error::NotFound(_))
    ));
    let blobs = store.read_batch(&[elsewhere, here]).await;
    assert!(matches!(blobs[0], Err(Error::NotFound(_))));
    assert_eq!(*blobs[1].as_ref().unwrap(), text);
}

#[tokio::test(start_paused = true)]
async fn a_remote_that_recovers_is_used_again_after_a_while() {
    let local = Arc::new(MemoryBlobStore::default());
    let memory = Arc::new(MemoryBlobStore::default());
    let (there, text) = blob("there");
    memory.write(there, one_chunk(text)).await.unwrap();
    let remote = SwitchedBlobStore::new(memory);
    let store = read_through(&local, remote.clone());
    remote.set_down(true);
    assert_eq!(store.find_missing(&[there]).await.unwrap(), [there]);
    remote.set_down(false);
    assert_eq!(
        store.find_missing(&[there]).await.unwrap(),
        [there],
        "the circuit breaker is open"
    );
    tokio::time::advance(std::time::Duration::from_secs(31)).await;
    assert_eq!(store.find_missing(&[there]).await.unwrap(), []);
}

/// Remote that lists every blob and has wrong bytes for each.
struct LyingBlobStore;

#[async_trait]
impl BlobStore for LyingBlobStore {
    async fn find_missing(&self, _: &[Digest]) -> Result<Vec<Digest>, Error> {
        Ok(vec![])
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let size = usize::try_from(digest.size_bytes() - range.offset).unwrap();
        Ok(one_chunk(vec![b'?'; size].into()))
    }

    async fn write(&self, _: Digest, _: BlobStream) -> Result<(), Error> {
        unreachable!("reads write to the local store alone")
    }

    async fn lease(&self, _: &[Digest]) -> Result<crate::blob_store::Lease, Error> {
        unreachable!("leases are the local store's")
    }

    async fn resolve(&self, _: DigestFunction, _: [u8; 32]) -> Result<Option<Digest>, Error> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_wrong_blob_is_missing_until_it_is_written() {
    let [(first, text), (second, _)] = [blob("first"), blob("second")];
    let local = Arc::new(MemoryBlobStore::default());
    let verifying = Arc::new(crate::VerifyingBlobStore::new(Arc::new(LyingBlobStore)));
    let store = read_through(&local, verifying);
    assert_eq!(store.find_missing(&[first, second]).await.unwrap(), []);
    let error = read_whole(&store, first).await.unwrap_err();
    assert!(
        matches!(error, Error::NotFound(digest) if digest == first),
        "{error}"
    );
    // The remote still lists it. Other blobs are not concerned.
    assert_eq!(store.find_missing(&[first, second]).await.unwrap(), [first]);
    let blobs = store.read_batch(&[second]).await;
    assert!(matches!(blobs[0], Err(Error::NotFound(digest)) if digest == second));
    assert_eq!(
        store.find_missing(&[first, second]).await.unwrap(),
        [first, second]
    );
    store.write(first, one_chunk(text.clone())).await.unwrap();
    assert_eq!(store.find_missing(&[first, second]).await.unwrap(), [second]);
    assert_eq!(read_whole(&store, first).await.unwrap(), text);
}

#[tokio::test]
async fn a_part_of_a_wrong_blob_is_not_delivered() {
    let (digest, _) = blob("text of the blob");
    let local = Arc::new(MemoryBlobStore::default());
    let verifying = Arc::new(crate::VerifyingBlobStore::new(Arc::new(LyingBlobStore)));
    let store = read_through(&local, verifying);
    let range = BlobRange {
        offset: 5,
        limit: Some(2),
    };
    let error = store.read(digest, range).await.err().unwrap();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
}
