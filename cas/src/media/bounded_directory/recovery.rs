//! Recovery of the entries when a directory is opened: from the index if it can be relied on, else from the files.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use bitzel_proto::{Digest, DigestFunction};
use faster_hex::hex_string;

use super::entries::Entries;
use super::files::{ZSTD_SUFFIX, file_name, file_path, list_error, numbers, remove_file};
use super::journal::{self, Journal};
use super::record::Change;
use super::segments::reconciliation::reconcile;
use super::{Encoding, Entry, Place, blocks_of, index_snapshot};
use crate::error::Error;

/// Result of the recovery.
pub(super) struct Recovered {
    /// All entries.
    pub(super) entries: Entries,
    /// New journal.
    pub(super) journal: Journal,
    /// True if the index on disk differs from `entries`, or takes long to read.
    pub(super) needs_checkpoint: bool,
}

/// Recovers the entries of the directory at `root`.
pub(super) fn recover(
    root: &Path,
    is_intact: fn(&Path, Digest) -> bool,
    checkpoint_records: u64,
) -> Result<Recovered, Error> {
    let index = root.join("index");
    for unfinished in [journal::UNFINISHED, index_snapshot::UNFINISHED] {
        remove_file(&index.join(unfinished))?;
    }
    let snapshots = numbers(&index, "snapshot-")?;
    let journals = numbers(&index, "journal-")?;
    let highest = snapshots.iter().chain(&journals).max().copied().unwrap_or(0);
    let mut is_damaged = false;
    let mut found = None;
    for number in snapshots.iter().rev() {
        if let Some(listing) = index_snapshot::read(&index_snapshot::path(&index, *number))? {
            found = Some((*number, listing));
            break;
        }
        tracing::error!(number, "a snapshot of the store's index is damaged");
        is_damaged = true;
    }
    let Some((number, listing)) = found else {
        let mut entries = adopt(root, is_intact)?;
        reconcile(root, &mut entries, true)?;
        return Ok(Recovered {
            entries,
            journal: Journal::start(&index, highest + 1)?,
            needs_checkpoint: true,
        });
    };
    let mut entries = listing.entries;
    if listing.damaged > 0 {
        let records = listing.damaged;
        tracing::error!(
            number,
            records,
            "records of a snapshot of the store's index are damaged"
        );
        is_damaged = true;
    }
    let mut changes = Vec::new();
    let mut is_of_this_boot = true;
    for number in journals.iter().filter(|journal| **journal >= number) {
        let replay = journal::replay(&journal::path(&index, *number))?;
        is_of_this_boot &= replay.is_of_this_boot;
        is_damaged |= !replay.is_whole;
        changes.extend(replay.changes);
    }
    if is_of_this_boot {
        apply(root, &mut entries, &changes)?;
    } else {
        tracing::warn!(
            "the machine went down while the store was open; only the blobs in its last snapshot are kept"
        );
    }
    let is_reliable = is_of_this_boot && !is_damaged;
    if !is_reliable {
        sweep(root, &mut entries)?;
    }
    reconcile(root, &mut entries, !is_reliable)?;
    Ok(Recovered {
        entries,
        journal: Journal::start(&index, highest + 1)?,
        // Old journals stay valid and are replayed at each start until the next snapshot, which long ones start.
        needs_checkpoint: !is_reliable || changes.len() as u64 > checkpoint_records,
    })
}

/// Replays the journal, then examines the files that it names: the process may have died before the last change.
fn apply(root: &Path, entries: &mut Entries, changes: &[(Change, Entry)]) -> Result<(), Error> {
    let mut files: HashMap<Digest, (Change, Entry)> = HashMap::new();
    for (change, entry) in changes {
        match change {
            Change::Add => {
                entries.insert(*entry);
            }
            Change::Remove => {
                entries.remove(&entry.digest);
            }
            Change::Touch => {
                entries.promote(&entry.digest);
                entries.set_last_use(&entry.digest, entry.last_use);
                continue;
            }
        }
        if entry.place.is_file() {
            files.insert(entry.digest, (*change, *entry));
        }
    }
    for (digest, (change, entry)) in files {
        let path = file_path(root, &entry);
        if change == Change::Remove {
            remove_file(&path)?;
        } else if !path.exists() && entries.get(&digest).is_some_and(|entry| entry.place.is_file()) {
            entries.remove(&digest);
        }
    }
    Ok(())
}

/// Removes files without an entry, and entries without a file.
fn sweep(root: &Path, entries: &mut Entries) -> Result<(), Error> {
    let mut present = HashSet::new();
    for_each_file(root, |path, named| {
        let known = named.filter(|(digest, encoding)| {
            let entry = entries.get(digest);
            entry.is_some_and(|entry| entry.place.is_file() && entry.encoding == *encoding)
        });
        match known {
            Some((digest, _)) => {
                present.insert(digest);
                Ok(())
            }
            None => remove_file(path),
        }
    })?;
    let gone: Vec<Digest> = entries
        .iter()
        .filter(|entry| entry.place.is_file() && !present.contains(&entry.digest))
        .map(|entry| entry.digest)
        .collect();
    for digest in gone {
        entries.remove(&digest);
    }
    Ok(())
}

/// Builds an index from the files, the oldest first. Files that are not intact are removed. Segments do not name their
/// entries, so these are lost.
fn adopt(root: &Path, is_intact: fn(&Path, Digest) -> bool) -> Result<Entries, Error> {
    let mut found: Vec<(SystemTime, Entry)> = Vec::new();
    for_each_file(root, |path, named| {
        match named.filter(|(digest, _)| is_intact(path, *digest)) {
            Some((digest, encoding)) => {
                let metadata = fs::metadata(path)
                    .map_err(Error::io(format_args!("cannot examine {}", path.display())))?;
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let since = modified
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                let entry = Entry {
                    digest,
                    place: Place::File(None),
                    encoding,
                    blocks: blocks_of(metadata.len()),
                    last_use: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
                };
                found.push((modified, entry));
                Ok(())
            }
            None => remove_file(path),
        }
    })?;
    if !found.is_empty() {
        tracing::warn!(
            files = found.len(),
            "the store had no usable index; it was built from the files"
        );
    }
    found.sort_unstable_by_key(|(modified, entry)| (*modified, entry.digest));
    let mut entries = Entries::new();
    for (_, entry) in found {
        entries.insert(entry);
    }
    Ok(entries)
}

/// Calls `visit` with the path of every file and with the digest and encoding in its name, if the name is valid.
fn for_each_file(
    root: &Path,
    mut visit: impl FnMut(&Path, Option<(Digest, Encoding)>) -> Result<(), Error>,
) -> Result<(), Error> {
    for function in DigestFunction::ALL {
        for shard in 0..=255_u8 {
            let directory = root
                .join("blobs")
                .join(function.name())
                .join(hex_string(&[shard]));
            let failed = |error| list_error(&directory, error);
            let listing = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                listing => listing.map_err(failed)?,
            };
            for entry in listing {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                let named = name.to_str().and_then(|name| parse_name(function, name));
                visit(&entry.path(), named)?;
            }
        }
    }
    Ok(())
}

fn parse_name(function: DigestFunction, name: &str) -> Option<(Digest, Encoding)> {
    let (stem, encoding) = match name.strip_suffix(ZSTD_SUFFIX) {
        Some(stem) => (stem, Encoding::Zstd),
        None => (name, Encoding::Raw),
    };
    let (hash, size) = stem.split_once('-')?;
    let digest = Digest::from_parts(function, hash, size.parse().ok()?).ok()?;
    // Only the canonical spelling: the file is looked up under that name.
    (file_name(digest, encoding) == name).then_some((digest, encoding))
}

/// Removes the parts of the index that snapshot `number` replaces.
pub(super) fn remove_older(index: &Path, number: u64) -> Result<(), Error> {
    for old in numbers(index, "journal-")?
        .into_iter()
        .filter(|old| *old < number)
    {
        remove_file(&journal::path(index, old))?;
    }
    for old in numbers(index, "snapshot-")?
        .into_iter()
        .filter(|old| *old < number)
    {
        remove_file(&index_snapshot::path(index, old))?;
    }
    Ok(())
}
