//! An action cache on disk.
//!
//! One small file for each result, in a directory kept like that of the store (`bounded_directory.rs`): what was put
//! survives the death of the process at any point, and the least recently used make room for new ones.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use prost::Message;

use crate::action_cache::ActionCache;
use crate::bounded_directory::{BoundedDirectory, Options, Usage};
use crate::error::Error;
use crate::file_stream::run_blocking;

/// What each result counts for: one block of the file system. Results name their outputs by digest and rarely need
/// more.
const ENTRY_BYTES: u64 = 4096;
/// Starts every file; a change of the format changes it.
const MAGIC: &[u8; 8] = b"bitzela1";
/// Magic and checksum.
const HEADER: usize = MAGIC.len() + 4;

/// Remembers results on disk.
#[derive(Clone)]
pub struct DiskActionCache {
    directory: Arc<BoundedDirectory>,
}

impl DiskActionCache {
    /// Opens the cache at `root`, which is created if it is not there, for at most `max_results` results. One
    /// process at a time may have it open.
    pub async fn open(root: &Path, max_results: u64) -> Result<Self, Error> {
        let root = root.to_owned();
        let options = Options {
            limit: max_results.saturating_mul(ENTRY_BYTES),
            free_space_floor: 0,
            is_intact: |path, _| matches!(read(path), Ok(Some(_))),
        };
        let directory = run_blocking(move || BoundedDirectory::open(&root, options)).await?;
        Ok(Self {
            directory: Arc::new(directory),
        })
    }

    /// What the cache holds; its bytes are an estimate of one block for each result.
    pub fn usage(&self) -> Usage {
        self.directory.usage()
    }

    /// Makes everything that was put survive a power loss, at a clean shutdown. Nothing can be put from here on.
    pub async fn close(&self) -> Result<(), Error> {
        let directory = Arc::clone(&self.directory);
        run_blocking(move || directory.close()).await
    }
}

#[async_trait]
impl ActionCache for DiskActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        let key = key(instance, action);
        let directory = Arc::clone(&self.directory);
        run_blocking(move || {
            if !directory.touch(key) {
                return Ok(None);
            }
            let path = directory.path(key);
            match read(&path) {
                Ok(Some(result)) => Ok(Some(result)),
                Ok(None) => {
                    directory.quarantine(key);
                    Ok(None)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    directory.forget(key);
                    Ok(None)
                }
                Err(error) => Err(Error::io(format!("cannot read {}", path.display()))(error)),
            }
        })
        .await
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        let key = key(instance, action);
        let directory = Arc::clone(&self.directory);
        run_blocking(move || {
            let reservation = directory.reserve(key)?;
            let mut file = directory.new_file()?;
            let written = file.write_all(&encode(&result));
            written.map_err(Error::io(format!("cannot write {}", file.path().display())))?;
            directory.publish(key, file, reservation, true)
        })
        .await
    }
}

/// The name under which a result is kept. The instance is part of it; its end needs no mark, since it comes last.
fn key(instance: &InstanceName, action: Digest) -> Digest {
    let mut hasher = DigestFunction::Sha256.hasher();
    hasher.update(&[u8::try_from(action.function().to_wire()).unwrap_or(u8::MAX)]);
    hasher.update(action.hash());
    hasher.update(&action.size_bytes().to_le_bytes());
    hasher.update(instance.as_str().as_bytes());
    Digest::new(DigestFunction::Sha256, *hasher.finish().hash(), ENTRY_BYTES)
}

fn encode(result: &ActionResult) -> Vec<u8> {
    let message = result.encode_to_vec();
    let mut content = Vec::with_capacity(HEADER + message.len());
    content.extend_from_slice(MAGIC);
    content.extend_from_slice(&crc32fast::hash(&message).to_le_bytes());
    content.extend_from_slice(&message);
    content
}

/// `None` when the file is not one of a result, whole and right.
fn read(path: &Path) -> io::Result<Option<ActionResult>> {
    let content = fs::read(path)?;
    let Some(rest) = content.strip_prefix(MAGIC) else {
        return Ok(None);
    };
    let Some((checksum, message)) = rest.split_first_chunk() else {
        return Ok(None);
    };
    if crc32fast::hash(message).to_le_bytes() != *checksum {
        return Ok(None);
    }
    Ok(ActionResult::decode(message).ok())
}

#[cfg(test)]
mod tests;
