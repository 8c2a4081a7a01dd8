//! What is in a directory that is being opened: from the index when it can be relied on, else from the files.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use bitzel_proto::{Digest, DigestFunction};
use lru::LruCache;

use super::checkpoint::CHECKPOINT_RECORDS;
use super::journal::{self, Change, Journal};
use super::{function_name, path, remove_file, snapshot};
use crate::error::Error;

pub(super) struct Recovered {
    /// The files, least recently used first in line for eviction.
    pub(super) entries: LruCache<Digest, u64>,
    /// A fresh journal.
    pub(super) journal: Journal,
    /// Whether the index on disk says something else than `entries`.
    pub(super) needs_checkpoint: bool,
}

pub(super) fn recover(root: &Path, is_intact: fn(&Path, Digest) -> bool) -> Result<Recovered, Error> {
    let index = root.join("index");
    for unfinished in [journal::UNFINISHED, snapshot::UNFINISHED] {
        remove_file(&index.join(unfinished))?;
    }
    let snapshots = numbers(&index, "snapshot-")?;
    let journals = numbers(&index, "journal-")?;
    let highest = snapshots.iter().chain(&journals).max().copied().unwrap_or(0);
    let mut vouched = None;
    let mut is_damaged = false;
    for number in snapshots.iter().rev() {
        if let Some(entries) = snapshot::read(&snapshot::path(&index, *number))? {
            vouched = Some((*number, entries));
            break;
        }
        tracing::error!(number, "a snapshot of the store's index is damaged");
        // The journals before it may be gone, and with them what an older snapshot lacks.
        is_damaged = true;
    }
    let (entries, is_reliable, length) = match vouched {
        None => (adopt(root, is_intact)?, false, 0),
        Some((number, listed)) => {
            let mut entries = LruCache::unbounded();
            for digest in listed {
                entries.put(digest, 0);
            }
            let mut changes = Vec::new();
            let mut is_reliable = !is_damaged;
            for number in journals.iter().filter(|journal| **journal >= number) {
                let replay = journal::replay(&journal::path(&index, *number))?;
                is_reliable &= replay.is_reliable;
                changes.extend(replay.changes);
            }
            let length = changes.len();
            if is_reliable {
                apply(root, &mut entries, &changes)?;
            } else {
                tracing::warn!(
                    "the store's index is not that of a process that just died; keeping what its last good snapshot lists"
                );
                scan(root, &mut entries)?;
            }
            (entries, is_reliable, length)
        }
    };
    Ok(Recovered {
        entries,
        journal: Journal::create(&index, highest + 1)?,
        // Old journals stay valid and are replayed again until the next snapshot; long ones not for ever.
        needs_checkpoint: !is_reliable || length as u64 > CHECKPOINT_RECORDS,
    })
}

/// Replays the journal, then looks at the files that it names: the process may have died before the last change.
fn apply(
    root: &Path,
    entries: &mut LruCache<Digest, u64>,
    changes: &[(Change, Digest)],
) -> Result<(), Error> {
    let mut last = HashMap::new();
    for (change, digest) in changes {
        match change {
            Change::Add => {
                entries.put(*digest, 0);
                last.insert(*digest, Change::Add);
            }
            Change::Remove => {
                entries.pop(digest);
                last.insert(*digest, Change::Remove);
            }
            Change::Touch => {
                entries.promote(digest);
            }
        }
    }
    for (digest, change) in last {
        let path = path(root, digest);
        match change {
            Change::Remove => remove_file(&path)?,
            _ => {
                if !path.exists() {
                    entries.pop(&digest);
                }
            }
        }
    }
    Ok(())
}

/// Keeps those of `entries` whose files are there, and removes all other files.
fn scan(root: &Path, entries: &mut LruCache<Digest, u64>) -> Result<(), Error> {
    let mut present = HashSet::new();
    for_each_file(root, |path, digest| {
        match digest.filter(|digest| entries.contains(digest)) {
            Some(digest) => {
                present.insert(digest);
                Ok(())
            }
            None => remove_file(path),
        }
    })?;
    let gone: Vec<Digest> = entries
        .iter()
        .map(|(digest, _)| *digest)
        .filter(|digest| !present.contains(digest))
        .collect();
    for digest in gone {
        entries.pop(&digest);
    }
    Ok(())
}

/// Builds the index of files that have none, oldest first; what is not intact goes.
fn adopt(root: &Path, is_intact: fn(&Path, Digest) -> bool) -> Result<LruCache<Digest, u64>, Error> {
    let mut found: Vec<(SystemTime, Digest)> = Vec::new();
    for_each_file(root, |path, digest| {
        match digest.filter(|digest| is_intact(path, *digest)) {
            Some(digest) => {
                let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
                found.push((modified.unwrap_or(SystemTime::UNIX_EPOCH), digest));
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
    found.sort_unstable();
    let mut entries = LruCache::unbounded();
    for (_, digest) in found {
        entries.put(digest, 0);
    }
    Ok(entries)
}

/// Calls `visit` with every file and the digest that its name says, if it says one.
fn for_each_file(
    root: &Path,
    mut visit: impl FnMut(&Path, Option<Digest>) -> Result<(), Error>,
) -> Result<(), Error> {
    for function in DigestFunction::ALL {
        for shard in 0..=255_u8 {
            let directory = root
                .join("blobs")
                .join(function_name(function))
                .join(hex::encode([shard]));
            let failed = || format!("cannot list {}", directory.display());
            let listing = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                listing => listing.map_err(Error::io(failed()))?,
            };
            for entry in listing {
                let entry = entry.map_err(Error::io(failed()))?;
                let name = entry.file_name();
                let digest = name.to_str().and_then(|name| parse_name(function, name));
                visit(&entry.path(), digest)?;
            }
        }
    }
    Ok(())
}

fn parse_name(function: DigestFunction, name: &str) -> Option<Digest> {
    let (hash, size) = name.split_once('-')?;
    let digest = Digest::from_parts(function, hash, size.parse().ok()?).ok()?;
    // Only the one right spelling: the file is looked for under that.
    (super::file_name(digest) == name).then_some(digest)
}

/// Removes the parts of the index that snapshot `number` makes superfluous.
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
        remove_file(&snapshot::path(index, old))?;
    }
    Ok(())
}

/// The numbers of the files with `prefix`, ascending.
fn numbers(index: &Path, prefix: &str) -> Result<Vec<u64>, Error> {
    let failed = || format!("cannot list {}", index.display());
    let mut numbers = Vec::new();
    for entry in fs::read_dir(index).map_err(Error::io(failed()))? {
        let name = entry.map_err(Error::io(failed()))?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.parse().ok());
        numbers.extend::<Option<u64>>(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}
