//! Single blobs of any size, over `ByteStream`.

use std::sync::Arc;

use bitzel_proto::google::bytestream::{ReadRequest, WriteRequest};
use bitzel_proto::{Digest, ResourceName};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tonic::{Code, Status};
use uuid::Uuid;

use super::RemoteBlobStore;
use crate::blob_store::{BlobRange, BlobStream, one_chunk};
use crate::error::Error;

/// Bytes in one `WriteRequest`: bulk enough to cost nothing, small enough for every server.
const WRITE_CHUNK: usize = 1 << 20;

impl RemoteBlobStore {
    /// Reads without checking the digest.
    pub(super) async fn read_stream(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let out_of_range = move || Error::OffsetOutOfRange {
            digest,
            offset: range.offset,
        };
        if range.limit == Some(0) || digest.is_empty_blob() {
            // On the wire a limit of zero means no limit.
            return if range.offset > digest.size_bytes() {
                Err(out_of_range())
            } else {
                Ok(one_chunk(Bytes::new()))
            };
        }
        let limit = range.limit.unwrap_or(0);
        let request = ReadRequest {
            resource_name: ResourceName::read(self.instance.clone(), digest).to_string(),
            read_offset: i64::try_from(range.offset).map_err(|_| out_of_range())?,
            read_limit: i64::try_from(limit).unwrap_or(0),
        };
        let failed = move |status: Status| match status.code() {
            Code::NotFound => Error::NotFound(digest),
            Code::OutOfRange => out_of_range(),
            _ => Error::remote(format!("cannot read blob {digest} from the store"))(status),
        };
        let response = self.streams.clone().read(request).await.map_err(&failed)?;
        let mut messages = response.into_inner();
        // Some servers say that a blob is missing only with the first message.
        let first = messages.message().await.map_err(&failed)?;
        let first = futures::stream::iter(first.map(Ok));
        let chunks = first.chain(messages).map_err(failed);
        Ok(chunks.map_ok(|message| Bytes::from(message.data)).boxed())
    }

    pub(super) async fn write_stream(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let upload = Uuid::new_v4().to_string();
        let resource_name = ResourceName::write(self.instance.clone(), upload, digest).to_string();
        let source = Source {
            resource_name: Some(resource_name),
            blob,
            chunk: Bytes::new(),
            offset: 0,
            size: digest.size_bytes(),
            finished: false,
            failure: Arc::default(),
        };
        let failure = Arc::clone(&source.failure);
        let response = self.streams.clone().write(source.into_requests()).await;
        // When the source failed, the server's complaint about the torn upload is not the cause.
        if let Some(error) = failure.lock().take() {
            return Err(error);
        }
        let response = response.map_err(Error::remote(format!("cannot write blob {digest} to the store")))?;
        let committed = response.into_inner().committed_size;
        if u64::try_from(committed) == Ok(digest.size_bytes()) {
            return Ok(());
        }
        let status = Status::data_loss(format!("the store took {committed} bytes only"));
        Err(Error::remote(format!("blob {digest} was not written whole"))(
            status,
        ))
    }
}

/// A blob being cut into write requests.
struct Source {
    /// Taken by the first request: later ones need not repeat it.
    resource_name: Option<String>,
    blob: BlobStream,
    /// What is left of the chunk that was read last.
    chunk: Bytes,
    offset: u64,
    size: u64,
    finished: bool,
    /// Where the error goes when the blob fails to come.
    failure: Arc<Mutex<Option<Error>>>,
}

impl Source {
    fn into_requests(self) -> impl futures::Stream<Item = WriteRequest> + Send + 'static {
        futures::stream::unfold(self, |mut source| async move {
            let request = source.next_request().await?;
            Some((request, source))
        })
    }

    async fn next_request(&mut self) -> Option<WriteRequest> {
        if self.finished {
            return None;
        }
        while self.chunk.is_empty() {
            match self.blob.next().await {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => {
                    *self.failure.lock() = Some(error);
                    return None;
                }
                None => {
                    self.finished = true;
                    break;
                }
            }
        }
        let data = self.chunk.split_to(self.chunk.len().min(WRITE_CHUNK));
        let write_offset = i64::try_from(self.offset).unwrap_or(i64::MAX);
        self.offset += data.len() as u64;
        // The last byte finishes the write; a blob that is too short or too long is for the server to refuse.
        if self.offset == self.size && self.chunk.is_empty() {
            self.finished = true;
        }
        Some(WriteRequest {
            resource_name: self.resource_name.take().unwrap_or_default(),
            write_offset,
            finish_write: self.finished,
            data: data.into(),
        })
    }
}
