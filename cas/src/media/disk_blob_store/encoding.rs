//! Compression of blobs on the disk.
//!
//! A small blob is one zstd frame. A large blob is one frame for each MiB of it, so that a read with an offset can start
//! there and not at the beginning. After the frames comes a table with the length of each as little-endian `u32`, and
//! then the magic. Frames have checksums, which protect the read of a part.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use bitzel_proto::Digest;
use bytes::Bytes;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use crate::media::bounded_directory::BLOCK_BYTES;

/// Uncompressed bytes in one frame.
pub(super) const FRAME_BYTES: u64 = 1 << 20;
/// Compression level: fast, with nearly the compression of the default level.
const LEVEL: i32 = 1;
const MAGIC: &[u8; 8] = b"bitzelz1";

fn compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    Ok(compressor)
}

/// Compresses a small blob, if that saves a block.
pub(super) fn compress(blob: &[u8]) -> Option<Bytes> {
    let blocks = |bytes: usize| (bytes as u64).div_ceil(BLOCK_BYTES);
    if blocks(blob.len()) < 2 {
        return None;
    }
    let compressed = compressor().ok()?.compress(blob).ok()?;
    (blocks(compressed.len()) < blocks(blob.len())).then(|| compressed.into())
}

/// Decompresses a frame, which other bytes may follow; at most one byte more than `size`. `None` if it is no frame.
pub(super) fn decompress(frame: &[u8], size: u64) -> Option<Bytes> {
    let decoder = zstd::Decoder::with_buffer(frame).ok()?.single_frame();
    let mut blob = Vec::with_capacity(usize::try_from(size).ok()?.min(1 << 22));
    decoder.take(size.saturating_add(1)).read_to_end(&mut blob).ok()?;
    Some(blob.into())
}

/// Upper bound of the size of a blob in frames.
pub(super) fn max_encoded_bytes(size: u64) -> u64 {
    size.saturating_add(size / 128).saturating_add(BLOCK_BYTES)
}

/// Encoder of a large blob.
pub(super) struct FrameWriter {
    compressor: Compressor<'static>,
    /// Uncompressed bytes of the next frame.
    pending: Vec<u8>,
    /// Compressed lengths of the frames so far.
    lengths: Vec<u32>,
}

impl FrameWriter {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            compressor: compressor()?,
            pending: Vec::with_capacity(usize::try_from(FRAME_BYTES).unwrap_or(0)),
            lengths: Vec::new(),
        })
    }

    /// True if compression saves more than a tenth of the first 256 KiB of a blob.
    pub(super) fn saves_space(&mut self, start: &[u8]) -> bool {
        let start = &start[..start.len().min(1 << 18)];
        let compressed = self.compressor.compress(start);
        compressed.is_ok_and(|compressed| compressed.len() < start.len() / 10 * 9)
    }

    pub(super) fn write(&mut self, mut bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        let frame = usize::try_from(FRAME_BYTES).unwrap_or(usize::MAX);
        while !bytes.is_empty() {
            let (taken, rest) = bytes.split_at(bytes.len().min(frame - self.pending.len()));
            self.pending.extend_from_slice(taken);
            bytes = rest;
            if self.pending.len() == frame {
                self.flush(out)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        let compressed = self.compressor.compress(&self.pending)?;
        self.pending.clear();
        self.lengths
            .push(u32::try_from(compressed.len()).map_err(io::Error::other)?);
        out.write_all(&compressed)
    }

    /// Writes the last frame and the table.
    pub(super) fn finish(mut self, out: &mut impl Write) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.flush(out)?;
        }
        let table: Vec<u8> = self
            .lengths
            .iter()
            .flat_map(|length| length.to_le_bytes())
            .collect();
        out.write_all(&table)?;
        out.write_all(MAGIC)
    }
}

/// Decoder of a large blob, frame by frame.
pub(super) struct FrameReader {
    file: File,
    size: u64,
    /// Offsets of the frames, and of the end of the last one.
    offsets: Vec<u64>,
    /// Number of the next frame.
    next: usize,
}

impl FrameReader {
    /// Opens a file. `None` if it does not have the format and size of the blob.
    pub(super) fn open(file: File, digest: Digest) -> io::Result<Option<Self>> {
        let size = digest.size_bytes();
        let length = file.metadata()?.len();
        let table = size.div_ceil(FRAME_BYTES) * 4;
        let Some(start) = length.checked_sub(table + MAGIC.len() as u64) else {
            return Ok(None);
        };
        let end = crate::file_stream::read_at(&file, start, length - start)?;
        let Some(table) = end.strip_suffix(MAGIC) else {
            return Ok(None);
        };
        let mut offsets = vec![0];
        let mut offset = 0;
        for frame in table.as_chunks().0 {
            offset += u64::from(u32::from_le_bytes(*frame));
            offsets.push(offset);
        }
        let reader = Self {
            file,
            size,
            offsets,
            next: 0,
        };
        Ok((offset == start).then_some(reader))
    }

    pub(super) fn skip_to(&mut self, frame: u64) {
        self.next = usize::try_from(frame).unwrap_or(usize::MAX);
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.next + 1 >= self.offsets.len()
    }

    /// Reads the next frame. `None` at the end, and if the frame is damaged.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        let [start, end] = match self.offsets.get(self.next..self.next.saturating_add(2)) {
            Some([start, end]) => [*start, *end],
            _ => return Ok(None),
        };
        let mut frame = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut frame, start)?;
        let before = self.next as u64 * FRAME_BYTES;
        let expected = (self.size - before).min(FRAME_BYTES);
        self.next += 1;
        Ok(decompress(&frame, expected).filter(|frame| frame.len() as u64 == expected))
    }
}
