//! Names of the files of a directory, and their creation and removal.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bitzel_proto::Digest;
use tempfile::{NamedTempFile, PersistError};

use super::{BLOCK_BYTES, Encoding, Entry};
use crate::error::Error;

/// Suffix of the names of compressed files.
pub(super) const ZSTD_SUFFIX: &str = ".zst";

/// Path of the file of an entry that is not in a segment.
pub(super) fn file_path(root: &Path, entry: &Entry) -> PathBuf {
    let name = file_name(entry.digest, entry.encoding);
    root.join("blobs")
        .join(entry.digest.function().name())
        .join(&name[..2])
        .join(name)
}

pub(super) fn file_name(digest: Digest, encoding: Encoding) -> String {
    let suffix = match encoding {
        Encoding::Raw => "",
        Encoding::Zstd => ZSTD_SUFFIX,
    };
    format!("{}-{}{suffix}", digest.hash_hex(), digest.size_bytes())
}

pub(super) fn make_directory(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io(format_args!("cannot create {}", path.display())))
}

/// Moves a finished file to `path`. Its directory is made with its first file: a store of few blobs should not cost
/// 512 directories.
pub(super) fn move_into_place(file: NamedTempFile, path: &Path) -> Result<(), Error> {
    let failed = |error| Error::io(format_args!("cannot move a finished file to {}", path.display()))(error);
    match file.persist(path) {
        Ok(_) => Ok(()),
        Err(PersistError { error, file }) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(path.parent().unwrap_or(path))?;
            file.persist(path).map_err(|error| failed(error.error))?;
            Ok(())
        }
        Err(error) => Err(failed(error.error)),
    }
}

/// Removes the files in a directory. The directory itself stays: it could not be made again on a full disk.
pub(super) fn empty_directory(directory: &Path) -> Result<(), Error> {
    let failed = |error| list_error(directory, error);
    for entry in fs::read_dir(directory).map_err(failed)? {
        remove_file(&entry.map_err(failed)?.path())?;
    }
    Ok(())
}

/// Removes a file. A file that is gone already is a success.
pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format_args!("cannot remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Paths and sizes of the files in a directory, in whole blocks.
pub(super) fn quarantined_files(directory: &Path) -> Result<VecDeque<(PathBuf, u64)>, Error> {
    let failed = |error| list_error(directory, error);
    let mut files = VecDeque::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let size = entry.metadata().map_err(failed)?.len();
        files.push_back((entry.path(), size.max(1).next_multiple_of(BLOCK_BYTES)));
    }
    Ok(files)
}

/// Numbers in the names of the files in `directory` that begin with `prefix`, ascending.
pub(super) fn numbers(directory: &Path, prefix: &str) -> Result<Vec<u64>, Error> {
    let failed = |error| list_error(directory, error);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.parse().ok());
        numbers.extend::<Option<u64>>(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Error of reading the list of files in `directory`.
pub(super) fn list_error(directory: &Path, error: io::Error) -> Error {
    Error::io(format_args!("cannot list {}", directory.display()))(error)
}
