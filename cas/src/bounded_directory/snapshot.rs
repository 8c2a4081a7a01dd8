//! All files of a directory in order of use, in one file: magic, entries of 41 bytes, checksum.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use bitzel_proto::{Digest, DigestFunction};

use super::journal::function_code;
use crate::error::Error;

/// Function, hash, size.
pub(super) const ENTRY: usize = 41;
const MAGIC: &[u8; 8] = b"bitzels1";
/// The name of a snapshot that is being written.
pub(super) const UNFINISHED: &str = "unfinished-snapshot";

pub(super) fn path(index: &Path, number: u64) -> PathBuf {
    index.join(format!("snapshot-{number:020}"))
}

/// Writes a snapshot; on return it is on disk for good.
pub(super) fn write(index: &Path, number: u64, entries: &[Digest]) -> Result<(), Error> {
    let path = path(index, number);
    let failed = || Error::io(format!("cannot write {}", path.display()));
    let mut content = Vec::with_capacity(MAGIC.len() + entries.len() * ENTRY + 4);
    content.extend_from_slice(MAGIC);
    for digest in entries {
        content.extend_from_slice(&encode(*digest));
    }
    content.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
    let unfinished = index.join(UNFINISHED);
    let mut file = File::create(&unfinished).map_err(failed())?;
    file.write_all(&content).map_err(failed())?;
    file.sync_all().map_err(failed())?;
    fs::rename(&unfinished, &path).map_err(failed())?;
    sync_directory(index)
}

/// Reads a snapshot; `None` when it is damaged.
pub(super) fn read(path: &Path) -> Result<Option<Vec<Digest>>, Error> {
    let bytes = fs::read(path).map_err(Error::io(format!("cannot read {}", path.display())))?;
    let Some((content, checksum)) = bytes.split_last_chunk() else {
        return Ok(None);
    };
    if crc32fast::hash(content).to_le_bytes() != *checksum {
        return Ok(None);
    }
    let Some(entries) = content.strip_prefix(MAGIC) else {
        return Ok(None);
    };
    Ok(entries.as_chunks::<ENTRY>().0.iter().map(decode).collect())
}

pub(super) fn encode(digest: Digest) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[0] = function_code(digest.function());
    entry[1..33].copy_from_slice(digest.hash());
    entry[33..].copy_from_slice(&digest.size_bytes().to_le_bytes());
    entry
}

pub(super) fn decode(entry: &[u8; ENTRY]) -> Option<Digest> {
    let function = DigestFunction::ALL
        .into_iter()
        .find(|function| function_code(*function) == entry[0])?;
    let hash = entry[1..].first_chunk()?;
    let size = entry.last_chunk()?;
    Some(Digest::new(function, *hash, u64::from_le_bytes(*size)))
}

/// Makes renames and creations in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::io(format!("cannot sync {}", directory.display())))
}
