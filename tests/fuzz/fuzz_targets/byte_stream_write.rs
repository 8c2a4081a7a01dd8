//! Uploads from clients through the whole gRPC service: after any sequence of requests, plain or zstd, the store has the
//! right bytes of the blob or none.

#![no_main]

use std::convert::Infallible;
use std::sync::Arc;

use bitzel_cas::blob_store::read_whole;
use bitzel_cas_server::services::ByteStreamService;
use bitzel_cas::{BlobStore, MemoryBlobStore, VerifyingBlobStore};
use bitzel_proto::DigestFunction;
use bitzel_proto::google::bytestream::WriteRequest;
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tonic::body::Body;
use tower::ServiceExt as _;

#[derive(Debug, arbitrary::Arbitrary)]
struct Input {
    /// The blob of the client's digest.
    blob: Vec<u8>,
    /// Added to the blob's size in the resource name.
    size_error: u8,
    zstd: bool,
    /// The chunks that the client sends.
    chunks: Vec<Chunk>,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Chunk {
    /// Arbitrary bytes.
    Any(Vec<u8>),
    /// The next bytes of the blob.
    Honest(u8),
    /// The same request with another offset.
    Offset(i64),
    Finish,
}

fn frame(request: &WriteRequest, frames: &mut BytesMut) {
    frames.put_u8(0);
    frames.put_u32(u32::try_from(request.encoded_len()).expect("small"));
    request.encode(frames).expect("room grows");
}

fuzz_target!(|input: Input| {
    let digest = DigestFunction::Sha256.digest(&input.blob);
    let size = digest.size_bytes() + u64::from(input.size_error);
    let kind = if input.zstd { "compressed-blobs/zstd" } else { "blobs" };
    let resource_name = format!("uploads/u/{kind}/{}/{size}", digest.hash_hex());
    let mut rest = input.blob.as_slice();
    let mut offset = 0;
    let mut frames = BytesMut::new();
    for chunk in input.chunks {
        let mut request = WriteRequest {
            resource_name: resource_name.clone(),
            write_offset: offset,
            ..WriteRequest::default()
        };
        match chunk {
            Chunk::Any(data) => request.data = data,
            Chunk::Honest(length) => {
                let (next, later) = rest.split_at(usize::from(length).min(rest.len()));
                rest = later;
                request.data = next.to_vec();
            }
            Chunk::Offset(other) => request.write_offset = other,
            Chunk::Finish => request.finish_write = true,
        }
        offset += i64::try_from(request.data.len()).expect("small");
        frame(&request, &mut frames);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let memory: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
        let store: Arc<dyn BlobStore> = Arc::new(VerifyingBlobStore::new(Arc::clone(&memory)));
        let body = Full::new(Bytes::from(frames)).map_err(|never: Infallible| match never {});
        let request = http::Request::post("/google.bytestream.ByteStream/Write")
            .header("content-type", "application/grpc")
            .body(Body::new(body))
            .expect("a request");
        let response = ByteStreamService::new(store).into_server().oneshot(request).await;
        let _ = response.expect("tonic answers every request").into_body().collect().await;
        if let Ok(stored) = read_whole(&*memory, digest).await {
            assert_eq!(stored, input.blob, "the store has bytes that do not match the digest");
        }
    });
});
