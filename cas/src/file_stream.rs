//! Reads of files: as streams, at offsets, and from the page cache only.

use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::path::PathBuf;

use bytes::Bytes;
use futures::StreamExt;
use rustix::io::{Errno, ReadWriteFlags};

use crate::blob_store::BlobStream;
use crate::blob_store::chunk_limit::chunk_limit;
use crate::blocking::run_blocking;
use crate::error::Error;

/// Bytes that one call on a blocking thread reads: large enough that the change of threads costs little, small enough
/// that many streams fit in memory.
const CHUNK_BYTES: u64 = 1 << 20;

/// Streams at most `limit` bytes of `file` from its current position. `path` is for messages. The reads run on the
/// threads for blocking work, one chunk at a time and only when the consumer asks.
pub fn file_stream(file: File, path: PathBuf, limit: u64) -> BlobStream {
    futures::stream::try_unfold((file, path, limit), |(file, path, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let bytes = chunk_limit().map_or(CHUNK_BYTES, |limit| limit.clamp(1, CHUNK_BYTES));
        run_blocking(move || {
            let chunk = read_up_to(&file, left.min(bytes))
                .map_err(Error::io(format_args!("cannot read {}", path.display())))?;
            let left = left - chunk.len() as u64;
            Ok((!chunk.is_empty()).then_some((chunk, (file, path, left))))
        })
        .await
    })
    .boxed()
}

/// Reads up to `size` bytes, fewer only at the end of the file.
pub fn read_up_to(file: &File, size: u64) -> std::io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(size).read_to_end(&mut chunk)?;
    Ok(chunk.into())
}

/// Reads `size` bytes from an offset, fewer only at the end of the file. Does not move the position of the file.
pub fn read_at(file: &File, offset: u64, size: u64) -> std::io::Result<Bytes> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(size);
    Ok(bytes.into())
}

/// Reads `size` bytes from an offset, fewer only at the end of the file, if they are in the page cache. That is fast
/// enough for the threads of the async runtime, where a change to a blocking thread and back costs several times the
/// read. `None` if the read would wait for the disk, or the file system cannot tell.
pub fn read_cached_at(file: &File, offset: u64, size: usize) -> Option<Bytes> {
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        let rest = &mut [IoSliceMut::new(&mut bytes[filled..])];
        match rustix::io::preadv2(file, rest, offset + filled as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(filled);
    Some(bytes.into())
}
