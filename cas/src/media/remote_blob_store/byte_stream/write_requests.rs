//! Messages of a `ByteStream` write.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bitzel_proto::google::bytestream::WriteRequest;
use bitzel_proto::resource_name::Compressor;
use bitzel_proto::{Digest, ResourceName};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};

use crate::compression::compressed;
use crate::error::Error;
use crate::media::remote_blob_store::upload_source::UploadSource;

/// Stream of the requests that write a blob from `start` on.
pub(super) fn write_requests(
    digest: Digest,
    name: &ResourceName,
    source: Arc<UploadSource>,
    start: u64,
) -> Result<RequestStream, Error> {
    let zstd = name.compressor == Compressor::Zstd;
    let requests = Requests {
        resource_name: Some(name.to_string()),
        offset: start,
        // The last byte of a blob finishes its write; compressed data finish it when they end.
        size: (!zstd).then_some(digest.size_bytes()),
        finished: false,
    };
    let chunks = source.from(start).boxed();
    Ok(RequestStream(if zstd {
        requests.of(compressed(chunks)?).boxed()
    } else {
        requests.of(chunks).boxed()
    }))
}

/// Stream of write requests. A type of its own, because the compiler cannot prove that a boxed stream in a future is
/// `'static`.
pub(super) struct RequestStream(BoxStream<'static, WriteRequest>);

impl Stream for RequestStream {
    type Item = WriteRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WriteRequest>> {
        self.0.poll_next_unpin(context)
    }
}

/// Maker of write requests from chunks.
struct Requests {
    /// Taken by the first request: later ones need not repeat it.
    resource_name: Option<String>,
    offset: u64,
    /// Offset that finishes the write; `None` if the end of the data does.
    size: Option<u64>,
    finished: bool,
}

impl Requests {
    fn of(
        self,
        chunks: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
    ) -> impl Stream<Item = WriteRequest> + Send + 'static {
        let state = (self, Box::pin(chunks));
        futures::stream::unfold(state, |(mut requests, mut chunks)| async move {
            if requests.finished {
                return None;
            }
            // The encoder yields no bytes for some chunks.
            let chunk = loop {
                match chunks.next().await.transpose() {
                    Ok(Some(chunk)) if chunk.is_empty() => {}
                    Ok(chunk) => break chunk,
                    // The requests end without the end of the write: the server gets an incomplete upload.
                    Err(_) => return None,
                }
            };
            Some((requests.next(chunk), (requests, chunks)))
        })
    }

    /// Request for a chunk, or for the end. The server refuses a blob that is too short.
    fn next(&mut self, chunk: Option<Bytes>) -> WriteRequest {
        let write_offset = i64::try_from(self.offset).unwrap_or(i64::MAX);
        self.finished = chunk.is_none();
        let data = chunk.unwrap_or_default();
        self.offset += data.len() as u64;
        if self.size.is_some_and(|size| self.offset >= size) {
            self.finished = true;
        }
        WriteRequest {
            resource_name: self.resource_name.take().unwrap_or_default(),
            write_offset,
            finish_write: self.finished,
            data: data.into(),
        }
    }
}
