//! Single blobs of any size, over `ByteStream`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use backon::BackoffBuilder;
use bitzel_proto::google::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use bitzel_proto::resource_name::Compressor;
use bitzel_proto::{Digest, ResourceName};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::{Code, Status};
use tracing::debug;
use uuid::Uuid;

use super::upload_source::UploadSource;
use super::{RemoteBlobStore, Streams};
use crate::blob_store::{BlobRange, BlobStore, BlobStream, one_chunk};
use crate::compression::{Decompressor, compressed};
use crate::error::{BackEndFailure, Error};
use crate::media::resumed_stream::{OpenPart, cut, resumed};
use crate::retry::{pauses, retried};
use bitzel_proto::with_causes;

/// Smaller blobs are not worth compressing on their own.
const COMPRESS_FROM: u64 = 4096;

impl RemoteBlobStore {
    /// Reads without checking the digest. A stream that breaks goes on where it broke.
    pub(super) async fn read_stream(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        self.abilities.check(digest)?;
        let BlobRange { offset, limit } = range;
        let Some(rest) = digest.size_bytes().checked_sub(offset) else {
            return Err(Error::OffsetOutOfRange { digest, offset });
        };
        let length = limit.map_or(rest, |limit| limit.min(rest));
        if limit == Some(0) && !self.find_missing(&[digest]).await?.is_empty() {
            return Err(Error::NotFound(digest));
        }
        if limit == Some(0) || digest.is_empty_blob() {
            // On the wire a limit of zero means no limit.
            return Ok(one_chunk(Bytes::new()));
        }
        let store = self.clone();
        let open: OpenPart = Arc::new(move |offset, length| {
            let store = store.clone();
            Box::pin(async move { store.open_part(digest, offset, length).await })
        });
        let first = retried(|| open(offset, length)).await?;
        if length == 0 {
            // The end of the blob, which is there: the server said so.
            return Ok(one_chunk(Bytes::new()));
        }
        Ok(resumed(first, offset, length, open))
    }

    async fn open_part(&self, digest: Digest, offset: u64, length: u64) -> Result<BlobStream, Error> {
        let out_of_range = move || Error::OffsetOutOfRange { digest, offset };
        let to_the_end = offset + length == digest.size_bytes();
        let zstd = self.abilities.zstd && to_the_end && length >= COMPRESS_FROM;
        let mut name = ResourceName::read(self.instance.clone(), digest);
        if zstd {
            name.compressor = Compressor::Zstd;
        }
        let limited = !to_the_end && self.takes_read_limit.load(Ordering::Relaxed);
        let request = ReadRequest {
            resource_name: name.to_string(),
            read_offset: i64::try_from(offset).map_err(|_| out_of_range())?,
            // A compressed read takes no limit.
            read_limit: if limited {
                i64::try_from(length).unwrap_or(0)
            } else {
                0
            },
        };
        let takes_read_limit = Arc::clone(&self.takes_read_limit);
        let failed = move |status: Status| match status.code() {
            Code::NotFound => Error::NotFound(digest),
            // The offset lies within the blob. The next try comes without the limit.
            Code::OutOfRange if limited && length > 0 => {
                takes_read_limit.store(false, Ordering::Relaxed);
                let context = format!("the store does not take the limit of a read of blob {digest}");
                Error::back_end(context, BackEndFailure::Unavailable)(status.message().to_owned())
            }
            Code::OutOfRange => out_of_range(),
            _ => Error::remote(format!("cannot read blob {digest} from the store"))(status),
        };
        let response = self.streams.clone().read(request).await.map_err(&failed)?;
        let mut messages = response.into_inner();
        // Some servers say that a blob is missing only with the first message.
        let first = messages.message().await.map_err(&failed)?;
        let first = futures::stream::iter(first.map(Ok));
        let chunks = first.chain(messages).map_err(failed);
        let chunks = chunks.map_ok(|message| Bytes::from(message.data)).boxed();
        if zstd {
            return decompressed(digest, chunks);
        }
        Ok(if limited || to_the_end {
            chunks
        } else {
            cut(chunks, 0, length)
        })
    }

    /// Writes a blob. When the connection breaks, goes on from where the server says that it is; when it does not know,
    /// from the beginning, as long as that is still there to be sent.
    pub(super) async fn write_stream(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        self.abilities.check(digest)?;
        let source = UploadSource::new(digest, blob);
        let mut name = self.new_upload(digest);
        let mut start = 0;
        let mut pauses = pauses().build();
        loop {
            let written = write_from(
                self.streams.clone(),
                digest,
                name.clone(),
                Arc::clone(&source),
                start,
            )
            .await;
            // When the source failed, the server's complaint about the torn upload is not the cause.
            if let Some(error) = source.take_failure() {
                return Err(error);
            }
            let error = match written {
                Err(error) if error.is_transient() => error,
                written => return written,
            };
            let Some(pause) = pauses.next() else {
                return Err(error);
            };
            tokio::time::sleep(pause).await;
            let offset = match committed(self.streams.clone(), name.to_string()).await {
                Some(Committed::Everything) => return Ok(()),
                Some(Committed::Bytes(bytes)) => bytes,
                None => 0,
            };
            start = if source.covers(offset).await { offset } else { 0 };
            if !source.covers(start).await {
                return Err(error);
            }
            if start == 0 {
                name = self.new_upload(digest);
            }
            let reason = with_causes(&error);
            debug!(%digest, start, reason, "an upload broke and goes on");
        }
    }

    fn new_upload(&self, digest: Digest) -> ResourceName {
        let mut name = ResourceName::write(self.instance.clone(), Uuid::new_v4().to_string(), digest);
        if self.abilities.zstd && digest.size_bytes() >= COMPRESS_FROM {
            name.compressor = Compressor::Zstd;
        }
        name
    }
}

/// How far an upload has come, `None` if the server does not know or cannot tell.
async fn committed(mut streams: Streams, name: String) -> Option<Committed> {
    let request = QueryWriteStatusRequest { resource_name: name };
    let status = streams.query_write_status(request).await.ok()?.into_inner();
    if status.complete {
        return Some(Committed::Everything);
    }
    u64::try_from(status.committed_size).ok().map(Committed::Bytes)
}

/// Sends the blob from `start` on, an offset in the blob itself.
async fn write_from(
    mut streams: Streams,
    digest: Digest,
    name: ResourceName,
    source: Arc<UploadSource>,
    start: u64,
) -> Result<(), Error> {
    let requests = requests(digest, &name, source, start)?;
    let response = streams.write(requests).await;
    let response = response.map_err(Error::remote(format!("cannot write blob {digest} to the store")))?;
    let committed = response.into_inner().committed_size;
    // Of a compressed write servers announce -1 or compressed bytes, which say nothing here.
    if name.compressor == Compressor::Zstd || u64::try_from(committed) == Ok(digest.size_bytes()) {
        return Ok(());
    }
    let status = Status::data_loss(format!("the store took {committed} bytes only"));
    Err(Error::remote(format!("blob {digest} was not written whole"))(
        status,
    ))
}

enum Committed {
    Everything,
    Bytes(u64),
}

/// Decompresses what a server sends, up to the size of the blob.
fn decompressed(digest: Digest, chunks: BlobStream) -> Result<BlobStream, Error> {
    let state = (chunks, Bytes::new(), Decompressor::new(digest)?);
    let pieces = futures::stream::try_unfold(state, |(mut chunks, mut chunk, mut decompressor)| async move {
        loop {
            let mut data: &[u8] = &chunk;
            if let Some(piece) = decompressor.next_piece(&mut data)? {
                let used = chunk.len() - data.len();
                drop(chunk.split_to(used));
                return Ok(Some((piece, (chunks, chunk, decompressor))));
            }
            match chunks.next().await.transpose()? {
                Some(next) => chunk = next,
                None => return Ok(None),
            }
        }
    });
    Ok(pieces.boxed())
}

/// The requests that write a blob from `start` on.
fn requests(
    digest: Digest,
    name: &ResourceName,
    source: Arc<UploadSource>,
    start: u64,
) -> Result<RequestStream, Error> {
    let zstd = name.compressor == Compressor::Zstd;
    let requests = Requests {
        resource_name: Some(name.to_string()),
        offset: start,
        // The last byte of a blob finishes its write; what is compressed ends when it ends.
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

/// Write requests. A type of its own because the compiler loses sight of the `'static` of a boxed stream that a future
/// holds.
struct RequestStream(BoxStream<'static, WriteRequest>);

impl Stream for RequestStream {
    type Item = WriteRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WriteRequest>> {
        self.0.poll_next_unpin(context)
    }
}

/// Makes write requests of chunks.
struct Requests {
    /// Taken by the first request: later ones need not repeat it.
    resource_name: Option<String>,
    offset: u64,
    /// The offset that finishes the write, if one does.
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
            // The encoder makes nothing of some chunks.
            let chunk = loop {
                match chunks.next().await.transpose() {
                    Ok(Some(chunk)) if chunk.is_empty() => {}
                    Ok(chunk) => break chunk,
                    // The end of the requests without the end of the write: the server has a torn upload.
                    Err(_) => return None,
                }
            };
            Some((requests.next(chunk), (requests, chunks)))
        })
    }

    /// The request for a chunk, or for the end, where a blob that is too short is for the server to refuse.
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
