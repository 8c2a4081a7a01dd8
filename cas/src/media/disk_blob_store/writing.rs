//! Writing blobs: checked, then small ones into segments, many at once, and large ones into a file without a name that
//! anybody looks for, which is moved into place.

use std::io::{self, Write};
use std::sync::Arc;

use bitzel_proto::Digest;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tempfile::NamedTempFile;

use super::SMALL;
use super::checking::{Arriving, matches};
use super::encoding::{self, FrameWriter};
use crate::blob_store::BlobStream;
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::media::bounded_directory::{
    BoundedDirectory, Checksum, Encoding, FileContent, Parcel, Reservation, disk_error,
};

/// Bytes that are gathered before a trip to the blocking threads.
const GATHERED: u64 = 1 << 20;
/// Bytes that a large blob gets room for at first. It gets twice what it has as that fills up: the size in a digest is the
/// client's word, and who sends little must not have much evicted.
const FIRST_RESERVATION: u64 = 16 << 20;

/// Where blobs go, and how.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) directory: Arc<BoundedDirectory>,
    pub(super) compress: bool,
}

impl Target {
    /// Bytes that a blob may take on the disk at most.
    fn bound(&self, size: u64) -> u64 {
        if self.compress {
            encoding::bound(size)
        } else {
            size
        }
    }
}

/// Writes a blob of any size from a stream.
pub(super) async fn write(target: &Target, digest: Digest, mut blob: BlobStream) -> Result<(), Error> {
    if target.directory.touch(digest) {
        return Ok(());
    }
    if digest.size_bytes() <= SMALL {
        // One byte too many is enough to see that it is wrong.
        let (chunks, _) = gather(&mut blob, digest.size_bytes().saturating_add(1)).await?;
        let blob = join(chunks);
        let target = target.clone();
        let written = run_blocking(move || write_all(&target, vec![(digest, blob)])).await;
        return written.into_iter().collect();
    }
    let (mut chunks, mut at_end) = gather(&mut blob, GATHERED).await?;
    if at_end {
        check_size(digest, &chunks)?;
    }
    let target = target.clone();
    let started = run_blocking(move || Writing::start(target, digest)).await?;
    let Some(mut writing) = started else {
        return Ok(());
    };
    let mut arriving = Arriving::new(digest);
    loop {
        // Hashing takes as long as writing, so they go on side by side, while the next bytes come in.
        let hashed = chunks.clone();
        let hashing = run_blocking(move || arriving.update(&hashed).map(|()| arriving));
        let adding = run_blocking(move || writing.add(&chunks));
        let next = async {
            if at_end {
                return Ok((Vec::new(), true));
            }
            gather(&mut blob, GATHERED).await
        };
        let (hashed, added, next) = tokio::join!(hashing, adding, next);
        (arriving, writing) = (hashed?, added?);
        if at_end {
            return run_blocking(move || writing.finish(arriving.finish()?)).await;
        }
        (chunks, at_end) = next?;
    }
}

/// Before room is made: a blob that ends early must not cost others their place.
fn check_size(expected: Digest, chunks: &[Bytes]) -> Result<(), Error> {
    let size: usize = chunks.iter().map(Bytes::len).sum();
    if size as u64 == expected.size_bytes() {
        return Ok(());
    }
    Arriving::whole(expected, chunks).map(drop)
}

/// Takes chunks until there are so many bytes; also says whether the stream is at its end.
async fn gather(blob: &mut BlobStream, enough: u64) -> Result<(Vec<Bytes>, bool), Error> {
    let mut chunks = Vec::new();
    let mut bytes = 0;
    while bytes < enough {
        match blob.next().await {
            Some(chunk) => {
                let chunk = chunk?;
                bytes += chunk.len() as u64;
                chunks.push(chunk);
            }
            None => return Ok((chunks, true)),
        }
    }
    Ok((chunks, false))
}

fn join(mut chunks: Vec<Bytes>) -> Bytes {
    if chunks.len() == 1 {
        return chunks.remove(0);
    }
    let mut blob = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in &chunks {
        blob.extend_from_slice(chunk);
    }
    blob.freeze()
}

/// Writes blobs that are in memory, all small ones with one write.
pub(super) fn write_all(target: &Target, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
    let directory = &target.directory;
    let mut results: Vec<Option<Result<(), Error>>> = Vec::with_capacity(blobs.len());
    let mut parcels = Vec::with_capacity(blobs.len());
    for (digest, blob) in blobs {
        let known = if digest.is_empty_blob() && blob.is_empty() {
            Some(Ok(()))
        } else if digest.size_bytes() > SMALL {
            Some(write_large(target, digest, blob))
        } else if let Err(error) = matches(digest, digest.function().digest(&blob)) {
            // Before room is made: a wrong blob must not cost a right one its place.
            Some(Err(error))
        } else {
            parcels.push(parcel(target, digest, blob));
            None
        };
        results.push(known);
    }
    let mut put = directory.put(&parcels, false).into_iter();
    let result = |known: Option<_>| known.or_else(|| put.next()).unwrap_or(Ok(()));
    results.into_iter().map(result).collect()
}

fn parcel(target: &Target, digest: Digest, blob: Bytes) -> Parcel {
    let compressed = target.compress.then(|| encoding::compress(&blob)).flatten();
    let (encoding, content) = match compressed {
        Some(compressed) => (Encoding::Zstd, compressed),
        None => (Encoding::Raw, blob),
    };
    Parcel {
        digest,
        encoding,
        content,
    }
}

fn write_large(target: &Target, digest: Digest, blob: Bytes) -> Result<(), Error> {
    let chunks = [blob];
    let checksum = Arriving::whole(digest, &chunks)?;
    match Writing::start(target.clone(), digest)? {
        Some(writing) => writing.add(&chunks)?.finish(checksum),
        None => Ok(()),
    }
}

/// What becomes of the bytes.
enum Output {
    /// Decided when the first bytes are there.
    Undecided,
    Raw,
    Frames(FrameWriter),
}

/// A file being written. Dropped at any point, it leaves nothing behind. All functions block.
struct Writing {
    target: Target,
    digest: Digest,
    file: NamedTempFile,
    reservation: Reservation,
    reserved: u64,
    /// Bytes that came so far.
    arrived: u64,
    output: Output,
}

impl Writing {
    /// `None` when the blob is there already.
    fn start(target: Target, digest: Digest) -> Result<Option<Self>, Error> {
        if target.directory.touch(digest) {
            return Ok(None);
        }
        let bytes = target.bound(digest.size_bytes());
        target.directory.could_hold(digest, bytes)?;
        let first = bytes.min(FIRST_RESERVATION);
        let reservation = target.directory.reserve(digest, first)?;
        let file = target.directory.new_file(digest)?;
        Ok(Some(Self {
            output: if target.compress {
                Output::Undecided
            } else {
                Output::Raw
            },
            target,
            digest,
            file,
            reservation,
            reserved: first,
            arrived: 0,
        }))
    }

    /// Writes, but nothing beyond the size of the digest: what comes then is wrong, and hashing it says so.
    fn add(mut self, chunks: &[Bytes]) -> Result<Self, Error> {
        for chunk in chunks {
            self.arrived += chunk.len() as u64;
            if self.arrived > self.digest.size_bytes() {
                break;
            }
            self.make_room()?;
            self.write(chunk).map_err(disk_error(self.digest, || {
                format!("cannot write {}", self.file.path().display())
            }))?;
        }
        Ok(self)
    }

    /// Room for all that came so far.
    fn make_room(&mut self) -> Result<(), Error> {
        let needed = self.target.bound(self.arrived);
        if needed > self.reserved {
            let whole = self.target.bound(self.digest.size_bytes());
            self.reserved = needed.saturating_mul(2).min(whole);
            self.reservation.grow_to(self.digest, self.reserved)?;
        }
        Ok(())
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        if matches!(self.output, Output::Undecided) && !chunk.is_empty() {
            let mut frames = FrameWriter::new()?;
            self.output = if frames.is_worth_while(chunk) {
                Output::Frames(frames)
            } else {
                Output::Raw
            };
        }
        match &mut self.output {
            Output::Frames(frames) => frames.write(chunk, self.file.as_file_mut()),
            Output::Raw | Output::Undecided => self.file.write_all(chunk),
        }
    }

    /// To be called when all of the blob was written and its digest was right.
    fn finish(mut self, checksum: Checksum) -> Result<(), Error> {
        let digest = self.digest;
        let encoding = match self.output {
            Output::Frames(frames) => {
                let finished = frames.finish(self.file.as_file_mut());
                finished.map_err(disk_error(digest, || {
                    "cannot finish a compressed blob".to_owned()
                }))?;
                Encoding::Zstd
            }
            Output::Raw | Output::Undecided => Encoding::Raw,
        };
        let metadata = self.file.as_file().metadata();
        let length = metadata
            .map_err(Error::io("cannot look at a finished file"))?
            .len();
        let content = FileContent {
            file: self.file,
            encoding,
            length,
            checksum: Some(checksum),
        };
        self.target
            .directory
            .publish(digest, content, self.reservation, false)
    }
}
