//! Zstandard compression of streams.

mod decompressor;
mod frame_header;

use std::io::Write;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::blob_store::BlobStream;
use crate::error::Error;

pub use self::decompressor::{
    DecompressionMemory, DecompressionStep, Decompressor, UnlimitedMemory, decompressed,
};

/// Compression level: the fastest, because a client waits.
const LEVEL: i32 = 1;
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

#[cfg(test)]
mod tests;
