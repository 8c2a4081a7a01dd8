//! Spool of uploads whose digest is known only at their end.

use std::fs::File;
use std::io::{self, ErrorKind, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bitzel_cas::blob_store::{BlobStream, one_chunk};
use bitzel_cas::blocking::run_blocking;
use bitzel_cas::error::Error;
use bitzel_cas::file_stream::{file_stream, read_at};
use bitzel_cas::free_space::free_space;
use bitzel_proto::{Digest, DigestFunction};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::Extensions;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::upload_shares::{UploadShare, UploadShares};

/// Largest upload that stays in memory. Larger ones are written to their file in pieces of this size.
const MEMORY_UPLOAD_BYTES: usize = 1 << 20;
/// Uploads that may use this much memory at the same time.
const MAX_MEMORY_UPLOADS: usize = 64;
/// Size of the pieces in which further uploads are written to their file.
const FILE_UPLOAD_PIECE_BYTES: usize = 64 << 10;

/// Free space that is granted to uploads after one check of the disk.
const GRANTED_BYTES: u64 = 64 << 20;

/// Scratch space that keeps uploads until their digest is known: small ones in memory, others in unlinked files, which
/// disappear with the process. All uploads together take at most `limit` bytes, those of one identity half of them, and
/// they leave the free space floor of the disk alone.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    limit: u64,
    /// Bytes that stay free on the disk.
    free_space_floor: u64,
    /// Rest of the free space that was granted after the last check of the disk.
    granted: Arc<Mutex<u64>>,
    used: Arc<AtomicU64>,
    shares: Arc<UploadShares>,
    memory_uploads: Arc<Semaphore>,
}

/// Bytes of the spool's limit that an upload has reserved.
#[derive(Debug)]
struct Reservation {
    used: Arc<AtomicU64>,
    bytes: u64,
    share: UploadShare,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Complete upload.
#[derive(Debug)]
pub(super) struct Spooled {
    digest: Digest,
    content: Content,
    reservation: Reservation,
    /// Permit of an upload in memory.
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Content {
    Memory(Bytes),
    File(Arc<File>),
}

impl Spool {
    /// Keeps files in `directory`, which must exist. `limit` is in bytes. `free_space_floor` bytes of the disk stay free:
    /// use that of a store on the same disk, so that uploads never make the store evict.
    pub fn new(directory: impl Into<PathBuf>, limit: u64, free_space_floor: u64) -> Self {
        Self {
            directory: directory.into(),
            limit,
            free_space_floor,
            granted: Arc::default(),
            used: Arc::default(),
            shares: UploadShares::new(limit / 2),
            memory_uploads: Arc::new(Semaphore::new(MAX_MEMORY_UPLOADS)),
        }
    }

    /// Largest size of an upload: what one identity may use.
    pub(super) fn largest_upload(&self) -> u64 {
        self.limit / 2
    }

    /// Receives an upload of the caller of `request`. `size` is its announced size, if there is one.
    pub(super) async fn receive(
        &self,
        request: &Extensions,
        function: DigestFunction,
        size: Option<u64>,
        mut upload: BlobStream,
    ) -> Result<Spooled, Status> {
        let limit = self.largest_upload();
        let too_large = |bytes: u64| {
            Status::out_of_range(format!(
                "the body has {bytes} bytes or more; values, and blobs whose size is not announced, have {limit} at most"
            ))
        };
        if let Some(size) = size.filter(|size| *size > limit) {
            return Err(too_large(size));
        }
        let mut reservation = Reservation {
            used: Arc::clone(&self.used),
            bytes: 0,
            share: self.shares.begin(request),
        };
        let permit = Arc::clone(&self.memory_uploads).try_acquire_owned().ok();
        let piece = if permit.is_some() {
            MEMORY_UPLOAD_BYTES
        } else {
            FILE_UPLOAD_PIECE_BYTES
        };
        let mut hasher = function.hasher();
        let mut buffer = BytesMut::new();
        let mut file: Option<Arc<File>> = None;
        while let Some(chunk) = upload.next().await.transpose()? {
            hasher.update(&chunk);
            if hasher.size_bytes() > limit {
                return Err(too_large(hasher.size_bytes()));
            }
            reservation.grow(chunk.len() as u64, self.limit)?;
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
        let (content, permit) = match file {
            None => (Content::Memory(buffer.freeze()), permit),
            file => (Content::File(self.append(file, buffer.freeze()).await?), None),
        };
        Ok(Spooled {
            digest,
            content,
            reservation,
            permit,
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
        .map_err(|error| write_error(&self.directory, error))
    }
}

/// Takes `bytes` of the granted free space, and checks the disk again if they are not enough. Only a part of the free
/// space is granted at a time, so that writes of other programs are noticed soon.
fn grant(granted: &Mutex<u64>, bytes: u64, free_space: impl FnOnce() -> io::Result<u64>) -> io::Result<()> {
    let mut granted = granted.lock();
    if *granted < bytes {
        *granted = free_space()?.min(GRANTED_BYTES.max(bytes));
    }
    *granted = granted.checked_sub(bytes).ok_or(ErrorKind::StorageFull)?;
    Ok(())
}

/// Status of a failed write. A full disk is no internal error of the server: other programs fill it too.
fn write_error(directory: &Path, error: io::Error) -> Status {
    let context = format!("cannot keep an upload in {}", directory.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Status::resource_exhausted(format!("{context}: its disk is full"))
        }
        _ => Error::io(context)(error).into(),
    }
}

fn read_error(error: io::Error) -> Error {
    Error::io("cannot read an upload back")(error)
}

impl Reservation {
    fn grow(&mut self, bytes: u64, limit: u64) -> Result<(), Status> {
        self.share.grow(bytes)?;
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before + bytes > limit {
            return Err(Status::resource_exhausted(
                "too many uploads with unknown digests are open; try again when some have ended",
            ));
        }
        Ok(())
    }
}

impl Spooled {
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// The whole upload, which must fit in memory.
    pub(super) async fn bytes(&self) -> Result<Bytes, Error> {
        match &self.content {
            Content::Memory(bytes) => Ok(bytes.clone()),
            Content::File(file) => {
                let (file, size) = (Arc::clone(file), self.digest.size_bytes());
                let read = run_blocking(move || read_at(&file, 0, size)).await;
                read.map_err(read_error)
            }
        }
    }

    pub(super) fn into_stream(self) -> BlobStream {
        let Self {
            digest,
            content,
            reservation,
            permit,
        } = self;
        let file = match content {
            Content::Memory(bytes) => {
                let chunks = one_chunk(bytes).inspect(move |_| {
                    // Permit and reservation are held until the bytes are passed on.
                    let _ = (&permit, &reservation);
                });
                return chunks.boxed();
            }
            Content::File(file) => file,
        };
        let opened = async move {
            let mut file = file.try_clone().map_err(read_error)?;
            file.rewind().map_err(read_error)?;
            let chunks = file_stream(file, PathBuf::from("an upload"), digest.size_bytes());
            Ok::<_, Error>(chunks.map(move |chunk| {
                // The reservation is held until the last chunk is passed on.
                let _ = &reservation;
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
mod tests;
