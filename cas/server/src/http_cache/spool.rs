//! Uploads whose digest is known only at their end.

use std::fs::File;
use std::io::{self, ErrorKind, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bitzel_proto::{Digest, DigestFunction};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use bitzel_cas::blob_store::{BlobStream, one_chunk};
use bitzel_cas::blocking::run_blocking;
use bitzel_cas::error::Error;
use bitzel_cas::file_stream::{file_stream, read_at};
use bitzel_cas::free_space::free_space;

/// Up to this size an upload stays in memory, and larger ones go to their file in pieces of this size.
const SMALL: usize = 1 << 20;
/// Uploads that do so at a time.
const IN_MEMORY: usize = 64;
/// The same for those that come on top.
const TINY: usize = 64 << 10;

/// What uploads may write after one look at the disk, in bytes.
const LOOK: u64 = 64 << 20;

/// Keeps uploads until their digest is known: small ones in memory, others in files without a name, which are gone with
/// the process. All of them together take no more room than the limit, and none that others on the disk need.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    limit: u64,
    /// What stays free on the disk, in bytes.
    free_space_floor: u64,
    /// What of the room that the last look at the disk found is not taken yet.
    granted: Arc<Mutex<u64>>,
    used: Arc<AtomicU64>,
    memory: Arc<Semaphore>,
}

/// Bytes of the limit that an upload has taken.
#[derive(Debug)]
struct Room {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An upload that is complete.
#[derive(Debug)]
pub(super) struct Spooled {
    digest: Digest,
    content: Content,
    room: Room,
    /// The place of an upload that is in memory.
    place: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Content {
    Memory(Bytes),
    File(Arc<File>),
}

impl Spool {
    /// Files are made in `directory`, which has to be there; `limit` is in bytes. They leave `free_space_floor` bytes of its
    /// disk free: take that of a store on the same disk, so that no upload takes what makes the store evict.
    pub fn new(directory: impl Into<PathBuf>, limit: u64, free_space_floor: u64) -> Self {
        Self {
            directory: directory.into(),
            limit,
            free_space_floor,
            granted: Arc::default(),
            used: Arc::default(),
            memory: Arc::new(Semaphore::new(IN_MEMORY)),
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes an upload in. `size` is what it announces, if it does.
    pub(super) async fn take(
        &self,
        function: DigestFunction,
        size: Option<u64>,
        mut upload: BlobStream,
    ) -> Result<Spooled, Status> {
        let limit = self.limit;
        let too_large = |bytes: u64| {
            Status::out_of_range(format!(
                "the body has {bytes} bytes or more; values, and blobs whose size is not announced, have {limit} at most"
            ))
        };
        if let Some(size) = size.filter(|size| *size > limit) {
            return Err(too_large(size));
        }
        let mut room = Room {
            used: Arc::clone(&self.used),
            bytes: 0,
        };
        let place = Arc::clone(&self.memory).try_acquire_owned().ok();
        let piece = if place.is_some() { SMALL } else { TINY };
        let mut hasher = function.hasher();
        let mut buffer = BytesMut::new();
        let mut file: Option<Arc<File>> = None;
        while let Some(chunk) = upload.next().await.transpose()? {
            hasher.update(&chunk);
            if hasher.size_bytes() > limit {
                return Err(too_large(hasher.size_bytes()));
            }
            room.grow(chunk.len() as u64, limit)?;
            if !buffer.is_empty() && buffer.len() + chunk.len() > piece {
                file = Some(self.append(file, buffer.split().freeze()).await?);
            }
            buffer.extend_from_slice(&chunk);
        }
        let digest = hasher.finish();
        if let Some(size) = size.filter(|size| *size != digest.size_bytes()) {
            return Err(Status::invalid_argument(format!(
                "the body has {} bytes, and {size} were announced",
                digest.size_bytes()
            )));
        }
        let (content, place) = match file {
            None => (Content::Memory(buffer.freeze()), place),
            file => (Content::File(self.append(file, buffer.freeze()).await?), None),
        };
        Ok(Spooled {
            digest,
            content,
            room,
            place,
        })
    }

    async fn append(&self, file: Option<Arc<File>>, bytes: Bytes) -> Result<Arc<File>, Status> {
        let (directory, granted) = (self.directory.clone(), Arc::clone(&self.granted));
        let floor = self.free_space_floor;
        run_blocking(move || {
            grant(&granted, bytes.len() as u64, || {
                Ok(free_space(&directory)?.saturating_sub(floor))
            })?;
            let file = match file {
                Some(file) => file,
                None => Arc::new(tempfile::tempfile_in(&directory)?),
            };
            (&*file).write_all(&bytes)?;
            Ok(file)
        })
        .await
        .map_err(|error| not_kept(&self.directory, error))
    }
}

/// Takes `bytes` of the room that was found when somebody looked last, or looks again. The room is that of the disk, of
/// which a part is granted at a time: who else writes there is seen soon enough.
fn grant(granted: &Mutex<u64>, bytes: u64, room: impl FnOnce() -> io::Result<u64>) -> io::Result<()> {
    let mut granted = granted.lock();
    if *granted < bytes {
        *granted = room()?.min(LOOK.max(bytes));
    }
    *granted = granted.checked_sub(bytes).ok_or(ErrorKind::StorageFull)?;
    Ok(())
}

/// A full disk is no fault of the server: others fill it too.
fn not_kept(directory: &Path, error: io::Error) -> Status {
    let context = format!("cannot keep an upload in {}", directory.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Status::resource_exhausted(format!("{context}: there is no room on its disk"))
        }
        _ => Error::io(context)(error).into(),
    }
}

impl Room {
    fn grow(&mut self, bytes: u64, limit: u64) -> Result<(), Status> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before + bytes > limit {
            return Err(Status::resource_exhausted(
                "too many uploads are under way whose digests are not known yet; try again when some are over",
            ));
        }
        Ok(())
    }
}

impl Spooled {
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// All of it; for what is known to be small enough.
    pub(super) async fn bytes(&self) -> Result<Bytes, Error> {
        match &self.content {
            Content::Memory(bytes) => Ok(bytes.clone()),
            Content::File(file) => {
                let (file, size) = (Arc::clone(file), self.digest.size_bytes());
                let read = run_blocking(move || read_at(&file, 0, size)).await;
                read.map_err(Error::io("cannot read an upload back"))
            }
        }
    }

    pub(super) fn into_stream(self) -> BlobStream {
        let Self {
            digest,
            content,
            room,
            place,
        } = self;
        let file = match content {
            Content::Memory(bytes) => {
                let chunks = one_chunk(bytes).inspect(move |_| {
                    // Its place and room are taken until the bytes are.
                    let _ = (&place, &room);
                });
                return chunks.boxed();
            }
            Content::File(file) => file,
        };
        let opened = async move {
            let failed = || Error::io("cannot read an upload back");
            let mut file = file.try_clone().map_err(failed())?;
            file.rewind().map_err(failed())?;
            let chunks = file_stream(file, PathBuf::from("an upload"), digest.size_bytes());
            Ok::<_, Error>(chunks.map(move |chunk| {
                // Its room is taken until the last chunk is.
                let _ = &room;
                chunk
            }))
        };
        futures::stream::once(opened)
            .flat_map(|opened| match opened {
                Ok(chunks) => chunks.boxed(),
                Err(error) => futures::stream::once(async { Err(error) }).boxed(),
            })
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use bitzel_cas::blob_store::collect;
    use bitzel_cas::testing::noise;

    fn chunks(blob: &[u8]) -> BlobStream {
        let chunks: Vec<_> = blob
            .chunks(100_000)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        futures::stream::iter(chunks).boxed()
    }

    #[tokio::test]
    async fn room_is_taken_until_an_upload_has_been_passed_on() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path(), 5 << 20, 0);
        let take = async |blob: &[u8]| spool.take(DigestFunction::Sha256, None, chunks(blob)).await;
        for size in [500_000, 3 << 20] {
            let blob = noise(1, size);
            let held = take(&blob).await.unwrap();
            assert_eq!(held.bytes().await.unwrap(), blob);
            assert_eq!(spool.used.load(Ordering::Relaxed), size as u64);
            let refused = take(&noise(2, (5 << 20) - 10)).await.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
            let mut stream = held.into_stream();
            stream.next().await.unwrap().unwrap();
            assert_eq!(spool.used.load(Ordering::Relaxed), size as u64);
            drop(stream);
            assert_eq!(spool.used.load(Ordering::Relaxed), 0);
            assert!(collect(take(&blob).await.unwrap().into_stream()).await.unwrap() == blob);
        }
    }

    #[tokio::test]
    async fn uploads_beyond_what_fits_in_memory_go_to_files_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path(), 50 << 20, 0);
        let mut held = Vec::new();
        for number in 0..IN_MEMORY + 3 {
            let blob = noise(number as u64, 200_000);
            let upload = spool
                .take(DigestFunction::Sha256, Some(200_000), chunks(&blob))
                .await
                .unwrap();
            assert_eq!(matches!(upload.content, Content::Memory(_)), number < IN_MEMORY);
            held.push((upload, blob));
        }
        for (upload, blob) in held {
            assert!(collect(upload.into_stream()).await.unwrap() == blob);
        }
    }

    #[tokio::test]
    async fn what_is_to_stay_free_on_the_disk_stays_free() {
        let directory = tempfile::tempdir().unwrap();
        let (no_flags, size) = (rustix::mount::MountFlags::empty(), c"size=24m");
        if let Err(error) = rustix::mount::mount("tmpfs", directory.path(), "tmpfs", no_flags, Some(size)) {
            eprintln!("SKIPPED: a small disk for uploads: cannot mount a small file system: {error}");
            return;
        }
        let spool = Spool::new(directory.path(), 50 << 20, 20 << 20);
        let take = async |blob: &[u8]| spool.take(DigestFunction::Sha256, None, chunks(blob)).await;
        let refused = take(&noise(1, 5 << 20)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert_eq!(spool.used.load(Ordering::Relaxed), 0);
        drop(take(&noise(1, 3 << 20)).await.unwrap());
        // In memory there is room.
        let kept = take(&noise(2, 100_000)).await.unwrap();
        assert_eq!(kept.bytes().await.unwrap(), noise(2, 100_000));
        rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }

    #[test]
    fn the_disk_is_looked_at_once_for_many_pieces() {
        let (granted, piece) = (Mutex::default(), 1 << 20);
        let mut looks = 0;
        for _ in 0..128 {
            grant(&granted, piece, || {
                looks += 1;
                Ok(1 << 40)
            })
            .unwrap();
        }
        assert_eq!(looks, 2);
        // Never more than there is.
        grant(&granted, piece, || Ok(piece + 5)).unwrap();
        assert!(grant(&granted, piece, || Ok(5)).is_err());
        assert!(grant(&granted, piece, || Ok(0)).is_err());
        grant(&granted, LOOK + piece, || Ok(1 << 40)).unwrap();
    }

    #[test]
    fn a_full_disk_is_no_fault_of_the_server() {
        let status = |kind: ErrorKind| not_kept(Path::new("/spool"), kind.into());
        assert_eq!(status(ErrorKind::StorageFull).code(), Code::ResourceExhausted);
        assert_eq!(status(ErrorKind::PermissionDenied).code(), Code::Internal);
    }
}
