//! The directory that results are placed in. Nothing outside of it is touched: each directory is opened from there without
//! following a symbolic link, an earlier result's or anybody's, and what is in it is named relative to that.

use std::fs::{self, FileTimes, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bitzel_cas::{BlobRange, BlobStore};
use bitzel_proto::Digest;
use bitzel_proto::reapi::{FileNode, NodeProperties};
use futures::StreamExt as _;
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::Errno;
use tempfile::{Builder, NamedTempFile};

use crate::plan::tree::FUNCTION;
use crate::walk::BuildError;

/// Start of the names of what is not complete.
const TEMPORARY: &str = ".bitzel-";

/// Where results are placed.
pub(super) struct Destination {
    root: OwnedFd,
    path: PathBuf,
}

/// An entry of a directory that was opened.
struct Place {
    /// Keeps the path good.
    _directory: OwnedFd,
    parent: PathBuf,
    path: PathBuf,
}

impl Destination {
    /// Opens the directory, and makes it if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, BuildError> {
        fs::create_dir_all(path).map_err(BuildError::io(path))?;
        let root = open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        Ok(Self {
            root: root.map_err(|error| BuildError::io(path)(error.into()))?,
            path: path.to_owned(),
        })
    }

    fn failed(&self, relative: &str) -> impl Fn(io::Error) -> BuildError {
        let path = self.path.join(relative);
        move |error| BuildError::io(&path)(error)
    }

    fn directory(&self, relative: &str) -> rustix::io::Result<OwnedFd> {
        openat2(
            &self.root,
            if relative.is_empty() { "." } else { relative },
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    }

    fn place(&self, relative: &str) -> io::Result<Place> {
        let (parent, name) = relative.rsplit_once('/').unwrap_or(("", relative));
        if matches!(name, "" | "." | "..") {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let directory = self.directory(parent)?;
        let parent = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        Ok(Place {
            path: parent.join(name),
            _directory: directory,
            parent,
        })
    }

    /// Makes a directory whose parent is there. What an earlier build left there and is none is removed.
    pub(super) fn make_directory(&self, relative: &str) -> Result<(), BuildError> {
        let make = || -> io::Result<()> {
            match self.directory(relative) {
                Ok(_) => return Ok(()),
                Err(Errno::NOENT) => {}
                Err(Errno::LOOP | Errno::NOTDIR) => self.place(relative)?.remove()?,
                Err(error) => return Err(error.into()),
            }
            let (parent, name) = relative.rsplit_once('/').unwrap_or(("", relative));
            Ok(mkdirat(
                self.directory(parent)?,
                name,
                Mode::from_raw_mode(0o777),
            )?)
        };
        make().map_err(self.failed(relative))
    }

    /// Places a symbolic link.
    pub(super) fn place_symlink(&self, relative: &str, target: &str) -> Result<(), BuildError> {
        let place = || {
            let place = self.place(relative)?;
            let link = temporary().make_in(&place.parent, |path| symlink(target, path))?;
            place.take(link)
        };
        place().map_err(self.failed(relative))
    }

    /// Places a further name of a file that was placed.
    pub(super) fn place_link(&self, original: &str, relative: &str) -> Result<(), BuildError> {
        let place = || {
            let (original, place) = (self.place(original)?, self.place(relative)?);
            let link = temporary().make_in(&place.parent, |path| fs::hard_link(&original.path, path))?;
            place.take(link)
        };
        place().map_err(self.failed(relative))
    }

    /// Downloads a file. It is there when it is complete.
    pub(super) async fn write_file(
        &self,
        store: &dyn BlobStore,
        relative: &str,
        node: &FileNode,
    ) -> Result<(), BuildError> {
        let failed = self.failed(relative);
        let Ok(digest) = Digest::from_wire_field(FUNCTION, node.digest.as_ref()) else {
            return Ok(());
        };
        let place = self.place(relative).map_err(&failed)?;
        let mut file = temporary().tempfile_in(&place.parent).map_err(&failed)?;
        if !digest.is_empty_blob() {
            let context = || format!("downloading {}", self.path.join(relative).display());
            let mut blob = store
                .read(digest, BlobRange::default())
                .await
                .map_err(|error| BuildError::store(context())(error))?;
            while let Some(chunk) = blob.next().await {
                let chunk = chunk.map_err(|error| BuildError::store(context())(error))?;
                // Chunks are small and go to the page cache: the runtime has other threads for the network.
                tokio::task::block_in_place(|| file.write_all(&chunk)).map_err(&failed)?;
            }
        }
        set_properties(&file, node)
            .and_then(|()| place.take(file))
            .map_err(failed)
    }
}

fn temporary() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(TEMPORARY);
    builder
}

impl Place {
    /// Moves what is complete here, instead of what an earlier build left.
    fn take<F>(&self, complete: NamedTempFile<F>) -> io::Result<()> {
        match complete.persist(&self.path) {
            Ok(_) => Ok(()),
            Err(refused) if refused.error.kind() == io::ErrorKind::IsADirectory => {
                self.remove()?;
                refused
                    .file
                    .persist(&self.path)
                    .map(drop)
                    .map_err(|refused| refused.error)
            }
            Err(refused) => Err(refused.error),
        }
    }

    /// Removes what is here: a link itself, a directory with all that is in it.
    fn remove(&self) -> io::Result<()> {
        if fs::symlink_metadata(&self.path)?.is_dir() {
            fs::remove_dir_all(&self.path)
        } else {
            fs::remove_file(&self.path)
        }
    }
}

fn set_properties(file: &NamedTempFile, node: &FileNode) -> io::Result<()> {
    let properties = node.node_properties.clone().unwrap_or_default();
    let mode = properties
        .unix_mode
        .map_or(if node.is_executable { 0o755 } else { 0o644 }, |mode| mode.value);
    let file = file.as_file();
    file.set_permissions(Permissions::from_mode(mode & 0o777))?;
    match modified(&properties) {
        Some(modified) => file.set_times(FileTimes::new().set_modified(modified)),
        None => Ok(()),
    }
}

fn modified(properties: &NodeProperties) -> Option<SystemTime> {
    let mtime = properties.mtime.as_ref()?;
    let since_epoch = Duration::new(mtime.seconds.try_into().ok()?, mtime.nanos.try_into().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}
