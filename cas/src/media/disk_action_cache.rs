//! Action cache on disk.
//!
//! Each result takes a block or two in a directory of the same kind as the store's (`bounded_directory.rs`): results
//! survive the death of the process at any point, and the least recently used are evicted for new ones.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use prost::Message;

use crate::action_cache::ActionCache;
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::file_stream::{read_at, read_up_to};
use crate::media::bounded_directory::{
    BLOCK_BYTES, BoundedDirectory, CHECKPOINT_RECORDS, Content, ContentChecks, Encoding, Options, SmallEntry,
    Usage,
};

/// Size that the limit assumes for each result: one block of the file system. Results name their outputs by digest and
/// rarely need more.
const ENTRY_BYTES: u64 = 4096;
/// First bytes of every result; a change of the format changes it.
const MAGIC: &[u8; 8] = b"bitzela3";
/// Position of the checksum of the key and of all bytes that follow it. The key is part of it, so that no result is taken
/// for that of another Action, whatever a damaged index says.
const CHECKSUM: Range<usize> = 8..12;
/// Position of the length of the message.
const LENGTH: Range<usize> = 12..20;
/// Bytes before the message.
const HEADER_BYTES: usize = 20;

/// Action cache on disk. Clones share it.
#[derive(Clone)]
pub struct DiskActionCache {
    directory: Arc<BoundedDirectory>,
}

impl DiskActionCache {
    /// Opens the cache at `root`, which is created if necessary, for at most `max_results` results. One process at a time
    /// may have it open.
    pub async fn open(root: &Path, max_results: u64) -> Result<Self, Error> {
        Self::open_with(root, max_results, CHECKPOINT_RECORDS).await
    }

    pub(crate) async fn open_with(
        root: &Path,
        max_results: u64,
        checkpoint_records: u64,
    ) -> Result<Self, Error> {
        let root = root.to_owned();
        let options = Options {
            limit: max_results.saturating_mul(ENTRY_BYTES),
            free_space_floor: 0,
            checkpoint_records,
            checks: ContentChecks {
                file: |path, key, _| fs::read(path).is_ok_and(|content| decode(key, &content).is_some()),
                // A result does not prove its key, and a part of one that a client wrote could look like another.
                small: None,
            },
        };
        let directory = run_blocking(move || BoundedDirectory::open(&root, options)).await?;
        Ok(Self {
            directory: Arc::new(directory),
        })
    }

    /// Number and size of the results in the cache.
    pub fn usage(&self) -> Usage {
        self.directory.usage()
    }

    /// Makes all results survive a power loss, at a clean shutdown. Writes are refused from then on.
    pub async fn close(&self) -> Result<(), Error> {
        let directory = Arc::clone(&self.directory);
        run_blocking(move || directory.close()).await
    }
}

#[async_trait]
impl ActionCache for DiskActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        let key = key(instance, action);
        if !self.directory.touch(key) {
            return Ok(None);
        }
        // Results that were read or written recently are mostly in the page cache.
        let cached = self.directory.read_cached(key);
        if let Some(result) = cached.and_then(|(_, content)| decode(key, &content)) {
            return Ok(Some(result));
        }
        let directory = Arc::clone(&self.directory);
        run_blocking(move || get(&directory, key)).await
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        let key = key(instance, action);
        let directory = Arc::clone(&self.directory);
        let small_entry = SmallEntry {
            digest: key,
            encoding: Encoding::Raw,
            content: encode(key, &result).into(),
        };
        let put = run_blocking(move || directory.insert_small(&[small_entry], true)).await;
        put.into_iter().collect()
    }
}

fn get(directory: &BoundedDirectory, key: Digest) -> Result<Option<ActionResult>, Error> {
    let located = match directory.locate(&[key]).pop() {
        Some(Ok(located)) => located,
        Some(Err(Error::NotFound(_))) | None => return Ok(None),
        Some(Err(error)) => return Err(error),
    };
    let entry = located.entry;
    let bytes = u64::from(entry.blocks) * BLOCK_BYTES;
    let content = match located.content {
        Content::Part(file, offset) => read_at(&file, offset, bytes),
        Content::Whole(file) => read_up_to(&file, bytes),
    };
    let content = content
        .map_err(|error| Error::io(format_args!("cannot read {}", directory.describe(&entry)))(error))?;
    match decode(key, &content) {
        Some(result) => Ok(Some(result)),
        None if directory.quarantine(&entry) => Ok(None),
        // Evicted or replaced meanwhile.
        None => get(directory, key),
    }
}

/// Digest that names a result in the directory. The instance name is part of it; it comes last, so that its end needs no
/// mark.
fn key(instance: &InstanceName, action: Digest) -> Digest {
    let mut hasher = DigestFunction::Sha256.hasher();
    hasher.update(&[u8::try_from(action.function().to_wire()).unwrap_or(u8::MAX)]);
    hasher.update(action.hash());
    hasher.update(&action.size_bytes().to_le_bytes());
    hasher.update(instance.as_str().as_bytes());
    Digest::new(DigestFunction::Sha256, *hasher.finish().hash(), ENTRY_BYTES)
}

fn encode(key: Digest, result: &ActionResult) -> Vec<u8> {
    let length = result.encoded_len();
    let mut content = vec![0; HEADER_BYTES];
    content.extend_from_slice(&result.encode_to_vec());
    content[LENGTH].copy_from_slice(&(length as u64).to_le_bytes());
    let checksum = checksum(key, &content[LENGTH.start..]);
    content[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    content[..MAGIC.len()].copy_from_slice(MAGIC);
    content
}

/// Decodes the result of a key, which padding may follow. `None` if it is incomplete, damaged, or that of another key.
fn decode(key: Digest, content: &[u8]) -> Option<ActionResult> {
    let expected = u32::from_le_bytes(content.get(CHECKSUM)?.try_into().ok()?);
    let length = u64::from_le_bytes(content.get(LENGTH)?.try_into().ok()?);
    let end = HEADER_BYTES.checked_add(usize::try_from(length).ok()?)?;
    let checked = content.get(LENGTH.start..end)?;
    let is_right = content.starts_with(MAGIC) && checksum(key, checked) == expected;
    is_right
        .then(|| ActionResult::decode(&content[HEADER_BYTES..end]).ok())
        .flatten()
}

fn checksum(key: Digest, checked: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.hash());
    hasher.update(checked);
    hasher.finalize()
}

#[cfg(test)]
mod tests;
