//! Destination directory of results.
//!
//! Nothing outside of it is touched: each directory is opened from there without following symbolic links, also those of
//! earlier results, and its entries are named relative to the open directory.

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

use crate::plan::tree::DIGEST_FUNCTION;
use crate::walk::BuildError;

/// Prefix of the names of incomplete files.
const TEMPORARY_PREFIX: &str = ".bitzel-";

/// Destination directory of results.
pub(super) struct Destination {
    root: OwnedFd,
    path: PathBuf,
}

/// Entry of an open directory.
struct DirectoryEntry {
    /// Keeps the path valid.
    _directory: OwnedFd,
    parent: PathBuf,
    path: PathBuf,
}

impl Destination {
    /// Opens the directory, and creates it if it does not exist.
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

    /// Opens the parent of a path.
    fn entry(&self, relative: &str) -> io::Result<DirectoryEntry> {
        let (parent, name) = relative.rsplit_once('/').unwrap_or(("", relative));
        if matches!(name, "" | "." | "..") {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let directory = self.directory(parent)?;
        let parent = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        Ok(DirectoryEntry {
            path: parent.join(name),
            _directory: directory,
            parent,
        })
    }

    /// Creates a directory whose parent exists. A file or link of an earlier build at its path is removed.
    pub(super) fn create_directory(&self, relative: &str) -> Result<(), BuildError> {
        let create = || -> io::Result<()> {
            match self.directory(relative) {
                Ok(_) => return Ok(()),
                Err(Errno::NOENT) => {}
                Err(Errno::LOOP | Errno::NOTDIR) => self.entry(relative)?.remove()?,
                Err(error) => return Err(error.into()),
            }
            let (parent, name) = relative.rsplit_once('/').unwrap_or(("", relative));
            Ok(mkdirat(
                self.directory(parent)?,
                name,
                Mode::from_raw_mode(0o777),
            )?)
        };
        create().map_err(self.failed(relative))
    }

    /// Places a symbolic link.
    pub(super) fn place_symlink(&self, relative: &str, target: &str) -> Result<(), BuildError> {
        let place = || {
            let entry = self.entry(relative)?;
            let link = temporary().make_in(&entry.parent, |path| symlink(target, path))?;
            entry.replace_with(link)
        };
        place().map_err(self.failed(relative))
    }

    /// Places a hard link to a file that was placed.
    pub(super) fn place_link(&self, original: &str, relative: &str) -> Result<(), BuildError> {
        let place = || {
            let (original, entry) = (self.entry(original)?, self.entry(relative)?);
            let link = temporary().make_in(&entry.parent, |path| fs::hard_link(&original.path, path))?;
            entry.replace_with(link)
        };
        place().map_err(self.failed(relative))
    }

    /// Downloads a file. It gets its name when it is complete.
    pub(super) async fn write_file(
        &self,
        store: &dyn BlobStore,
        relative: &str,
        node: &FileNode,
    ) -> Result<(), BuildError> {
        let failed = self.failed(relative);
        let Ok(digest) = Digest::from_wire_field(DIGEST_FUNCTION, node.digest.as_ref()) else {
            return Ok(());
        };
        let entry = self.entry(relative).map_err(&failed)?;
        let mut file = temporary().tempfile_in(&entry.parent).map_err(&failed)?;
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
            .and_then(|()| entry.replace_with(file))
            .map_err(failed)
    }
}

fn temporary() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    builder
}

impl DirectoryEntry {
    /// Replaces the entry of an earlier build by a complete file or link.
    fn replace_with<F>(&self, complete: NamedTempFile<F>) -> io::Result<()> {
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

    /// Removes the entry: a link itself, a directory with its content.
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
