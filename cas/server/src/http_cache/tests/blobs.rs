use bitzel_cas::blob_store::BlobStream;
use bitzel_proto::DigestFunction;

use super::*;

#[tokio::test]
async fn a_blob_comes_back_under_every_instance() {
    let server = TestServer::start().await;
    let blob = noise(1, 3 << 20);
    let digest = sha256(&blob);
    server.get(&cas(digest)).await.is(404);
    server.head(&cas(digest)).await.is(404);
    server
        .put(&format!("/team/a{}", cas(digest)), blob.clone())
        .await
        .is(200);
    assert_eq!(read_whole(&*server.store, digest).await.unwrap(), blob);
    let answer = server.get(&cas(digest)).await.is(200);
    assert_eq!(answer.header("content-length"), blob.len().to_string());
    assert!(answer.body == blob);
    let answer = server.head(&format!("/other{}", cas(digest))).await.is(200);
    assert_eq!(answer.header("content-length"), blob.len().to_string());
    assert_eq!(answer.body, "");
}

#[tokio::test]
async fn a_blob_written_by_grpc_is_found_by_its_hash_alone() {
    let server = TestServer::start().await;
    for function in DigestFunction::ALL {
        let blob = Bytes::from_static(b"from elsewhere");
        let digest = function.digest(&blob);
        server.store.write(digest, one_chunk(blob.clone())).await.unwrap();
        let segment = function
            .resource_segment()
            .map_or(String::new(), |segment| format!("{segment}/"));
        let path = format!("/cas/{segment}{}", digest.hash_hex());
        assert_eq!(server.get(&path).await.is(200).body, blob);
        server.put(&path, blob).await.is(200);
    }
}

#[tokio::test]
async fn the_empty_blob_is_always_there() {
    let server = TestServer::start().await;
    let path = cas(sha256(b""));
    assert_eq!(server.get(&path).await.is(200).body, "");
    assert_eq!(server.head(&path).await.is(200).header("content-length"), "0");
    server.put(&path, "").await.is(200);
    server.put(&path, "x").await.is(400);
}

#[tokio::test]
async fn refuses_a_wrong_blob_with_both_digests() {
    let server = TestServer::start().await;
    let (right, wrong) = (sha256(b"right"), sha256(b"wrong"));
    for answer in [
        server.put(&cas(right), "wrong").await,
        server.put(&cas(right), chunked(b"wrong")).await,
        server
            .put_with(&cas(right), &[("content-encoding", "zstd")], zstd(b"wrong"))
            .await,
        server
            .put_with(&cas(right), &[("x-digest-sizebytes", "4")], "wrong")
            .await,
    ] {
        let text = answer.is(400).text();
        assert!(text.contains(&right.hash_hex()), "{text}");
    }
    assert!(!server.has(right).await && !server.has(wrong).await);
}

fn zstd(blob: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(blob, 3).unwrap()
}

#[tokio::test]
async fn blobs_travel_compressed_both_ways() {
    let server = TestServer::start().await;
    let blob = noise(2, 100_000).repeat(30);
    let digest = sha256(&blob);
    let encoding = ("content-encoding", "zstd");
    let size = blob.len().to_string();
    server
        .put_with(
            &cas(digest),
            &[encoding, ("x-digest-sizebytes", &size)],
            zstd(&blob),
        )
        .await
        .is(200);
    let answer = server
        .get_with(&cas(digest), &[("accept-encoding", "gzip, zstd")])
        .await
        .is(200);
    assert_eq!(answer.header("content-encoding"), "zstd");
    assert!(answer.body.len() < blob.len() / 10);
    assert!(::zstd::decode_all(&answer.body[..]).unwrap() == blob);
    let answer = server.get(&cas(digest)).await.is(200);
    assert_eq!(answer.header("content-encoding"), "");
    assert!(answer.body == blob);
}

#[tokio::test]
async fn a_blob_of_unknown_size_is_taken_and_leaves_no_file() {
    let server = TestServer::start().await;
    for (seed, size) in [(3, 0), (4, 10), (5, 3_000_000)] {
        let blob = noise(seed, size);
        server.put(&cas(sha256(&blob)), chunked(&blob)).await.is(200);
        let other = noise(seed + 10, size);
        server
            .put_with(
                &cas(sha256(&other)),
                &[("content-encoding", "zstd")],
                zstd(&other),
            )
            .await
            .is(200);
        assert!(server.get(&cas(sha256(&blob))).await.is(200).body == blob);
        assert!(server.get(&cas(sha256(&other))).await.is(200).body == other);
    }
    assert_eq!(std::fs::read_dir(server.spool.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn parts_of_a_blob_are_sent_on_request() {
    let server = TestServer::start().await;
    let digest = sha256(b"0123456789");
    server.put(&cas(digest), "0123456789").await.is(200);
    // A part of a compressed blob would be of no use.
    let headers = [("range", "bytes=2-4"), ("accept-encoding", "zstd")];
    let answer = server.get_with(&cas(digest), &headers).await.is(206);
    assert_eq!(answer.body, "234");
    assert_eq!(answer.header("content-range"), "bytes 2-4/10");
    let answer = server
        .get_with(&cas(digest), &[("range", "bytes=10-")])
        .await
        .is(416);
    assert_eq!(answer.header("content-range"), "bytes */10");
    assert_eq!(
        server
            .get_with(&cas(digest), &[("range", "pages=1-2")])
            .await
            .is(200)
            .body,
        "0123456789"
    );
}

#[tokio::test]
async fn keeps_the_connection_after_an_upload_of_a_known_blob() {
    let server = TestServer::start().await;
    let blob = noise(6, 5 << 20);
    for _ in 0..3 {
        server.put(&cas(sha256(&blob)), blob.clone()).await.is(200);
        server.put(&cas(sha256(&blob)), chunked(&blob)).await;
    }
}

/// A store that has no room.
struct FullBlobStore;

#[async_trait::async_trait]
impl BlobStore for FullBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        Ok(digests.to_vec())
    }

    async fn read(&self, digest: Digest, _: bitzel_cas::blob_store::BlobRange) -> Result<BlobStream, Error> {
        Err(Error::NotFound(digest))
    }

    async fn write(&self, digest: Digest, _: BlobStream) -> Result<(), Error> {
        let reason = "the store is full".to_owned();
        Err(Error::NoSpace { digest, reason })
    }

    async fn lease(&self, _: &[Digest]) -> Result<bitzel_cas::Lease, Error> {
        Ok(bitzel_cas::Lease::none())
    }

    async fn resolve(&self, _: bitzel_proto::DigestFunction, _: [u8; 32]) -> Result<Option<Digest>, Error> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_full_store_is_507() {
    let server = TestServer::start_with(Arc::new(FullBlobStore), ServerAccess::open()).await;
    let answer = server.put(&cas(sha256(b"blob")), "blob").await.is(507);
    assert!(answer.text().contains("the store is full"));
    server.put(&ac(sha256(b"key")), "an opaque value").await.is(507);
}
