//! Decompression of data from a client or server, with limits for its bytes and its memory.

use std::io;

use async_trait::async_trait;
use bitzel_proto::Digest;
use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use super::frame_header::{self, FrameHeader, MAX_HEADER_BYTES};
use crate::blob_store::BlobStream;
use crate::error::Error;

/// Bytes that one step yields at most: those of a block.
const MAX_PIECE_BYTES: u64 = 128 << 10;
/// Largest window of a frame, as a power of two of its bytes: the 8 MiB that decoders should support (RFC 8878) and that
/// HTTP allows (RFC 9659). All levels up to 19 keep to it. Without this limit, a client could make a decoder allocate
/// 128 MiB for each transfer with a few bytes.
const MAX_WINDOW_LOG: u32 = 23;
/// Memory of a decoder beside its window: tables of 160 KiB, one compressed block, two decompressed ones behind the
/// window, and one piece.
const DECODER_BYTES: u64 = (160 + 4 * 128) << 10;

/// Decoder of Zstandard data from a client or server, with a limit for the decompressed bytes.
///
/// It allocates nothing before it has read the header of a frame, and says what memory it needs. The window is never
/// larger than the announced size needs: encoders that do not know the size of their data, as that of Bazel, say 2 MiB
/// for everything.
pub struct Decompressor {
    decoder: Option<Decoder<'static>>,
    /// Decompressed bytes that are allowed.
    limit: u64,
    /// Name of the data, for messages.
    name: String,
    /// Decompressed bytes so far.
    produced: u64,
    is_between_frames: bool,
    /// Bytes of the header of the next frame, or of the present one if the decoder has not read them.
    header: Vec<u8>,
    /// Memory that was granted.
    granted: u64,
    /// Buffer of the next piece, if it has been made.
    piece: Vec<u8>,
}

/// Result of a step of decompression.
#[derive(Debug, PartialEq, Eq)]
pub enum DecompressionStep {
    /// Decompressed bytes.
    Piece(Bytes),
    /// The next frame needs this many bytes of memory in all. [`Decompressor::grant`] them, and go on with the same data.
    NeedsMemory(u64),
    /// All the data is used up.
    NeedsData,
}

impl Decompressor {
    /// A decompressor for the data of one blob.
    pub fn new(digest: Digest) -> Self {
        Self::bounded(digest.size_bytes(), digest.to_string())
    }

    /// A decompressor for data of at most `limit` decompressed bytes. `name` is for messages.
    pub fn bounded(limit: u64, name: impl Into<String>) -> Self {
        Self {
            decoder: None,
            limit,
            name: name.into(),
            produced: 0,
            is_between_frames: true,
            header: Vec::new(),
            granted: 0,
            piece: Vec::new(),
        }
    }

    /// Allows `bytes` of memory in all.
    pub fn grant(&mut self, bytes: u64) {
        self.granted = self.granted.max(bytes);
    }

    /// Largest number of decompressed bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Decompresses the next bytes of `data` with whatever memory they need, and removes from `data` what it read. `None`
    /// when `data` is used up.
    pub fn next_piece(&mut self, data: &mut &[u8]) -> Result<Option<Bytes>, Error> {
        loop {
            match self.step(data)? {
                DecompressionStep::Piece(piece) => return Ok(Some(piece)),
                DecompressionStep::NeedsMemory(bytes) => self.grant(bytes),
                DecompressionStep::NeedsData => return Ok(None),
            }
        }
    }

    /// Decompresses the next bytes of `data`, and removes from `data` what it read.
    pub fn step(&mut self, data: &mut &[u8]) -> Result<DecompressionStep, Error> {
        loop {
            if self.is_between_frames {
                if !self.complete_header(data)? {
                    return Ok(DecompressionStep::NeedsData);
                }
                if let Some(bytes) = self.begin_frame()? {
                    return Ok(DecompressionStep::NeedsMemory(bytes));
                }
            }
            let (read, piece) = if self.header.is_empty() {
                let (read, piece) = self.run(data)?;
                *data = &data[read..];
                (read, piece)
            } else {
                let mut header = std::mem::take(&mut self.header);
                let (read, piece) = self.run(&header)?;
                header.drain(..read);
                self.header = header;
                (read, piece)
            };
            if let Some(piece) = piece {
                return Ok(DecompressionStep::Piece(piece));
            }
            // The end of a frame needs no further input, and the next one has a header.
            if read == 0 && !self.is_between_frames {
                if data.is_empty() {
                    return Ok(DecompressionStep::NeedsData);
                }
                return Err(self.invalid(&io::Error::other("no progress")));
            }
        }
    }

    /// True if the data may end here.
    pub fn is_complete(&self) -> bool {
        self.is_between_frames && self.header.is_empty()
    }

    /// Takes the header of the next frame out of `data`. False if more data is needed.
    fn complete_header(&mut self, data: &mut &[u8]) -> Result<bool, Error> {
        loop {
            let size = frame_header::size(&self.header).map_err(|reason| self.not_a_frame(reason))?;
            if size == Some(self.header.len()) {
                return Ok(true);
            }
            debug_assert!(self.header.len() < MAX_HEADER_BYTES);
            let Some((first, rest)) = data.split_first() else {
                return Ok(false);
            };
            self.header.push(*first);
            *data = rest;
        }
    }

    /// Begins the frame of the complete header. Memory that it needs first, if that has not been granted.
    fn begin_frame(&mut self) -> Result<Option<u64>, Error> {
        let mut needed = 0;
        if let FrameHeader::Data {
            mut window,
            content,
            is_single_segment,
        } = frame_header::parse(&self.header)
        {
            let rest = self.limit - self.produced;
            if content.is_some_and(|content| content > rest) {
                return Err(self.too_much());
            }
            let sufficient = frame_header::sufficient_window(rest);
            if !is_single_segment && window > sufficient {
                frame_header::set_window(&mut self.header, sufficient);
                window = sufficient;
            }
            if window > 1 << MAX_WINDOW_LOG {
                return Err(self.invalid(&io::Error::other(format!(
                    "a frame needs a window of {window} bytes"
                ))));
            }
            needed = window;
        }
        let needed = needed + DECODER_BYTES;
        if needed > self.granted {
            return Ok(Some(needed));
        }
        if self.decoder.is_none() {
            let failed = |error| Error::io("cannot decompress")(error);
            let mut decoder = Decoder::new().map_err(failed)?;
            let window = DParameter::WindowLogMax(MAX_WINDOW_LOG);
            decoder.set_parameter(window).map_err(failed)?;
            self.decoder = Some(decoder);
        }
        self.is_between_frames = false;
        Ok(None)
    }

    /// Runs the decoder until it has made a piece, or has read `input` or the frame to its end. Also the number of bytes
    /// that it read.
    fn run(&mut self, input: &[u8]) -> Result<(usize, Option<Bytes>), Error> {
        if self.piece.is_empty() {
            // One byte more than allowed is enough to see that there are too many.
            let size = (self.limit - self.produced)
                .saturating_add(1)
                .min(MAX_PIECE_BYTES);
            self.piece = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        }
        let Some(decoder) = &mut self.decoder else {
            return Ok((0, None));
        };
        let step = decoder.run_on_buffers(input, &mut self.piece);
        let step = step.map_err(|error| self.invalid(&error))?;
        self.is_between_frames = step.remaining == 0;
        if step.bytes_written == 0 {
            return Ok((step.bytes_read, None));
        }
        self.produced += step.bytes_written as u64;
        if self.produced > self.limit {
            return Err(self.too_much());
        }
        let mut piece = std::mem::take(&mut self.piece);
        piece.truncate(step.bytes_written);
        // Many small pieces must not take the memory of large ones.
        if piece.len() < piece.capacity() / 2 {
            piece.shrink_to_fit();
        }
        Ok((step.bytes_read, Some(piece.into())))
    }

    fn too_much(&self) -> Error {
        Error::InvalidArgument(format!(
            "the data is more than the {} bytes of {}",
            self.limit, self.name
        ))
    }

    fn not_a_frame(&self, reason: &str) -> Error {
        self.invalid(&io::Error::other(reason.to_owned()))
    }

    fn invalid(&self, error: &io::Error) -> Error {
        Error::InvalidArgument(format!(
            "the zstd data of {} cannot be decompressed: {error} (windows of up to 8 MiB are accepted)",
            self.name
        ))
    }
}

/// Memory that decompressors ask for.
#[async_trait]
pub trait DecompressionMemory: Send {
    /// Reserves `bytes` in all, and releases what was reserved before.
    async fn reserve(&mut self, bytes: u64) -> Result<(), Error>;
}

/// Memory without a limit, for data of servers that this process asked for.
#[derive(Debug)]
pub struct UnlimitedMemory;

#[async_trait]
impl DecompressionMemory for UnlimitedMemory {
    async fn reserve(&mut self, _: u64) -> Result<(), Error> {
        Ok(())
    }
}

/// Decompresses a stream as its consumer asks for chunks, with memory from `memory`. Data that ends within a frame is an
/// error.
pub fn decompressed(
    data: BlobStream,
    decompressor: Decompressor,
    memory: impl DecompressionMemory + 'static,
) -> BlobStream {
    let state = (data, decompressor, memory, Bytes::new());
    futures::stream::try_unfold(
        state,
        |(mut data, mut decompressor, mut memory, mut chunk)| async move {
            loop {
                let mut rest = &chunk[..];
                let step = decompressor.step(&mut rest)?;
                let used = chunk.len() - rest.len();
                chunk.advance(used);
                match step {
                    DecompressionStep::Piece(piece) => {
                        return Ok(Some((piece, (data, decompressor, memory, chunk))));
                    }
                    DecompressionStep::NeedsMemory(bytes) => {
                        memory.reserve(bytes).await?;
                        decompressor.grant(bytes);
                    }
                    DecompressionStep::NeedsData => match data.next().await.transpose()? {
                        Some(next) => chunk = next,
                        None if decompressor.is_complete() => return Ok(None),
                        None => return Err(decompressor.invalid(&io::Error::other("it ends too early"))),
                    },
                }
            }
        },
    )
    .boxed()
}
