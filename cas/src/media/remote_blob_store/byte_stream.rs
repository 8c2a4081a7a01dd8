//! Single blobs of any size, over `ByteStream`.

mod write_requests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backon::BackoffBuilder;
use bitzel_proto::google::bytestream::{QueryWriteStatusRequest, ReadRequest};
use bitzel_proto::resource_name::Compressor;
use bitzel_proto::{Digest, ResourceName, with_causes};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tonic::{Code, Status};
use tracing::debug;
use uuid::Uuid;

use self::write_requests::write_requests;
use super::upload_source::UploadSource;
use super::{RemoteBlobStore, Streams};
use crate::blob_store::{BlobRange, BlobStore, BlobStream, one_chunk};
use crate::compression::Decompressor;
use crate::error::{BackEndFailure, Error};
use crate::media::resumed_stream::{OpenPart, cut, resumed};
use crate::retry::{pauses, retried};

/// Smallest size of a blob that is compressed; smaller ones gain too little.
const MIN_COMPRESSED_BLOB_BYTES: u64 = 4096;

impl RemoteBlobStore {
    /// Reads without a check of the digest. A stream that breaks continues where it broke.
    pub(super) async fn read_stream(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        self.capabilities.check(digest)?;
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
            // The range is the end of the blob, and the server has confirmed that the blob is present.
            return Ok(one_chunk(Bytes::new()));
        }
        Ok(resumed(first, offset, length, open))
    }

    async fn open_part(&self, digest: Digest, offset: u64, length: u64) -> Result<BlobStream, Error> {
        let out_of_range = move || Error::OffsetOutOfRange { digest, offset };
        let to_the_end = offset + length == digest.size_bytes();
        let zstd = self.capabilities.zstd && to_the_end && length >= MIN_COMPRESSED_BLOB_BYTES;
        let mut name = ResourceName::read(self.instance.clone(), digest);
        if zstd {
            name.compressor = Compressor::Zstd;
        }
        let limited = !to_the_end && self.supports_read_limit.load(Ordering::Relaxed);
        let request = ReadRequest {
            resource_name: name.to_string(),
            read_offset: i64::try_from(offset).map_err(|_| out_of_range())?,
            // A compressed read has no limit.
            read_limit: if limited {
                i64::try_from(length).unwrap_or(0)
            } else {
                0
            },
        };
        let supports_read_limit = Arc::clone(&self.supports_read_limit);
        let failed = move |status: Status| match status.code() {
            Code::NotFound => Error::NotFound(digest),
            // The offset lies within the blob. The next attempt is made without the limit.
            Code::OutOfRange if limited && length > 0 => {
                supports_read_limit.store(false, Ordering::Relaxed);
                let context = format_args!("the store does not support the limit of a read of blob {digest}");
                Error::back_end(context, BackEndFailure::Unavailable)(status.message().to_owned())
            }
            Code::OutOfRange => out_of_range(),
            _ => Error::remote(format_args!("cannot read blob {digest} from the store"))(status),
        };
        let response = self.streams.clone().read(request).await.map_err(&failed)?;
        let mut messages = response.into_inner();
        // Some servers report a missing blob only instead of the first message.
        let first = messages.message().await.map_err(&failed)?;
        let first = futures::stream::iter(first.map(Ok));
        let chunks = first.chain(messages).map_err(failed);
        let chunks = chunks.map_ok(|message| Bytes::from(message.data)).boxed();
        if zstd {
            return Ok(decompressed(digest, chunks));
        }
        Ok(if limited || to_the_end {
            chunks
        } else {
            cut(chunks, 0, length)
        })
    }

    /// Writes a blob. After a broken connection, the upload continues at the offset that the server has committed; if the
    /// server cannot tell, from the beginning, as long as the source still has that.
    pub(super) async fn write_stream(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        self.capabilities.check(digest)?;
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
            // If the source failed, the server's error about the incomplete upload is not the cause.
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
            debug!(%digest, start, reason, "an upload broke and continues");
        }
    }

    fn new_upload(&self, digest: Digest) -> ResourceName {
        let mut name = ResourceName::write(self.instance.clone(), Uuid::new_v4().to_string(), digest);
        if self.capabilities.zstd && digest.size_bytes() >= MIN_COMPRESSED_BLOB_BYTES {
            name.compressor = Compressor::Zstd;
        }
        name
    }
}

/// Progress of an upload. `None` if the server cannot tell.
async fn committed(mut streams: Streams, name: String) -> Option<Committed> {
    let request = QueryWriteStatusRequest { resource_name: name };
    let status = streams.query_write_status(request).await.ok()?.into_inner();
    if status.complete {
        return Some(Committed::Everything);
    }
    u64::try_from(status.committed_size).ok().map(Committed::Bytes)
}

/// Sends the blob from `start` on, an offset in the uncompressed blob.
async fn write_from(
    mut streams: Streams,
    digest: Digest,
    name: ResourceName,
    source: Arc<UploadSource>,
    start: u64,
) -> Result<(), Error> {
    let requests = write_requests(digest, &name, source, start)?;
    let response = streams.write(requests).await;
    let response = response.map_err(Error::remote(format_args!(
        "cannot write blob {digest} to the store"
    )))?;
    let committed = response.into_inner().committed_size;
    // For a compressed write, servers return -1 or the number of compressed bytes, which cannot be compared.
    if name.compressor == Compressor::Zstd || u64::try_from(committed) == Ok(digest.size_bytes()) {
        return Ok(());
    }
    let status = Status::data_loss(format!("the store committed only {committed} bytes"));
    Err(Error::remote(format_args!(
        "blob {digest} was not written completely"
    ))(status))
}

/// Committed part of an upload.
enum Committed {
    Everything,
    Bytes(u64),
}

/// Decompresses the data of a server, up to the size of the blob.
fn decompressed(digest: Digest, chunks: BlobStream) -> BlobStream {
    let state = (chunks, Bytes::new(), Decompressor::new(digest));
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
    pieces.boxed()
}
