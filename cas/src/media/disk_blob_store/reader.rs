//! Reads of blobs, each with an integrity check. All functions block.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use bitzel_proto::Digest;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::SMALL_BLOB_BYTES;
use super::encoding::{self, FRAME_BYTES, FrameReader};
use super::integrity::ReadCheck;
use super::large_blob_reader::LargeBlobReader;
use crate::blob_store::verification::is_whole;
use crate::blob_store::{BlobRange, BlobStream, one_chunk};
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::file_stream::{file_stream, read_at, read_up_to};
use crate::media::bounded_directory::{BLOCK_BYTES, BoundedDirectory, Content, Encoding, Entry, Located};

/// Largest size of a blob that is read without a blocking thread if it is in the page cache.
const MAX_INLINE_READ_BYTES: u64 = 16 << 10;

/// True if the content of the file, after decompression, has the digest.
pub(super) fn is_intact(path: &Path, digest: Digest, encoding: Encoding) -> bool {
    let mut hasher = digest.function().hasher();
    let hashed = File::open(path).and_then(|mut file| match encoding {
        Encoding::Raw => io::copy(&mut file, &mut hasher).map(drop),
        Encoding::Zstd => {
            let mut frames = FrameReader::open(file, digest)?;
            while let Some(frames) = &mut frames
                && let Some(frame) = frames.next()?
            {
                hasher.update(&frame);
            }
            Ok(())
        }
    });
    hashed.is_ok() && hasher.finish() == digest
}

/// True if bytes of a segment, which other bytes follow, have the digest of an entry.
pub(super) fn is_intact_in_segment(entry: &Entry, stored: &[u8]) -> bool {
    let digest = entry.digest;
    let is_right = |blob: &[u8]| digest.function().digest(blob) == digest;
    match (entry.encoding, usize::try_from(digest.size_bytes())) {
        (Encoding::Raw, Ok(size)) => stored.get(..size).is_some_and(is_right),
        (Encoding::Zstd, _) if digest.size_bytes() <= SMALL_BLOB_BYTES => {
            encoding::decompress(stored, digest.size_bytes()).is_some_and(|blob| is_right(&blob))
        }
        _ => false,
    }
}

fn locate(directory: &BoundedDirectory, digest: Digest) -> Result<Located, Error> {
    let located = directory.locate(&[digest]).pop();
    located.unwrap_or(Err(Error::NotFound(digest)))
}

/// Reads blobs into memory and checks each.
pub(super) fn read_all(directory: &BoundedDirectory, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
    let located = directory.locate(digests).into_iter();
    let read = |(digest, located): (&Digest, Result<Located, Error>)| match located {
        Ok(located) => read_located(directory, &located),
        Err(Error::NotFound(_)) if digest.is_empty_blob() => Ok(Bytes::new()),
        Err(error) => Err(error),
    };
    digests.iter().zip(located).map(read).collect()
}

fn read_located(directory: &BoundedDirectory, located: &Located) -> Result<Bytes, Error> {
    let entry = &located.entry;
    let digest = entry.digest;
    let blob = whole(located).map_err(|error| read_error(directory, entry, error))?;
    match blob {
        Some(blob) if digest.function().digest(&blob) == digest => Ok(blob),
        _ if directory.quarantine(entry) => Err(Error::NotFound(digest)),
        // Evicted meanwhile, and possibly written again since.
        _ => read_located(directory, &locate(directory, digest)?),
    }
}

/// Content of an entry, of at most one byte more than the blob's size. `None` if it does not have the format of a blob.
fn whole(located: &Located) -> io::Result<Option<Bytes>> {
    let Located { entry, content } = located;
    let size = entry.digest.size_bytes();
    match (content, entry.encoding) {
        (Content::Part(file, offset), Encoding::Raw) => read_at(file, *offset, size).map(Some),
        (Content::Whole(file), Encoding::Raw) => read_up_to(file, size.saturating_add(1)).map(Some),
        (Content::Part(file, offset), Encoding::Zstd) => {
            let stored = read_at(file, *offset, u64::from(entry.blocks) * BLOCK_BYTES)?;
            Ok(encoding::decompress(&stored, size))
        }
        (Content::Whole(file), Encoding::Zstd) => {
            let mut frames = FrameReader::open(file.try_clone()?, entry.digest)?;
            let mut blob = BytesMut::new();
            while let Some(frames) = &mut frames
                && let Some(frame) = frames.next()?
            {
                blob.extend_from_slice(&frame);
            }
            Ok(Some(blob.freeze()))
        }
    }
}

/// Reads and checks a blob that is so small that this takes less time than the change to a blocking thread. `None` if it
/// is larger, not in the page cache, absent or corrupt.
pub(super) fn read_cached(directory: &BoundedDirectory, digest: Digest) -> Option<Bytes> {
    if digest.size_bytes() > MAX_INLINE_READ_BYTES {
        return None;
    }
    let (entry, stored) = directory.read_cached(digest)?;
    let blob = match entry.encoding {
        Encoding::Raw => stored.slice(..stored.len().min(usize::try_from(digest.size_bytes()).ok()?)),
        Encoding::Zstd => encoding::decompress(&stored, digest.size_bytes())?,
    };
    (digest.function().digest(&blob) == digest).then_some(blob)
}

/// Streams a blob or a part of it, to a consumer with space for `chunk_limit` bytes.
pub(super) fn read(
    directory: Arc<BoundedDirectory>,
    digest: Digest,
    range: BlobRange,
    chunk_limit: Option<u64>,
) -> Result<BlobStream, Error> {
    let located = locate(&directory, digest)?;
    if digest.size_bytes() <= SMALL_BLOB_BYTES {
        // A part is cut from the whole blob, which costs little and is checked.
        let blob = read_located(&directory, &located)?;
        return Ok(one_chunk(cut(&blob, range)));
    }
    let Located { entry, content } = located;
    let Content::Whole(file) = content else {
        return Err(quarantined(&directory, &entry));
    };
    match (is_whole(digest, range), entry.encoding) {
        (true, _) => {
            let check = ReadCheck::fastest(&entry);
            Ok(LargeBlobReader::open(directory, entry, file, check)?.stream(chunk_limit))
        }
        (false, Encoding::Raw) => read_part(&directory, &entry, file, range),
        (false, Encoding::Zstd) => {
            let frames = FrameReader::open(file, digest);
            match frames.map_err(|error| read_error(&directory, &entry, error))? {
                Some(frames) => Ok(read_part_of_frames(directory, entry, frames, range)),
                None => Err(quarantined(&directory, &entry)),
            }
        }
    }
}

/// Moves a corrupt entry to the quarantine, and returns the error of a blob that is absent.
pub(super) fn quarantined(directory: &BoundedDirectory, entry: &Entry) -> Error {
    directory.quarantine(entry);
    Error::NotFound(entry.digest)
}

/// Reads a whole blob and compares its digest, which does not count as a use. A corrupt blob is moved to the quarantine.
pub(super) fn verify(directory: &Arc<BoundedDirectory>, digest: Digest) -> Result<(), Error> {
    let located = directory.peek(digest)?;
    if digest.size_bytes() <= SMALL_BLOB_BYTES {
        return read_located(directory, &located).map(drop);
    }
    let Located { entry, content } = located;
    let Content::Whole(file) = content else {
        return Err(quarantined(directory, &entry));
    };
    let check = ReadCheck::thorough(&entry);
    let mut reader = Some(LargeBlobReader::open(Arc::clone(directory), entry, file, check)?);
    while let Some(rest) = reader {
        reader = rest.step()?.and_then(|(_, rest)| rest);
    }
    Ok(())
}

/// Part of a blob in memory.
pub(super) fn cut(blob: &Bytes, range: BlobRange) -> Bytes {
    let at = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).min(blob.len());
    let start = at(range.offset);
    let end = range
        .limit
        .map_or(blob.len(), |limit| at(range.offset.saturating_add(limit)));
    blob.slice(start..end)
}

fn read_part(
    directory: &BoundedDirectory,
    entry: &Entry,
    mut file: File,
    range: BlobRange,
) -> Result<BlobStream, Error> {
    let failed = |error| read_error(directory, entry, error);
    let size = file.metadata().map_err(failed)?.len();
    if size != entry.digest.size_bytes() {
        return Err(quarantined(directory, entry));
    }
    file.seek(SeekFrom::Start(range.offset)).map_err(failed)?;
    let limit = range.limit.unwrap_or(u64::MAX);
    Ok(file_stream(file, directory.describe(entry).into(), limit))
}

/// Reads a part of a compressed blob, from the frame on in which it starts. Frames have checksums of their own.
fn read_part_of_frames(
    directory: Arc<BoundedDirectory>,
    entry: Entry,
    mut frames: FrameReader,
    range: BlobRange,
) -> BlobStream {
    frames.skip_to(range.offset / FRAME_BYTES);
    let skip = range.offset % FRAME_BYTES;
    let left = range.limit.unwrap_or(u64::MAX);
    futures::stream::try_unfold((frames, skip, left), move |(mut frames, skip, left)| {
        let directory = Arc::clone(&directory);
        run_blocking(move || {
            if left == 0 || frames.is_at_end() {
                return Ok(None);
            }
            let frame = frames.next();
            let Some(frame) = frame.map_err(|error| read_error(&directory, &entry, error))? else {
                return Err(quarantined(&directory, &entry));
            };
            let range = BlobRange {
                offset: skip,
                limit: Some(left),
            };
            let part = cut(&frame, range);
            let left = left - part.len() as u64;
            Ok(Some((part, (frames, 0, left))))
        })
    })
    .boxed()
}

/// Error of a failed read of an entry.
pub(super) fn read_error(directory: &BoundedDirectory, entry: &Entry, error: io::Error) -> Error {
    Error::io(format_args!("cannot read {}", directory.describe(entry)))(error)
}
