//! `/cas/{hash}`: blobs.

use axum::body::Body;
use bitzel_access::{Permission, ResponseMemory};
use bitzel_cas::blob_store::BlobStream;
use bitzel_cas::blob_store::chunk_limit::{open_within, stream_within};
use bitzel_cas::compression::{Decompressor, compressed, decompressed};
use bitzel_cas::error::Error;
use bitzel_proto::{Digest, DigestFunction};
use faster_hex::hex_string;
use http::{HeaderValue, Response, StatusCode, header};
use tonic::Status;

use super::body::{bytes_of, empty, stream_of, text};
use super::encoding::{RequestedPart, UploadEncoding, accepts_zstd};
use super::{CacheRequest, HttpCacheService};
use crate::upload_memory::UploadMemory;

impl HttpCacheService {
    pub(super) async fn get_blob(
        &self,
        request: &CacheRequest,
        function: DigestFunction,
        hash: [u8; 32],
    ) -> Result<Response<Body>, Status> {
        request.authorize(Permission::CasRead)?;
        let empty_blob = function.digest(&[]);
        let found = if *empty_blob.hash() == hash {
            Some(empty_blob)
        } else {
            self.store(request).resolve(function, hash).await?
        };
        let digest = found
            .ok_or_else(|| Status::not_found(format!("blob {} is not in the store", hex_string(&hash))))?;
        self.send(request, digest).await
    }

    /// Answers a GET or HEAD of a blob that the store probably has.
    pub(super) async fn send(
        &self,
        request: &CacheRequest,
        digest: Digest,
    ) -> Result<Response<Body>, Status> {
        let size = digest.size_bytes();
        let part = RequestedPart::of(&request.headers, size);
        let is_zstd = part == RequestedPart::Whole && accepts_zstd(&request.headers);
        if part == RequestedPart::Beyond {
            let mut response = text(
                StatusCode::RANGE_NOT_SATISFIABLE,
                &format!("the blob has {size} bytes; none of them are in the range"),
            );
            let range = HeaderValue::try_from(format!("bytes */{size}"));
            insert(&mut response, header::CONTENT_RANGE, range);
            return Ok(response);
        }
        let (blob, memory) = if request.is_head() {
            // Clients rely on the answer to a HEAD as on that of FindMissingBlobs.
            if !self.store(request).find_missing(&[digest]).await?.is_empty() {
                return Err(Error::NotFound(digest).into());
            }
            (None, None)
        } else {
            let memory = ResponseMemory::for_download(&request.extensions, size, is_zstd).await?;
            let store = self.store(request);
            let blob = open_within(memory.chunk_limit(), store.read(digest, part.range())).await?;
            let limit = memory.clone();
            (
                Some(stream_within(move || limit.chunk_limit(), blob)),
                Some(memory),
            )
        };
        let length = match part {
            RequestedPart::Bytes { length, .. } => length,
            _ => size,
        };
        let mut response = match blob {
            Some(blob) if is_zstd => bytes_of(compressed(blob)?, None),
            Some(blob) => bytes_of(blob, Some(length)),
            None => {
                // The answer to a HEAD has no body, so the length is set here.
                let mut response = bytes_of(nothing(), Some(0));
                if !is_zstd {
                    insert(
                        &mut response,
                        header::CONTENT_LENGTH,
                        Ok(HeaderValue::from(length)),
                    );
                }
                response
            }
        };
        if let Some(memory) = memory {
            response.extensions_mut().insert(memory);
        }
        let headers = response.headers_mut();
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if is_zstd {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        }
        if let RequestedPart::Bytes { offset, length } = part {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {offset}-{}/{size}", offset + length - 1);
            insert(&mut response, header::CONTENT_RANGE, HeaderValue::try_from(range));
        }
        Ok(response)
    }

    pub(super) async fn put_blob(
        &self,
        request: &CacheRequest,
        body: Body,
        function: DigestFunction,
        hash: [u8; 32],
    ) -> Result<Response<Body>, Status> {
        request.authorize(Permission::CasWrite)?;
        let upload = UploadEncoding::of(&request.headers)?;
        let uploads = self.uploads.store(&request.instance);
        let Some(size) = upload.size else {
            let value = self.receive(request, body, upload, function).await?;
            let (actual, expected) = (
                value.digest(),
                Digest::new(function, hash, value.digest().size_bytes()),
            );
            if actual != expected {
                return Err(Error::DigestMismatch { expected, actual }.into());
            }
            uploads.write(actual, value.into_stream()).await?;
            return Ok(empty(StatusCode::OK));
        };
        let digest = Digest::new(function, hash, size);
        if !self.store(request).find_missing(&[digest]).await?.is_empty() {
            let blob = if upload.is_zstd {
                let memory = UploadMemory::new(&request.extensions, size);
                decompressed(stream_of(body), Decompressor::new(digest), memory)
            } else {
                stream_of(body)
            };
            let share = self.shares.begin(&request.extensions);
            uploads.write(digest, share.counted(blob)).await?;
        }
        Ok(empty(StatusCode::OK))
    }
}

pub(super) fn nothing() -> BlobStream {
    Box::pin(futures::stream::empty())
}

/// Adds a header with a generated value, or leaves it out if the value is invalid.
pub(super) fn insert(
    response: &mut Response<Body>,
    name: header::HeaderName,
    value: Result<HeaderValue, header::InvalidHeaderValue>,
) {
    if let Ok(value) = value {
        response.headers_mut().insert(name, value);
    }
}
