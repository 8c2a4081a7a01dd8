//! Zstandard over streams.

use std::io::{self, Write};

use bitzel_proto::Digest;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use zstd::stream::raw::{Decoder, Operation};

use crate::blob_store::BlobStream;
use crate::error::Error;

/// Compression while a client waits: the fastest level.
const LEVEL: i32 = 1;
/// Bytes that one step of decompression makes at most.
const PIECE: usize = 1 << 20;

/// Compresses a stream into one frame.
pub(crate) fn compressed(blob: BlobStream) -> Result<BlobStream, Error> {
    let failed = |error| Error::io("cannot compress")(error);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).map_err(failed)?;
    let end = futures::stream::once(async { Ok(None) });
    let chunks = blob.map_ok(Some).chain(end).map(move |chunk| {
        match chunk? {
            Some(chunk) => encoder.write_all(&chunk),
            None => encoder.do_finish(),
        }
        .map_err(failed)?;
        Ok(Bytes::from(std::mem::take(encoder.get_mut())))
    });
    Ok(chunks.boxed())
}

/// Decompresses what a client sends, without ever making more than the blob's size.
pub(crate) struct Decompressor {
    decoder: Decoder<'static>,
    digest: Digest,
    made: u64,
}

impl Decompressor {
    pub(crate) fn new(digest: Digest) -> Result<Self, Error> {
        Ok(Self {
            decoder: Decoder::new().map_err(Error::io("cannot decompress"))?,
            digest,
            made: 0,
        })
    }

    /// The next bytes out of `data`, which it shortens by what it read; `None` when all of it is used up.
    pub(crate) fn next_piece(&mut self, data: &mut &[u8]) -> Result<Option<Bytes>, Error> {
        let mut piece = vec![0; PIECE];
        loop {
            let step = self
                .decoder
                .run_on_buffers(data, &mut piece)
                .map_err(|error| self.broken(&error))?;
            *data = &data[step.bytes_read..];
            if step.bytes_written > 0 {
                self.made += step.bytes_written as u64;
                if self.made > self.digest.size_bytes() {
                    return Err(Error::InvalidArgument(format!(
                        "the data is more than the {} bytes of {}",
                        self.digest.size_bytes(),
                        self.digest
                    )));
                }
                piece.truncate(step.bytes_written);
                return Ok(Some(piece.into()));
            }
            if data.is_empty() {
                return Ok(None);
            }
            if step.bytes_read == 0 {
                return Err(self.broken(&io::Error::other("no progress")));
            }
        }
    }

    fn broken(&self, error: &io::Error) -> Error {
        Error::InvalidArgument(format!(
            "the zstd data of {} cannot be decompressed: {error}",
            self.digest
        ))
    }
}
