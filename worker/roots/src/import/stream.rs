//! Streams of archives: compression and digests.

use std::io::{self, BufRead, BufReader, Read};

use bitzel_proto::{Digest, Hasher};
use flate2::bufread::MultiGzDecoder;

use crate::root_digest::ROOT_DIGEST_FUNCTION;

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z'];
const BZIP2_MAGIC: &[u8] = b"BZh";

/// The bytes of an archive without its compression, which its first bytes tell.
pub(super) fn decompressed<'reader>(reader: impl Read + 'reader) -> io::Result<Box<dyn Read + 'reader>> {
    let mut reader = BufReader::with_capacity(1 << 18, reader);
    let start = reader.fill_buf()?;
    if start.starts_with(GZIP_MAGIC) {
        return Ok(Box::new(MultiGzDecoder::new(reader)));
    }
    if start.starts_with(ZSTD_MAGIC) {
        return Ok(Box::new(zstd::Decoder::with_buffer(reader)?));
    }
    if start.starts_with(XZ_MAGIC) || start.starts_with(BZIP2_MAGIC) {
        return Err(io::Error::other(
            "its compression is not known: decompress it first, or use gzip or zstd",
        ));
    }
    Ok(Box::new(reader))
}

/// Reader that computes the digest of what it has read.
pub(super) struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> HashingReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: ROOT_DIGEST_FUNCTION.hasher(),
        }
    }

    /// Reads the rest, and returns the digest of all.
    pub(super) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.finish())
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
