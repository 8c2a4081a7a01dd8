use bitzel_cas::blob_store::read_whole;
use bitzel_cas::media::memory_blob_store::MemoryBlobStore;
use bitzel_cas::testing::sha256;
use bitzel_proto::InstanceName;

use super::*;
use crate::upload_shares::UploadShares;

fn table() -> (Arc<MemoryBlobStore>, Arc<Uploads>) {
    let store = Arc::new(MemoryBlobStore::default());
    let uploads = Uploads::new(InstanceBlobStores::shared(store.clone()));
    (store, Arc::new(uploads))
}

fn share() -> UploadShare {
    UploadShares::unlimited().begin(&http::Extensions::new())
}

fn resource() -> ResourceName {
    ResourceName::write(InstanceName::default(), "u", sha256(b"0123456789"))
}

#[tokio::test(start_paused = true)]
async fn drops_a_write_that_nobody_resumes() {
    let (_, uploads) = table();
    let resource = resource();
    let mut upload = uploads.open("name", &resource, 0, share()).unwrap();
    upload.push(Bytes::from_static(b"012"), None).await.unwrap();
    drop(upload);
    tokio::time::sleep(PARKED_WRITE_LIFETIME / 2).await;
    assert_eq!(uploads.committed("name"), Some(3));
    let mut upload = uploads.open("name", &resource, 3, share()).unwrap();
    upload.push(Bytes::from_static(b"345"), None).await.unwrap();
    drop(upload);
    tokio::time::sleep(PARKED_WRITE_LIFETIME / 2 + Duration::from_secs(1)).await;
    assert_eq!(uploads.committed("name"), Some(6), "resumed in between");
    tokio::time::sleep(PARKED_WRITE_LIFETIME).await;
    assert_eq!(uploads.committed("name"), None);
    assert!(uploads.open("name", &resource, 6, share()).is_err());
}

#[tokio::test(start_paused = true)]
async fn f21_a_write_counts_in_its_share_until_it_is_forgotten() {
    let (_, uploads) = table();
    let resource = resource();
    let shares = UploadShares::new(10);
    let share = || shares.begin(&http::Extensions::new());
    let mut first = uploads.open("first", &resource, 0, share()).unwrap();
    first.push(Bytes::from_static(b"012345"), None).await.unwrap();
    drop(first);
    let mut second = uploads.open("second", &resource, 0, share()).unwrap();
    second.push(Bytes::from_static(b"0123"), None).await.unwrap();
    assert!(second.push(Bytes::from_static(b"4"), None).await.is_err());
    drop(second);
    tokio::time::sleep(PARKED_WRITE_LIFETIME + Duration::from_secs(1)).await;
    let mut third = uploads.open("third", &resource, 0, share()).unwrap();
    third.push(Bytes::from_static(b"0123456789"), None).await.unwrap();
    third.finish().await.unwrap();
}

#[tokio::test]
async fn two_calls_cannot_feed_one_write() {
    let (store, uploads) = table();
    let resource = resource();
    let mut first = uploads.open("name", &resource, 0, share()).unwrap();
    first.push(Bytes::from_static(b"01234"), None).await.unwrap();
    let Err(second) = uploads.open("name", &resource, 5, share()) else {
        panic!("fed twice");
    };
    assert_eq!(second.code(), tonic::Code::Aborted);
    first.push(Bytes::from_static(b"56789"), None).await.unwrap();
    first.finish().await.unwrap();
    assert_eq!(read_whole(&*store, resource.digest).await.unwrap(), "0123456789");
    assert_eq!(
        uploads.committed("name"),
        None,
        "nothing is kept of a finished write"
    );
}

#[tokio::test]
async fn keeps_a_limited_number_of_parked_writes() {
    let (_, uploads) = table();
    let resource = resource();
    let active = uploads.open("active", &resource, 0, share()).unwrap();
    for number in 0..MAX_PARKED_WRITES + 10 {
        drop(uploads.open(&number.to_string(), &resource, 0, share()).unwrap());
    }
    assert_eq!(uploads.entries.lock().len(), MAX_PARKED_WRITES + 1);
    assert_eq!(uploads.committed("0"), None, "the oldest is gone");
    assert_eq!(
        uploads.committed("active"),
        Some(0),
        "one with a connection stays"
    );
    drop(active);
}

#[tokio::test]
async fn refuses_long_resource_names() {
    let (_, uploads) = table();
    let name = "n".repeat(MAX_NAME_BYTES + 1);
    assert!(uploads.open(&name, &resource(), 0, share()).is_err());
}

/// Store whose writes take no bytes before they are let go on, like those that wait for another writer of the blob.
struct WaitingStore {
    inner: MemoryBlobStore,
    go_on: tokio::sync::Semaphore,
}

#[async_trait::async_trait]
impl bitzel_cas::blob_store::BlobStore for WaitingStore {
    bitzel_cas::forward_blob_store!(inner: find_missing, read, lease, resolve, read_batch, write_batch);

    async fn write(&self, digest: Digest, blob: bitzel_cas::blob_store::BlobStream) -> Result<(), Error> {
        let _turn = self.go_on.acquire().await.unwrap();
        self.inner.write(digest, blob).await
    }
}

#[tokio::test(start_paused = true)]
async fn f23_the_queue_of_a_waiting_write_holds_one_large_chunk() {
    let store = Arc::new(WaitingStore {
        inner: MemoryBlobStore::default(),
        go_on: tokio::sync::Semaphore::new(0),
    });
    let uploads = Arc::new(Uploads::new(InstanceBlobStores::shared(store.clone())));
    let blob = bitzel_cas::testing::noise(1, 4 * SMALL_CHUNK_BYTES + 4);
    let resource = ResourceName::write(InstanceName::default(), "u", sha256(&blob));
    let (first, second) = blob.split_at(2 * SMALL_CHUNK_BYTES + 2);
    let mut upload = uploads.open("name", &resource, 0, share()).unwrap();
    upload.push(Bytes::copy_from_slice(first), None).await.unwrap();
    {
        let second = upload.push(Bytes::copy_from_slice(second), None);
        tokio::pin!(second);
        let early = tokio::time::timeout(Duration::from_hours(1), &mut second).await;
        assert!(early.is_err(), "the queue takes another large chunk");
        store.go_on.add_permits(1);
        second.await.unwrap();
    }
    upload.finish().await.unwrap();
    assert!(read_whole(&*store, resource.digest).await.unwrap() == blob);
}
