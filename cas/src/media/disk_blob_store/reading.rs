//! Reading blobs, with a check of what was read. All functions block.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use bitzel_proto::Digest;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::task::JoinHandle;

use super::SMALL;
use super::checking::Check;
use super::encoding::{self, FRAME, FrameReader};
use crate::blob_store::{BlobRange, BlobStream, one_chunk};
use crate::blocking::run_blocking;
use crate::decorators::verifying_blob_store::is_whole;
use crate::error::Error;
use crate::file_stream::{file_stream, read_at, read_up_to};
use crate::media::bounded_directory::{BLOCK, BoundedDirectory, Content, Encoding, Entry, Located};

/// Bytes that one step of a stream reads.
const CHUNK: u64 = 1 << 20;

/// Size of blobs that are read without a trip to the blocking threads when they are in memory, in bytes.
const TINY: u64 = 16 << 10;

/// Whether the file is that of the digest.
pub(super) fn is_intact(path: &Path, digest: Digest) -> bool {
    let mut hasher = digest.function().hasher();
    let copied = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher));
    copied.is_ok() && hasher.finish() == digest
}

fn locate(directory: &BoundedDirectory, digest: Digest) -> Result<Located, Error> {
    let located = directory.locate(&[digest]).pop();
    located.unwrap_or(Err(Error::NotFound(digest)))
}

/// Reads blobs into memory, each checked.
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
    let blob = whole(located).map_err(failed(directory, entry))?;
    match blob {
        Some(blob) if digest.function().digest(&blob) == digest => Ok(blob),
        _ if directory.quarantine(entry) => Err(Error::NotFound(digest)),
        // Evicted just now; by now it may be there again.
        _ => read_located(directory, &locate(directory, digest)?),
    }
}

/// The whole blob, of at most one byte more than its size; `None` when it is not even what a blob looks like.
fn whole(located: &Located) -> io::Result<Option<Bytes>> {
    let Located { entry, content } = located;
    let size = entry.digest.size_bytes();
    match (content, entry.encoding) {
        (Content::Part(file, offset), Encoding::Raw) => read_at(file, *offset, size).map(Some),
        (Content::Whole(file), Encoding::Raw) => read_up_to(file, size.saturating_add(1)).map(Some),
        (Content::Part(file, offset), Encoding::Zstd) => {
            let stored = read_at(file, *offset, u64::from(entry.blocks) * BLOCK)?;
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

/// A blob so small that reading and hashing it takes less time than a trip to the blocking threads, checked. `None` if
/// it is larger, not in memory, not there or wrong.
pub(super) fn read_cached(directory: &BoundedDirectory, digest: Digest) -> Option<Bytes> {
    if digest.size_bytes() > TINY {
        return None;
    }
    let (entry, stored) = directory.read_cached(digest)?;
    let blob = match entry.encoding {
        Encoding::Raw => stored.slice(..stored.len().min(usize::try_from(digest.size_bytes()).ok()?)),
        Encoding::Zstd => encoding::decompress(&stored, digest.size_bytes())?,
    };
    (digest.function().digest(&blob) == digest).then_some(blob)
}

/// Streams a blob or a part of it.
pub(super) fn read(
    directory: Arc<BoundedDirectory>,
    digest: Digest,
    range: BlobRange,
) -> Result<BlobStream, Error> {
    let located = locate(&directory, digest)?;
    if digest.size_bytes() <= SMALL {
        // A part is cut from the whole, which costs little and is checked.
        let blob = read_located(&directory, &located)?;
        return Ok(one_chunk(cut(&blob, range)));
    }
    let Located { entry, content } = located;
    let Content::Whole(file) = content else {
        return Err(wrong(&directory, &entry));
    };
    match (is_whole(digest, range), entry.encoding) {
        (true, _) => {
            let source = Source::open(file, &entry).map_err(failed(&directory, &entry))?;
            let source = source.ok_or_else(|| wrong(&directory, &entry))?;
            Ok(read_ahead(Reading {
                directory,
                check: Check::quickest(&entry),
                entry,
                source,
                done: 0,
            }))
        }
        (false, Encoding::Raw) => read_part(&directory, &entry, file, range),
        (false, Encoding::Zstd) => {
            match FrameReader::open(file, digest).map_err(failed(&directory, &entry))? {
                Some(frames) => Ok(read_part_of_frames(directory, entry, frames, range)),
                None => Err(wrong(&directory, &entry)),
            }
        }
    }
}

fn wrong(directory: &BoundedDirectory, entry: &Entry) -> Error {
    directory.quarantine(entry);
    Error::NotFound(entry.digest)
}

/// Reads all of a blob and compares its digest, which does not count as a use. What is wrong goes to the quarantine.
pub(super) fn verify(directory: &Arc<BoundedDirectory>, digest: Digest) -> Result<(), Error> {
    let located = directory.peek(digest)?;
    if digest.size_bytes() <= SMALL {
        return read_located(directory, &located).map(drop);
    }
    let Located { entry, content } = located;
    let source = match content {
        Content::Whole(file) => Source::open(file, &entry).map_err(failed(directory, &entry))?,
        Content::Part(..) => None,
    };
    let mut reading = Some(Reading {
        directory: Arc::clone(directory),
        check: Check::thorough(&entry),
        entry,
        source: source.ok_or_else(|| wrong(directory, &entry))?,
        done: 0,
    });
    while let Some(more) = reading {
        reading = more.step()?.and_then(|(_, more)| more);
    }
    Ok(())
}

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
    let size = file.metadata().map_err(failed(directory, entry))?.len();
    if size != entry.digest.size_bytes() {
        directory.quarantine(entry);
        return Err(Error::NotFound(entry.digest));
    }
    file.seek(SeekFrom::Start(range.offset))
        .map_err(failed(directory, entry))?;
    let limit = range.limit.unwrap_or(u64::MAX);
    Ok(file_stream(file, directory.describe(entry).into(), limit))
}

/// A part of a compressed blob, from the frame on in which it starts. Frames carry checksums of their own.
fn read_part_of_frames(
    directory: Arc<BoundedDirectory>,
    entry: Entry,
    mut frames: FrameReader,
    range: BlobRange,
) -> BlobStream {
    frames.skip_to(range.offset / FRAME);
    let skip = range.offset % FRAME;
    let left = range.limit.unwrap_or(u64::MAX);
    futures::stream::try_unfold((frames, skip, left), move |(mut frames, skip, left)| {
        let directory = Arc::clone(&directory);
        run_blocking(move || {
            if left == 0 || frames.is_at_end() {
                return Ok(None);
            }
            let Some(frame) = frames.next().map_err(failed(&directory, &entry))? else {
                return Err(wrong(&directory, &entry));
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

/// Where the bytes of a large blob come from.
enum Source {
    Raw(File),
    Frames(FrameReader),
}

impl Source {
    /// `None` when the file is not what such a blob looks like.
    fn open(file: File, entry: &Entry) -> io::Result<Option<Self>> {
        match entry.encoding {
            Encoding::Raw => Ok(Some(Self::Raw(file))),
            Encoding::Zstd => Ok(FrameReader::open(file, entry.digest)?.map(Self::Frames)),
        }
    }

    /// The next bytes, at most `size` of an uncompressed file.
    fn next(&mut self, size: u64) -> io::Result<Option<Bytes>> {
        match self {
            Self::Raw(file) => read_up_to(file, size).map(Some),
            Self::Frames(frames) => frames.next(),
        }
    }

    fn is_at_end(&mut self) -> io::Result<bool> {
        match self {
            Self::Raw(file) => Ok(file.read(&mut [0])? == 0),
            Self::Frames(frames) => Ok(frames.is_at_end()),
        }
    }
}

/// A large blob being read and checked.
struct Reading {
    directory: Arc<BoundedDirectory>,
    entry: Entry,
    source: Source,
    check: Check,
    /// Bytes that were read.
    done: u64,
}

type Step = Result<Option<(Bytes, Option<Reading>)>, Error>;

/// Streams a blob; the next chunk is read and checked while the consumer has the one before.
fn read_ahead(reading: Reading) -> BlobStream {
    let first = start(Some(reading));
    futures::stream::try_unfold(first, |running| async move {
        // Only the shutdown of the runtime or a panic ends it otherwise.
        let step = running.await.map_err(io::Error::other);
        match step.map_err(Error::io("cannot read ahead"))?? {
            Some((chunk, rest)) => Ok(Some((chunk, start(rest)))),
            None => Ok(None),
        }
    })
    .boxed()
}

fn start(reading: Option<Reading>) -> JoinHandle<Step> {
    tokio::task::spawn_blocking(|| reading.map_or(Ok(None), Reading::step))
}

impl Reading {
    /// The next chunk. The last one is only handed out when the whole blob was right, so that a consumer cannot
    /// take corrupt bytes for a complete blob.
    fn step(mut self) -> Step {
        let size = self.entry.digest.size_bytes();
        let left = size.saturating_sub(self.done);
        let chunk = self
            .source
            .next(left.min(CHUNK))
            .map_err(failed(&self.directory, &self.entry))?;
        let chunk = chunk.unwrap_or_default();
        self.check.update(&chunk);
        self.done += chunk.len() as u64;
        if !chunk.is_empty() && self.done < size {
            return Ok(Some((chunk, Some(self))));
        }
        let ended = self
            .source
            .is_at_end()
            .map_err(failed(&self.directory, &self.entry))?;
        if ended && self.done == size && self.check.finish() {
            Ok(Some((chunk, None)))
        } else {
            self.directory.quarantine(&self.entry);
            Err(Error::NotFound(self.entry.digest))
        }
    }
}

fn failed(directory: &BoundedDirectory, entry: &Entry) -> impl FnOnce(io::Error) -> Error + use<> {
    Error::io(format!("cannot read {}", directory.describe(entry)))
}
