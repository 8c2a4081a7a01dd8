use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::blob_store::read_whole;
use crate::decorators::tiered_blob_store::TieredBlobStore;
use crate::media::http_cache::tests::{ScriptedServer, TestHttpServer};
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::{model, noise, sha256};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn behaves_like_every_store_through_a_real_server(
        steps in prop::collection::vec(model::step(), 1..30),
        ranges in prop::bool::ANY,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = TestHttpServer::start(ranges, None).await;
            let open = async |_: Option<HttpBlobStore>| HttpBlobStore::new(server.cache());
            model::run(steps, open).await;
        });
    }
}

fn answer(status: &str, length: usize, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// Reads through a memory store from a server with these responses; nothing may stay in the memory store.
async fn read_through(digest: Digest, answers: &[&str], hangs: bool) -> (Error, usize) {
    let server = ScriptedServer::start(answers, hangs).await;
    // Short only if it has to expire: a busy machine responds late.
    let timeout = Duration::from_millis(if hangs { 300 } else { 60_000 });
    let remote = HttpBlobStore::new(server.cache(timeout));
    let fast = Arc::new(MemoryBlobStore::default());
    let store = TieredBlobStore::write_through(Arc::clone(&fast) as _, Arc::new(remote));
    let error = read_whole(&store, digest).await.unwrap_err();
    assert_eq!(
        fast.find_missing(&[digest]).await.unwrap(),
        [digest],
        "stored above: {error}"
    );
    (error, server.connections.load(Ordering::SeqCst))
}

#[tokio::test]
async fn wrong_bytes_are_detected_before_the_last_of_them() {
    let digest = sha256(b"hello");
    let (error, tries) = read_through(digest, &[&answer("200 OK", 5, "HELLO")], false).await;
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error:?}");
    assert_eq!(tries, 1);
}

#[tokio::test]
async fn wrong_length_fails_without_another_attempt() {
    let digest = sha256(b"hello");
    let (error, tries) = read_through(digest, &[&answer("200 OK", 6, "hello!")], false).await;
    let faulty = matches!(
        error,
        Error::BackEnd {
            failure: BackEndFailure::Faulty,
            ..
        }
    );
    assert!(faulty && tries == 1, "{error:?}");
}

#[tokio::test]
async fn short_bodies_and_server_errors_are_repeated() {
    let digest = sha256(b"hello");
    for answer in [
        answer("200 OK", 5, ""),
        answer("500 Oh", 0, ""),
        answer("503 Busy", 4, "busy"),
    ] {
        let (error, tries) = read_through(digest, &[&answer], false).await;
        let unavailable = matches!(
            error,
            Error::BackEnd {
                failure: BackEndFailure::Unavailable,
                ..
            }
        );
        assert!(unavailable && tries == 5, "{tries} {error:?}");
    }
}

#[tokio::test]
async fn hanging_response_ends_with_the_timeout() {
    let digest = sha256(b"hello");
    let (error, _) = read_through(digest, &[&answer("200 OK", 5, "h")], true).await;
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
async fn read_continues_where_it_broke() {
    let rest = "HTTP/1.1 206 Partial\r\nContent-Range: bytes 2-4/5\r\nContent-Length: 3\r\nConnection: close\r\n\r\nllo";
    let answers = [answer("200 OK", 5, "he"), answer("503 Busy", 0, ""), rest.into()];
    let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
    let server = ScriptedServer::start(&answers, false).await;
    let store = HttpBlobStore::new(server.cache(Duration::from_secs(10)));
    assert_eq!(read_whole(&store, sha256(b"hello")).await.unwrap(), "hello");
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn parts_are_right_with_and_without_server_ranges() {
    for ranges in [true, false] {
        let server = TestHttpServer::start(ranges, None).await;
        let store = HttpBlobStore::new(server.cache());
        let digest = sha256(b"hello");
        store.write(digest, one_chunk("hello".into())).await.unwrap();
        for (offset, limit, part) in [
            (0, Some(2), "he"),
            (1, Some(3), "ell"),
            (3, None, "lo"),
            (5, None, ""),
        ] {
            let stream = store.read(digest, BlobRange { offset, limit }).await.unwrap();
            assert_eq!(collect(stream).await.unwrap(), part);
        }
    }
}

#[tokio::test]
async fn absent_server_is_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let cache = HttpCache::new(crate::HttpCacheOptions::new(url)).unwrap();
    let error = HttpBlobStore::new(cache)
        .find_missing(&[sha256(b"x")])
        .await
        .unwrap_err();
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
async fn failed_or_wrong_source_stores_nothing() {
    let server = TestHttpServer::start(true, None).await;
    let store = HttpBlobStore::new(server.cache());
    let blob = Bytes::from(noise(1, 3 << 20));
    let digest = sha256(&blob);
    let torn = vec![
        Ok(blob.slice(..2 << 20)),
        Err(Error::InvalidArgument("torn".into())),
    ];
    let error = store
        .write(digest, futures::stream::iter(torn).boxed())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    let mut wrong = blob.to_vec();
    wrong[3_000_000] ^= 1;
    let error = store.write(digest, one_chunk(wrong.into())).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error:?}");
    assert!(server.state.files.lock().is_empty());
    store.write(digest, one_chunk(blob.clone())).await.unwrap();
    assert!(read_whole(&store, digest).await.unwrap() == blob);
}

#[tokio::test]
async fn find_missing_requests_each_digest_once() {
    let server = TestHttpServer::start(true, None).await;
    let store = HttpBlobStore::new(server.cache());
    let blobs: Vec<(Digest, Bytes)> = (0..1000_u32)
        .map(|number| Bytes::copy_from_slice(&number.to_le_bytes()))
        .map(|blob| (sha256(&blob), blob))
        .collect();
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    assert!(
        store
            .write_batch(blobs[..500].to_vec())
            .await
            .iter()
            .all(Result::is_ok)
    );
    server.state.requests.lock().clear();
    let twice = [digests.clone(), digests.clone()].concat();
    assert_eq!(store.find_missing(&twice).await.unwrap(), digests[500..]);
    assert_eq!(server.state.requests.lock().len(), 1000);
}
