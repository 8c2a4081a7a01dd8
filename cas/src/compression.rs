//! Zstandard compression of streams.

use std::io::{self, Write};

use bitzel_proto::Digest;
use bytes::{Buf as _, Bytes};
use futures::{StreamExt, TryStreamExt};
use zstd::stream::raw::{DParameter, Decoder, Operation};

use crate::blob_store::BlobStream;
use crate::error::Error;

/// Compression level: the fastest, because a client waits.
const LEVEL: i32 = 1;
/// Bytes that one step of decompression yields at most.
const MAX_PIECE_BYTES: usize = 1 << 20;
/// Largest window of a frame, as a power of two of its bytes: the 8 MiB that decoders should support (RFC 8878) and that
/// HTTP allows (RFC 9659). All levels up to 19 keep to it. Without this limit, a client could make a decoder allocate
/// 128 MiB for each transfer with a few bytes.
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

/// Decoder of Zstandard data from a client or server, with a limit for the decompressed bytes.
pub struct Decompressor {
    decoder: Decoder<'static>,
    /// Decompressed bytes that are allowed.
    limit: u64,
    /// Name of the data, for messages.
    name: String,
    /// Decompressed bytes so far.
    produced: u64,
    is_between_frames: bool,
}

impl Decompressor {
    /// A decompressor for the data of one blob.
    pub fn new(digest: Digest) -> Result<Self, Error> {
        Self::bounded(digest.size_bytes(), digest.to_string())
    }

    /// A decompressor for data of at most `limit` decompressed bytes. `name` is for messages.
    pub fn bounded(limit: u64, name: impl Into<String>) -> Result<Self, Error> {
        let mut decoder = Decoder::new().map_err(Error::io("cannot decompress"))?;
        let window = DParameter::WindowLogMax(MAX_WINDOW_LOG);
        decoder
            .set_parameter(window)
            .map_err(Error::io("cannot decompress"))?;
        Ok(Self {
            decoder,
            limit,
            name: name.into(),
            produced: 0,
            is_between_frames: true,
        })
    }

    /// Decompresses the next bytes of `data` and removes from `data` what it read. `None` when `data` is used up.
    pub fn next_piece(&mut self, data: &mut &[u8]) -> Result<Option<Bytes>, Error> {
        let mut piece = vec![0; MAX_PIECE_BYTES];
        loop {
            let step = self
                .decoder
                .run_on_buffers(data, &mut piece)
                .map_err(|error| self.invalid(&error))?;
            *data = &data[step.bytes_read..];
            if step.bytes_read > 0 || step.bytes_written > 0 {
                self.is_between_frames = step.remaining == 0;
            }
            if step.bytes_written > 0 {
                self.produced += step.bytes_written as u64;
                if self.produced > self.limit {
                    return Err(Error::InvalidArgument(format!(
                        "the data is more than the {} bytes of {}",
                        self.limit, self.name
                    )));
                }
                piece.truncate(step.bytes_written);
                return Ok(Some(piece.into()));
            }
            if data.is_empty() {
                return Ok(None);
            }
            if step.bytes_read == 0 {
                return Err(self.invalid(&io::Error::other("no progress")));
            }
        }
    }

    fn invalid(&self, error: &io::Error) -> Error {
        Error::InvalidArgument(format!(
            "the zstd data of {} cannot be decompressed: {error} (windows of up to 8 MiB are accepted)",
            self.name
        ))
    }
}

/// Decompresses a stream as its consumer asks for chunks. Data that ends within a frame is an error.
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
                None => return Err(decompressor.invalid(&io::Error::other("it ends too early"))),
            }
        }
    })
    .boxed()
}
