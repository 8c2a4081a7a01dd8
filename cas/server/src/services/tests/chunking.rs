//! Splitting and splicing, through a real server.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bitzel_access::{AccessPolicy, AuthenticationMethod, Caller, Identity, Pattern, Rule};
use bitzel_cas::blob_store::{BlobRange, BlobStream, one_chunk, read_whole};
use bitzel_cas::error::Error;
use bitzel_cas::forward_blob_store;
use bitzel_cas::testing::noise;
use bitzel_proto::reapi::chunking_function::Value as ChunkingFunction;
use bitzel_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use bitzel_proto::reapi::content_addressable_storage_server::ContentAddressableStorage as _;
use bitzel_proto::reapi::{SpliceBlobRequest, SplitBlobRequest};
use tonic::Request;

use super::*;

type Client = ContentAddressableStorageClient<Channel>;

fn client(server: &TestServer) -> Client {
    ContentAddressableStorageClient::new(server.channel.clone())
}

async fn split(client: &mut Client, blob: Digest) -> Result<Vec<Digest>, tonic::Status> {
    let request = SplitBlobRequest {
        instance_name: "team/one".into(),
        blob_digest: Some(blob.to_wire()),
        digest_function: blob.function().to_wire(),
        ..SplitBlobRequest::default()
    };
    let response = client.split_blob(request).await?.into_inner();
    let chunks = response.chunk_digests.iter();
    Ok(chunks
        .map(|chunk| Digest::from_wire(blob.function(), chunk).unwrap())
        .collect())
}

async fn splice(client: &mut Client, blob: Digest, chunks: &[Digest]) -> Result<(), tonic::Status> {
    let request = SpliceBlobRequest {
        instance_name: "team/one".into(),
        blob_digest: Some(blob.to_wire()),
        chunk_digests: chunks.iter().map(Digest::to_wire).collect(),
        digest_function: blob.function().to_wire(),
        chunking_function: ChunkingFunction::FastCdc2020.into(),
    };
    client.splice_blob(request).await?;
    Ok(())
}

async fn add(server: &TestServer, blob: &[u8]) -> Digest {
    let digest = sha256(blob);
    let written = server
        .store
        .write(digest, one_chunk(Bytes::copy_from_slice(blob)));
    written.await.unwrap();
    digest
}

#[tokio::test]
async fn chunks_are_stored_and_make_up_the_blob() {
    let server = TestServer::start().await;
    let blob = noise(1, 9 << 20);
    let digest = add(&server, &blob).await;
    let chunks = split(&mut client(&server), digest).await.unwrap();
    assert!(chunks.len() > 4, "{} chunks", chunks.len());
    let mut whole = Vec::new();
    for chunk in &chunks {
        whole.extend_from_slice(&read_whole(&*server.store, *chunk).await.unwrap());
    }
    assert!(whole == blob);
    for chunk in &chunks[..chunks.len() - 1] {
        assert!((128 << 10..=2 << 20).contains(&chunk.size_bytes()), "{chunk}");
    }
}

/// The cuts must be those of every other implementation, or clients that cut themselves share nothing with the server.
#[tokio::test]
async fn cuts_like_the_library_over_the_whole_blob() {
    let server = TestServer::start().await;
    let blob = noise(2, 20 << 20);
    let digest = add(&server, &blob).await;
    let chunks = split(&mut client(&server), digest).await.unwrap();
    let level = fastcdc::v2020::Normalization::Level2;
    let expected: Vec<Digest> =
        fastcdc::v2020::FastCDC::with_level(&blob, 128 << 10, 512 << 10, 2 << 20, level)
            .map(|chunk| sha256(&blob[chunk.offset..chunk.offset + chunk.length]))
            .collect();
    assert_eq!(chunks, expected);
}

#[tokio::test]
async fn an_edit_in_a_real_file_costs_a_few_chunks() {
    let downloads = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.demo/downloads/libpng-1.6.39.tar.gz");
    let Ok(mut blob) = tokio::fs::read(&downloads).await else {
        println!(
            "SKIPPED: an_edit_in_a_real_file_costs_a_few_chunks: {} is not there",
            downloads.display()
        );
        return;
    };
    // Several copies make it long enough to have many chunks.
    let mut other = noise(3, 6 << 20);
    other.append(&mut blob);
    other.extend(noise(4, 6 << 20));
    let server = TestServer::start().await;
    let mut client = client(&server);
    let before = add(&server, &other).await;
    let before: std::collections::HashSet<Digest> =
        split(&mut client, before).await.unwrap().into_iter().collect();
    let middle = other.len() / 2;
    other.splice(middle..middle, *b"an insertion moves all that follows");
    let after = add(&server, &other).await;
    let after = split(&mut client, after).await.unwrap();
    let new: u64 = after
        .iter()
        .filter(|chunk| !before.contains(chunk))
        .map(Digest::size_bytes)
        .sum();
    println!("{} of {} bytes are new", new, other.len());
    assert!(new <= 4 << 20, "{new} of {} bytes are new", other.len());
}

#[tokio::test]
async fn splices_a_blob_from_old_and_new_chunks() {
    let server = TestServer::start().await;
    let mut client = client(&server);
    let (one, two) = (noise(5, 3 << 20), noise(6, 1 << 20));
    let chunks = [add(&server, &one).await, add(&server, &two).await];
    let blob = [one, two].concat();
    let digest = sha256(&blob);
    splice(&mut client, digest, &chunks).await.unwrap();
    assert!(read_whole(&*server.store, digest).await.unwrap() == blob);
    assert_eq!(
        split(&mut client, digest).await.unwrap(),
        chunks,
        "the mapping is remembered"
    );
}

/// Store in which another writer brings a blob while it is being spliced, so that the splice's own bytes stay unread.
struct OvertakingStore {
    inner: Arc<MemoryBlobStore>,
    blob: Bytes,
    has_overtaken: AtomicBool,
}

#[async_trait]
impl BlobStore for OvertakingStore {
    forward_blob_store!(inner: find_missing, read, lease, resolve, read_batch, write_batch);

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        if digest != sha256(&self.blob) {
            return self.inner.write(digest, blob).await;
        }
        self.has_overtaken.store(true, Ordering::Release);
        self.inner.write(digest, one_chunk(self.blob.clone())).await
    }
}

#[tokio::test]
async fn f23_remembers_no_chunks_that_were_not_checked() {
    let blob = Bytes::from(noise(9, 5 << 20));
    let digest = sha256(&blob);
    let store = Arc::new(OvertakingStore {
        inner: Arc::default(),
        blob: blob.clone(),
        has_overtaken: AtomicBool::new(false),
    });
    let server = TestServer::start_with(Arc::<OvertakingStore>::clone(&store)).await;
    let mut client = client(&server);
    let wrong = [
        add(&server, &noise(10, 3 << 20)).await,
        add(&server, &noise(11, 2 << 20)).await,
    ];
    splice(&mut client, digest, &wrong).await.unwrap();
    assert!(store.has_overtaken.load(Ordering::Acquire));
    let mut whole = Vec::new();
    for chunk in split(&mut client, digest).await.unwrap() {
        whole.extend_from_slice(&read_whole(&*server.store, chunk).await.unwrap());
    }
    assert!(whole == blob, "the chunks are those of the blob");
}

#[tokio::test]
async fn also_splice_blob_verifies_the_digest() {
    let server = TestServer::start().await;
    let mut client = client(&server);
    let chunks = [add(&server, b"one").await, add(&server, b"two").await];
    let wrong = sha256(b"twoone");
    let status = splice(&mut client, wrong, &chunks).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(server.store.find_missing(&[wrong]).await.unwrap(), [wrong]);
    let longer = sha256(b"another length");
    let status = splice(&mut client, longer, &chunks).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let gone = sha256(b"gone");
    let status = splice(&mut client, sha256(b"onegone"), &[chunks[0], gone])
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_mapping_is_forgotten_with_the_first_of_its_chunks() {
    let store = Arc::new(MemoryBlobStore::default());
    let server = TestServer::start_with(Arc::<MemoryBlobStore>::clone(&store)).await;
    let mut client = client(&server);
    let digest = add(&server, &noise(7, 5 << 20)).await;
    let chunks = split(&mut client, digest).await.unwrap();
    store.remove(chunks[1]);
    assert_eq!(split(&mut client, digest).await.unwrap(), chunks);
    assert_eq!(store.find_missing(&chunks).await.unwrap(), [], "cut again");
    store.remove(digest);
    let status = split(&mut client, digest).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
}

#[test]
fn sizes_of_chunks_are_checked() {
    assert!(Chunking::new(64 << 10).is_ok());
    for wrong in [0, 1000, 512, 8 << 20] {
        assert!(
            matches!(Chunking::new(wrong), Err(Error::InvalidArgument(_))),
            "{wrong}"
        );
    }
}

fn split_request(blob: Digest) -> Request<SplitBlobRequest> {
    Request::new(SplitBlobRequest {
        blob_digest: Some(blob.to_wire()),
        ..SplitBlobRequest::default()
    })
}

/// Caller who has `permissions` on all instances.
fn caller(permissions: PermissionSet) -> Caller {
    let identity = Identity {
        name: "somebody".to_owned(),
        groups: Vec::new(),
        method: AuthenticationMethod::Token,
    };
    let rule = Rule {
        identities: vec![Pattern::new("*")],
        instances: vec![Pattern::new("*")],
        allow: permissions,
        ..Rule::default()
    };
    Caller {
        identity: Arc::new(identity),
        policy: Arc::new(AccessPolicy {
            rules: vec![rule],
            ..AccessPolicy::default()
        }),
    }
}

/// Store that counts reads. They never end if `stalls`.
struct ReadingStore {
    inner: MemoryBlobStore,
    stalls: bool,
    reads: AtomicUsize,
}

impl ReadingStore {
    async fn with(blobs: &[Vec<u8>], stalls: bool) -> (Arc<Self>, Vec<Digest>) {
        let store = Self {
            inner: MemoryBlobStore::default(),
            stalls,
            reads: AtomicUsize::new(0),
        };
        let mut digests = Vec::new();
        for blob in blobs {
            let digest = sha256(blob);
            store.write(digest, one_chunk(blob.clone().into())).await.unwrap();
            digests.push(digest);
        }
        (Arc::new(store), digests)
    }
}

#[async_trait::async_trait]
impl BlobStore for ReadingStore {
    forward_blob_store!(inner: find_missing, write, lease, resolve, read_batch, write_batch);

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.stalls {
            return Ok(Box::pin(futures::stream::pending()));
        }
        self.inner.read(digest, range).await
    }
}

#[tokio::test]
async fn f21_a_split_by_a_reader_stores_nothing() {
    let (store, digests) = ReadingStore::with(&[noise(8, 5 << 20)], false).await;
    let store: Arc<dyn BlobStore> = store;
    let cache: Arc<dyn ActionCache> = Arc::new(MemoryActionCache::default());
    let service = ContentAddressableStorageService::new(Arc::clone(&store))
        .with_chunk_mappings(complete(&store, &cache));
    let split = async |permissions: PermissionSet| {
        let mut request = split_request(digests[0]);
        request.extensions_mut().insert(caller(permissions));
        let response = service.split_blob(request).await.unwrap().into_inner();
        let chunks = response.chunk_digests.iter();
        let chunks = chunks.map(|chunk| Digest::from_wire(DigestFunction::Sha256, chunk).unwrap());
        chunks.collect::<Vec<_>>()
    };
    assert_eq!(
        split(PermissionSet::read()).await,
        digests,
        "the blob is its only chunk"
    );
    let chunks = split(PermissionSet::all()).await;
    assert!(chunks.len() > 1);
    assert_eq!(
        split(PermissionSet::read()).await,
        chunks,
        "readers get what is remembered"
    );
}

#[tokio::test]
async fn f21_splits_of_one_blob_cut_it_once() {
    let (store, digests) = ReadingStore::with(&[noise(9, 5 << 20)], false).await;
    // Without mappings, so that only calls at the same time share a cut.
    let service = ContentAddressableStorageService::new(Arc::clone(&store) as Arc<dyn BlobStore>);
    let calls = (0..20).map(|_| service.split_blob(split_request(digests[0])));
    let chunks = futures::future::join_all(calls).await;
    for split in &chunks {
        let split = split.as_ref().unwrap().get_ref();
        assert!(split.chunk_digests.len() > 1);
    }
    assert_eq!(store.reads.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn f21_few_blobs_are_split_at_a_time() {
    let blobs: Vec<Vec<u8>> = (0..10).map(|seed| noise(20 + seed, 3 << 20)).collect();
    let (store, digests) = ReadingStore::with(&blobs, true).await;
    let service = ContentAddressableStorageService::new(Arc::clone(&store) as Arc<dyn BlobStore>);
    let mut calls: futures::stream::FuturesUnordered<_> = digests
        .iter()
        .map(|digest| service.split_blob(split_request(*digest)))
        .collect();
    for _ in 0..8 {
        let split = futures::StreamExt::next(&mut calls).await.unwrap().unwrap();
        assert_eq!(split.get_ref().chunk_digests.len(), 1, "not split");
    }
    assert_eq!(store.reads.load(Ordering::Relaxed), 2);
}

/// Store whose writes find that another client has written the blob in the meantime.
struct RacedStore {
    inner: MemoryBlobStore,
    blob: Vec<u8>,
}

#[async_trait::async_trait]
impl BlobStore for RacedStore {
    forward_blob_store!(inner: find_missing, read, lease, resolve, read_batch, write_batch);

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let others = if digest == sha256(&self.blob) {
            one_chunk(self.blob.clone().into())
        } else {
            blob
        };
        self.inner.write(digest, others).await
    }
}

#[tokio::test]
async fn f21_chunks_that_nobody_checked_are_not_remembered() {
    let blob = noise(30, 5 << 20);
    let digest = sha256(&blob);
    let inner = MemoryBlobStore::default();
    let server = TestServer::start_with(Arc::new(RacedStore { inner, blob })).await;
    let mut client = client(&server);
    let wrong = [
        add(&server, &noise(31, 3 << 20)).await,
        add(&server, &noise(32, 2 << 20)).await,
    ];
    splice(&mut client, digest, &wrong).await.unwrap();
    let chunks = split(&mut client, digest).await.unwrap();
    assert!(!chunks.contains(&wrong[0]) && chunks.len() > 2, "cut anew");
}
