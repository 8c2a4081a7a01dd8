//! Contents of an archive's files on disk, until they are uploaded.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use bitzel_proto::Digest;
use tempfile::TempDir;

use crate::error::Error;
use crate::root_digest::ROOT_DIGEST_FUNCTION;
use crate::root_tree::MAX_BYTES;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 18;

/// Directory with one file for each content.
pub(super) struct Spool {
    directory: TempDir,
    files: HashMap<Digest, PathBuf>,
    bytes: u64,
    buffer: Vec<u8>,
}

/// The directory of a [`Spool`] that takes no more files. Removed when it is dropped.
pub(super) struct SpooledFiles {
    pub(super) directory: TempDir,
    pub(super) files: HashMap<Digest, PathBuf>,
}

impl Spool {
    /// Creates a directory in `parent`.
    pub(super) fn create(parent: &Path) -> Result<Self, Error> {
        let directory = tempfile::Builder::new()
            .prefix("root-import-")
            .tempdir_in(parent)
            .map_err(Error::io_at("create a directory in", parent))?;
        Ok(Self {
            directory,
            files: HashMap::new(),
            bytes: 0,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Keeps the content of `reader`, which has to have `size` bytes, under its digest.
    pub(super) fn add(&mut self, reader: &mut dyn Read, size: u64, entry: &str) -> Result<Digest, Error> {
        let damaged = |reason: String| Error::Entry {
            entry: entry.to_owned(),
            reason,
        };
        let path = self.directory.path().join("unfinished");
        let mut file = File::create(&path).map_err(Error::io_at("create", &path))?;
        let mut hasher = ROOT_DIGEST_FUNCTION.hasher();
        let mut found = 0;
        loop {
            let count = reader
                .read(&mut self.buffer)
                .map_err(|error| damaged(format!("cannot be read: {error}")))?;
            if count == 0 {
                break;
            }
            found += count as u64;
            self.bytes += count as u64;
            if self.bytes > MAX_BYTES {
                return Err(Error::TooLarge(format!("{MAX_BYTES} bytes")));
            }
            hasher.update(&self.buffer[..count]);
            file.write_all(&self.buffer[..count])
                .map_err(Error::io_at("write", &path))?;
        }
        if found != size {
            return Err(damaged(format!("ends after {found} of {size} bytes")));
        }
        let digest = hasher.finish();
        if !self.files.contains_key(&digest) {
            let kept = self.directory.path().join(digest.hash_hex());
            std::fs::rename(&path, &kept).map_err(Error::io_at("rename", &path))?;
            self.files.insert(digest, kept);
        }
        Ok(digest)
    }

    /// Ends the spool.
    pub(super) fn into_directory(self) -> SpooledFiles {
        SpooledFiles {
            directory: self.directory,
            files: self.files,
        }
    }
}
