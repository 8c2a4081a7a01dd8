use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::S3Options;
use crate::blob_store::read_whole;
use crate::decorators::tiered_blob_store::TieredBlobStore;
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::media::s3_bucket::tests::{BUCKET, TestS3Server};
use crate::testing::{model, noise, sha256};

async fn store(server: &TestS3Server) -> S3BlobStore {
    S3BlobStore::new(server.bucket().await)
}

/// Files of the bucket, and parts of unfinished uploads.
fn files(server: &TestS3Server) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![server.directory.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                found.push(path.display().to_string());
            }
        }
    }
    // The server has JSON files of its own.
    found.retain(|path| !path.contains("json"));
    found
}

fn many(numbers: std::ops::Range<u32>) -> Vec<(Digest, Bytes)> {
    let blobs = numbers.map(|number| Bytes::copy_from_slice(&number.to_le_bytes()));
    blobs.map(|blob| (sha256(&blob), blob)).collect()
}

fn digests(blobs: &[(Digest, Bytes)]) -> Vec<Digest> {
    let mut digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    digests.sort_unstable();
    digests
}

fn sorted(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort_unstable();
    digests
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn behaves_like_every_store_through_a_real_server(steps in prop::collection::vec(model::step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = TestS3Server::start().await;
            let open = async |_: Option<S3BlobStore>| store(&server).await;
            model::run(steps, open).await;
        });
    }
}

#[tokio::test]
async fn large_blobs_are_written_in_parts_and_read_in_ranges() {
    let server = TestS3Server::start().await;
    let store = store(&server).await;
    let blob = Bytes::from(noise(1, 21 << 20));
    let digest = sha256(&blob);
    let chunks: Vec<Result<Bytes, Error>> = blob
        .chunks(1_000_000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    server.state.requests.lock().clear();
    store
        .write(digest, futures::stream::iter(chunks).boxed())
        .await
        .unwrap();
    assert_eq!(server.state.take("PUT"), 3, "8 + 8 + 5 MiB");
    assert!(read_whole(&store, digest).await.unwrap() == blob);
    let range = BlobRange {
        offset: 9_999_999,
        limit: Some(1_234_567),
    };
    let read = collect(store.read(digest, range).await.unwrap()).await.unwrap();
    assert!(read == blob[9_999_999..9_999_999 + 1_234_567]);
    server.state.requests.lock().clear();
    store
        .write(digest, futures::stream::pending().boxed())
        .await
        .unwrap();
    assert_eq!(server.state.take("POST"), 0, "the blob is present already");
}

#[tokio::test]
async fn failed_upload_leaves_no_part_behind() {
    let server = TestS3Server::start().await;
    let store = store(&server).await;
    let blob = Bytes::from(noise(1, 20 << 20));
    let digest = sha256(&blob);
    let head = |bytes: usize| Ok(blob.slice(..bytes));
    let torn = vec![head(17 << 20), Err(Error::InvalidArgument("torn".into()))];
    let error = store
        .write(digest, futures::stream::iter(torn).boxed())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    let mut wrong = blob.to_vec();
    wrong[19 << 20] ^= 1;
    let error = store.write(digest, one_chunk(wrong.into())).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error:?}");
    for refused in ["partNumber=2", "POST /some-bucket/some/prefix/cas/sha256"] {
        *server.state.refused.lock() = Some(refused);
        let error = store.write(digest, one_chunk(blob.clone())).await.unwrap_err();
        assert!(matches!(error, Error::BackEnd { .. }), "{error:?}");
    }
    *server.state.refused.lock() = None;
    assert_eq!(files(&server), Vec::<String>::new());
    assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
}

#[tokio::test]
async fn abandoned_upload_is_aborted() {
    let server = TestS3Server::start().await;
    let store = store(&server).await;
    let blob = Bytes::from(noise(1, 20 << 20));
    let head = one_chunk(blob.slice(..17 << 20))
        .chain(futures::stream::pending())
        .boxed();
    let write = store.write(sha256(&blob), head);
    tokio::select! {
        written = write => panic!("{written:?}"),
        () = server.state.wait_for(2, |request| request.contains("partNumber")) => {}
    }
    // The write is dropped now, which starts the abort.
    server
        .state
        .wait_for(1, |request| request.starts_with("DELETE"))
        .await;
}

#[tokio::test]
async fn requests_to_a_busy_server_are_repeated() {
    let server = TestS3Server::start().await;
    let store = store(&server).await;
    let digest = sha256(b"blob");
    server.state.busy.store(2, Ordering::SeqCst);
    store.write(digest, one_chunk("blob".into())).await.unwrap();
    server.state.busy.store(1000, Ordering::SeqCst);
    let error = read_whole(&store, digest).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::BackEnd {
                failure: BackEndFailure::Unavailable,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(store.find_missing(&[digest]).await.is_err());
}

#[tokio::test]
async fn broken_read_continues_unless_it_always_breaks() {
    let server = TestS3Server::start().await;
    let store = store(&server).await;
    let blob = Bytes::from(noise(1, 100_000));
    let digest = sha256(&blob);
    store.write(digest, one_chunk(blob.clone())).await.unwrap();
    *server.state.cut.lock() = Some(30_000);
    assert!(read_whole(&store, digest).await.unwrap() == blob);
    *server.state.cut.lock() = Some(10);
    let fast = Arc::new(MemoryBlobStore::default());
    let tiered = TieredBlobStore::write_through(Arc::clone(&fast) as _, Arc::new(store));
    let error = read_whole(&tiered, digest).await.unwrap_err();
    assert!(matches!(error, Error::BackEnd { .. }), "{error:?}");
    assert_eq!(fast.find_missing(&[digest]).await.unwrap(), [digest]);
}

#[tokio::test]
async fn hanging_response_ends_with_the_timeout() {
    let server = TestS3Server::start().await;
    let options = S3Options {
        read_timeout: Duration::from_millis(300),
        ..server.options()
    };
    let store = S3BlobStore::new(crate::S3Bucket::open(options).await.unwrap());
    let blob = Bytes::from(noise(1, 100_000));
    let digest = sha256(&blob);
    store.write(digest, one_chunk(blob)).await.unwrap();
    *server.state.cut.lock() = Some(1000);
    server.state.hangs.store(true, Ordering::SeqCst);
    let error = read_whole(&store, digest).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::BackEnd {
                failure: BackEndFailure::Unavailable,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn wrong_bytes_in_the_bucket_are_not_returned() {
    let server = TestS3Server::start().await;
    let store = store(&server).await;
    let digest = sha256(b"right");
    store.write(digest, one_chunk("right".into())).await.unwrap();
    let path = server.directory.path().join(BUCKET).join(store.key(digest));
    for (wrong, is_missing) in [("wrong", false), ("righ", true), ("right!", true)] {
        std::fs::write(&path, wrong).unwrap();
        let error = read_whole(&store, digest).await.unwrap_err();
        assert!(
            matches!(error, Error::DigestMismatch { .. } | Error::BackEnd { .. }),
            "{error:?}"
        );
        assert_eq!(
            !store.find_missing(&[digest]).await.unwrap().is_empty(),
            is_missing,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn many_digests_in_a_small_bucket_need_few_lists() {
    let server = TestS3Server::start().await;
    let store = store(&server).await;
    let blobs = many(0..3000);
    assert!(
        store
            .write_batch(blobs[..2000].to_vec())
            .await
            .iter()
            .all(Result::is_ok)
    );
    server.state.requests.lock().clear();
    let missing = store.find_missing(&digests(&blobs)).await.unwrap();
    assert_eq!(sorted(missing), digests(&blobs[2000..]));
    let requests = server.state.requests.lock().len();
    assert!(
        requests <= 6,
        "{requests} requests for 3000 digests among 2000 objects"
    );
}

#[tokio::test]
async fn few_digests_in_a_large_bucket_need_a_head_each() {
    let server = TestS3Server::start().await;
    let store = store(&server).await;
    let blobs = many(0..1500);
    assert!(
        store
            .write_batch(blobs[..1490].to_vec())
            .await
            .iter()
            .all(Result::is_ok)
    );
    // One page covers two thirds of the bucket, and so 20 of 30 or more; or less, by chance.
    let few = [&blobs[..5], &blobs[1490..]].concat();
    server.state.requests.lock().clear();
    let missing = store.find_missing(&digests(&few)).await.unwrap();
    assert_eq!(sorted(missing), digests(&blobs[1490..]));
    assert_eq!(server.state.take("HEAD"), few.len());
}

#[tokio::test]
async fn old_blobs_are_renewed_when_they_are_looked_up() {
    let server = TestS3Server::start().await;
    let options = S3Options {
        renew_after: Some(Duration::from_hours(24)),
        ..server.options()
    };
    let store = S3BlobStore::new(crate::S3Bucket::open(options).await.unwrap());
    let blobs = many(0..30);
    assert!(store.write_batch(blobs.clone()).await.iter().all(Result::is_ok));
    let path = |digest: Digest| server.directory.path().join(BUCKET).join(store.key(digest));
    let old = std::time::SystemTime::now() - Duration::from_hours(48);
    for asked in [&blobs[..1], &blobs[..]] {
        for (digest, _) in &blobs {
            std::fs::File::options()
                .write(true)
                .open(path(*digest))
                .unwrap()
                .set_modified(old)
                .unwrap();
        }
        assert_eq!(store.find_missing(&digests(asked)).await.unwrap(), []);
        for (index, (digest, blob)) in blobs.iter().enumerate() {
            let modified = std::fs::metadata(path(*digest)).unwrap().modified().unwrap();
            let renewed = modified
                .duration_since(old)
                .is_ok_and(|age| age > Duration::from_hours(24));
            assert_eq!(renewed, index < asked.len());
            assert_eq!(read_whole(&store, *digest).await.unwrap(), *blob);
        }
    }
}

#[tokio::test]
async fn hash_is_resolved_with_one_list() {
    let server = TestS3Server::start().await;
    let store = store(&server).await;
    let (digest, blob) = many(7..8).remove(0);
    let resolve = async || store.resolve(digest.function(), *digest.hash()).await.unwrap();
    assert_eq!(resolve().await, None);
    store.write(digest, one_chunk(blob)).await.unwrap();
    server.state.requests.lock().clear();
    assert_eq!(resolve().await, Some(digest));
    assert_eq!(server.state.take("GET"), 1);
}
