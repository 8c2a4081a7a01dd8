//! Zstandard over streams.

use std::io::{self, Write};

use bitzel_proto::Digest;
use bytes::{Buf as _, Bytes};
use futures::{StreamExt, TryStreamExt};
use zstd::stream::raw::{DParameter, Decoder, Operation};

use crate::blob_store::BlobStream;
use crate::error::Error;

/// Compression while a client waits: the fastest level.
const LEVEL: i32 = 1;
/// Bytes that one step of decompression makes at most.
const PIECE: usize = 1 << 20;
/// What a frame may have a decoder remember, as a power of two of its bytes: the 8 MiB that decoders should support
/// (RFC 8878) and that HTTP allows (RFC 9659). All levels up to 19 keep to it. With a few bytes, a client could have 128 MiB
/// remembered otherwise, for each transfer.
const MAX_WINDOW_LOG: u32 = 23;

/// Compresses a stream into one frame.
pub fn compressed(blob: BlobStream) -> Result<BlobStream, Error> {
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
pub struct Decompressor {
    decoder: Decoder<'static>,
    /// Bytes that may come out.
    limit: u64,
    /// Whose data it is, for messages.
    what: String,
    made: u64,
    is_between_frames: bool,
}

impl Decompressor {
    /// For the data of one blob.
    pub fn new(digest: Digest) -> Result<Self, Error> {
        Self::bounded(digest.size_bytes(), digest.to_string())
    }

    /// For data that has at most `limit` bytes once it is decompressed.
    pub fn bounded(limit: u64, what: impl Into<String>) -> Result<Self, Error> {
        let mut decoder = Decoder::new().map_err(Error::io("cannot decompress"))?;
        let window = DParameter::WindowLogMax(MAX_WINDOW_LOG);
        decoder
            .set_parameter(window)
            .map_err(Error::io("cannot decompress"))?;
        Ok(Self {
            decoder,
            limit,
            what: what.into(),
            made: 0,
            is_between_frames: true,
        })
    }

    /// The next bytes out of `data`, which it shortens by what it read; `None` when all of it is used up.
    pub fn next_piece(&mut self, data: &mut &[u8]) -> Result<Option<Bytes>, Error> {
        let mut piece = vec![0; PIECE];
        loop {
            let step = self
                .decoder
                .run_on_buffers(data, &mut piece)
                .map_err(|error| self.broken(&error))?;
            *data = &data[step.bytes_read..];
            if step.bytes_read > 0 || step.bytes_written > 0 {
                self.is_between_frames = step.remaining == 0;
            }
            if step.bytes_written > 0 {
                self.made += step.bytes_written as u64;
                if self.made > self.limit {
                    return Err(Error::InvalidArgument(format!(
                        "the data is more than the {} bytes of {}",
                        self.limit, self.what
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
            "the zstd data of {} cannot be decompressed: {error} (windows of up to 8 MiB are taken)",
            self.what
        ))
    }
}

/// Decompresses a stream as far as its reader asks. Data that ends within a frame is an error.
pub fn decompressed(data: BlobStream, decompressor: Decompressor) -> BlobStream {
    let state = (data, decompressor, Bytes::new());
    futures::stream::try_unfold(state, |(mut data, mut decompressor, mut chunk)| async move {
        loop {
            let mut rest = &chunk[..];
            let piece = decompressor.next_piece(&mut rest)?;
            let used = chunk.len() - rest.len();
            chunk.advance(used);
            if let Some(piece) = piece {
                return Ok(Some((piece, (data, decompressor, chunk))));
            }
            match data.next().await.transpose()? {
                Some(next) => chunk = next,
                None if decompressor.is_between_frames => return Ok(None),
                None => return Err(decompressor.broken(&io::Error::other("it ends too early"))),
            }
        }
    })
    .boxed()
}
