//! Files of the cache on disk. Everything here blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bitzel_proto::Digest;
use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, Mode, chmod, utimensat};

use super::fetch::Fetch;
use super::index::CachedFile;
use super::key::FileKey;
use crate::error::Error;
use crate::node_properties::DEFAULT_MTIME;
use crate::worker_directories::WorkerDirectories;

/// A path below `temporary`. The file is removed unless it is published.
#[derive(Debug)]
pub(super) struct TemporaryPath {
    path: PathBuf,
    published: bool,
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct TemporaryFile {
    pub path: TemporaryPath,
    pub file: File,
}

impl TemporaryFile {
    pub(super) fn create(directories: &WorkerDirectories) -> Result<Self, Error> {
        let path = directories.cache().join(directories.fresh_path("temporary"));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io_at("create", &path))?;
        let path = TemporaryPath {
            path,
            published: false,
        };
        Ok(Self { path, file })
    }

    /// See [`TemporaryPath::publish`].
    pub(super) fn publish(self, directories: &WorkerDirectories, key: &FileKey) -> Result<CachedFile, Error> {
        self.path.publish(directories, key)
    }
}

impl TemporaryPath {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file the attributes of `key` and renames it into place.
    pub(super) fn publish(
        mut self,
        directories: &WorkerDirectories,
        key: &FileKey,
    ) -> Result<CachedFile, Error> {
        let target = directories.cache().join(super::FileCache::relative_path(key));
        let publish = || -> io::Result<u64> {
            let bytes = self.set_attributes(key)?;
            match fs::rename(&self.path, &target) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    target.parent().map_or(Ok(()), fs::create_dir_all)?;
                    fs::rename(&self.path, &target)?;
                }
                other => other?,
            }
            Ok(bytes)
        };
        let bytes = publish().map_err(Error::io_at("publish a file as", &target))?;
        self.published = true;
        Ok(CachedFile { key: *key, bytes })
    }

    /// Sets mode and time, and returns the bytes that the file takes.
    fn set_attributes(&self, key: &FileKey) -> io::Result<u64> {
        let mtime = key.identity.map_or(DEFAULT_MTIME, |identity| identity.mtime);
        chmod(&self.path, Mode::from_raw_mode(key.mode))?;
        utimensat(CWD, &self.path, &mtime.timestamps(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(disk_usage(&fs::symlink_metadata(&self.path)?))
    }
}

impl Drop for TemporaryPath {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The size of a file or of its blocks, whichever is more. A file may have far more blocks than its size needs, and a
/// sparse one far fewer.
fn disk_usage(metadata: &fs::Metadata) -> u64 {
    metadata.len().max(metadata.blocks().saturating_mul(512))
}

/// Fails if the digests differ.
pub(super) fn check_digest(expected: Digest, actual: Digest) -> Result<(), Error> {
    if actual == expected {
        return Ok(());
    }
    Err(bitzel_cas::Error::DigestMismatch { expected, actual }.into())
}

/// True if the cached file `path` has the content of `digest`.
pub(super) fn is_intact(path: &Path, digest: Digest) -> Result<bool, Error> {
    let hashed = File::open(path).and_then(|file| hash_file(file, digest, |_| Ok(())));
    match hashed {
        Ok(actual) => Ok(actual == digest),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io_at("read", path)(error)),
    }
}

/// Reads all of `file`, passes its bytes to `each`, and returns its digest. `digest` is the expected one.
fn hash_file(
    mut file: File,
    digest: Digest,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Digest> {
    let size = usize::try_from(digest.size_bytes()).unwrap_or(usize::MAX);
    let mut buffer = vec![0; size.clamp(1, 1 << 20)];
    let mut hasher = digest.function().hasher();
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            size => {
                hasher.update(&buffer[..size]);
                each(&buffer[..size])?;
            }
        }
    }
}

/// Checks one small blob and writes it under all its keys.
pub(super) fn write_small(
    fetch: &Fetch,
    digest: Digest,
    blob: &[u8],
    keys: &[FileKey],
) -> Result<Vec<CachedFile>, Error> {
    check_digest(digest, digest.function().digest(blob))?;
    let write = |key| {
        let mut file = TemporaryFile::create(fetch.directories())?;
        file.file
            .write_all(blob)
            .map_err(|source| Error::io(format!("write blob {digest}"))(source))?;
        fetch.publish(file, key)
    };
    keys.iter().map(write).collect()
}

/// Creates the files `keys` with the content of the cached file `source`, without a download. Each copy is hashed while
/// it is written. Fails if `source` does not have the content of `digest`.
pub(super) fn copy(
    fetch: &Fetch,
    source: &Path,
    digest: Digest,
    keys: &[FileKey],
) -> Result<Vec<CachedFile>, Error> {
    let copy = |key| {
        let mut file = TemporaryFile::create(fetch.directories())?;
        let actual = File::open(source)
            .and_then(|source| hash_file(source, digest, |bytes| file.file.write_all(bytes)))
            .map_err(Error::io_at("copy", source))?;
        check_digest(digest, actual)?;
        fetch.publish(file, key)
    };
    keys.iter().map(copy).collect()
}

/// Lists all files of the cache that have the size of their key. Removes the others, and those with unknown names: a
/// machine that lost power may leave such files. Also removes files that the worker cannot read, and so not verify.
pub(super) fn scan(directories: &WorkerDirectories) -> Result<Vec<CachedFile>, Error> {
    let root = directories.cache().join("files");
    let failed = || Error::io_at("read", &root);
    let directories: Vec<_> = fs::read_dir(&root)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(failed())?;
    let files: io::Result<Vec<Vec<CachedFile>>> = directories
        .par_iter()
        .map(|entry| scan_directory(&entry.path()))
        .collect();
    Ok(files.map_err(failed())?.concat())
}

fn scan_directory(directory: &Path) -> io::Result<Vec<CachedFile>> {
    let prefix = directory.file_name().unwrap_or_default().to_string_lossy();
    let mut files = vec![];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let key = FileKey::parse(&format!("{prefix}/{}", entry.file_name().to_string_lossy()));
        let metadata = entry.metadata()?;
        match key {
            Some(key)
                if key.is_readable() && metadata.is_file() && metadata.len() == key.digest.size_bytes() =>
            {
                let bytes = disk_usage(&metadata);
                files.push(CachedFile { key, bytes });
            }
            _ => fs::remove_file(entry.path())?,
        }
    }
    Ok(files)
}
