//! Recovery of the entries when a directory is opened: from the index if it can be relied on, else from the files.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use bitzel_proto::{Digest, DigestFunction};
use faster_hex::hex_string;

use super::entries::Entries;
use super::files::{ZSTD_SUFFIX, file_name, file_path, list_error, numbers, remove_file};
use super::journal::{self, Journal, Origin};
use super::record::Change;
use super::segments::reconciliation::reconcile;
use super::segments::salvage;
use super::{Encoding, Entry, Place, blocks_of, index_snapshot};
use crate::error::Error;

/// Name of the file that exists in the index while the directory is open.
const OPEN_MARK: &str = "open";

/// Checks of content, which decide about files and segments of a damaged index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ContentChecks {
    /// True if the content of a file is that of an entry with this digest and encoding.
    pub(crate) file: fn(&Path, Digest, Encoding) -> bool,
    /// True if bytes in a segment, up to the end of the last block, are those of the entry. `None`: a search for entries
    /// in segments is not worth its time, or not safe because the content does not prove its digest.
    pub(crate) small: Option<fn(&Entry, &[u8]) -> bool>,
}

/// Result of the recovery.
pub(super) struct Recovered {
    /// All entries.
    pub(super) entries: Entries,
    /// New journal.
    pub(super) journal: Journal,
    /// True if the index on disk differs from `entries`, or takes long to read.
    pub(super) needs_checkpoint: bool,
    /// Damage that was found, and its consequences.
    pub(super) losses: Option<Losses>,
}

/// Damage of a store that was found when it was opened, and its consequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Losses {
    /// Cause, for people: "the header of journal 7 is damaged".
    pub cause: String,
    /// Blobs that no readable record named, and that were found again by their content.
    pub found_again: u64,
    /// Blobs that are lost, as far as the rest of the index tells. Records that are gone without a trace are not counted.
    pub lost: u64,
}

impl fmt::Display for Losses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cause,
            found_again,
            lost,
        } = self;
        write!(
            formatter,
            "{cause}: {lost} blobs are lost and have to be built again, {found_again} were found by their content"
        )
    }
}

/// The parts of an index that can be read.
struct ReadIndex {
    entries: Entries,
    changes: Vec<(Change, Entry)>,
    /// Causes of damage, empty if there is none.
    damage: Vec<String>,
    /// Number of damaged records.
    damaged_records: u64,
    /// True if the machine went down while the directory was open.
    is_power_loss: bool,
    /// Number of the next journal.
    next: u64,
}

/// Recovers the entries of the directory at `root`, and marks it as open.
pub(super) fn recover(
    root: &Path,
    checks: ContentChecks,
    checkpoint_records: u64,
) -> Result<Recovered, Error> {
    let index = root.join("index");
    for unfinished in [journal::UNFINISHED, index_snapshot::UNFINISHED] {
        remove_file(&index.join(unfinished))?;
    }
    let ReadIndex {
        mut entries,
        changes,
        damage,
        damaged_records,
        is_power_loss,
        next,
    } = read_index(&index)?;
    let is_new = damage == [NO_INDEX] && is_empty(root)?;
    let is_reliable = damage.is_empty() && !is_power_loss;
    let mut losses = Losses {
        cause: damage.join(", "),
        found_again: 0,
        lost: 0,
    };
    if is_reliable {
        apply(root, &mut entries, &changes)?;
    } else if damage.is_empty() {
        "the machine went down while the store was open and only the blobs of its last snapshot are kept"
            .clone_into(&mut losses.cause);
        losses.lost += sweep(root, &mut entries, None)?.lost;
    } else {
        if !is_power_loss {
            apply(root, &mut entries, &changes)?;
        }
        let swept = sweep(root, &mut entries, Some(checks.file))?;
        let mut found_again = swept.found_again;
        if let Some(is_intact) = checks.small {
            found_again.extend(salvage::find_unknown(root, &entries, is_intact)?);
        }
        losses.found_again = found_again.len() as u64;
        losses.lost = swept.lost + damaged_records.saturating_sub(losses.found_again);
        found_again.sort_by_key(|entry| entry.last_use);
        for entry in found_again {
            entries.insert(entry);
        }
    }
    let missing = reconcile(root, &mut entries, !is_reliable)?;
    losses.lost += missing;
    if is_reliable && missing > 0 {
        "small blobs are missing on the disk".clone_into(&mut losses.cause);
    }
    let losses = (!losses.cause.is_empty() && !is_new).then_some(losses);
    if let Some(losses) = &losses {
        tracing::warn!(store = %root.display(), "{losses}");
    }
    let journal = Journal::start(&index, next)?;
    if journal::path(&index, next).exists() {
        // Not on a full disk, which has no journal that could get lost.
        let _ = fs::File::create(index.join(OPEN_MARK));
    }
    Ok(Recovered {
        entries,
        journal,
        // Old journals stay valid and are replayed at each start until the next snapshot, which long ones start.
        needs_checkpoint: !is_reliable || missing > 0 || changes.len() as u64 > checkpoint_records,
        losses,
    })
}

/// True if there are no files of entries: a new directory has no index either.
fn is_empty(root: &Path) -> Result<bool, Error> {
    let segments = root.join("segments");
    Ok(!root.join("blobs").exists() && (!segments.exists() || numbers(&segments, "")?.is_empty()))
}

/// Cause of damage of a directory without a snapshot.
const NO_INDEX: &str = "there is no snapshot of the index";

/// Reads the last intact snapshot, and the journals since.
fn read_index(index: &Path) -> Result<ReadIndex, Error> {
    let was_open = index.join(OPEN_MARK).exists();
    let snapshots = numbers(index, "snapshot-")?;
    let journals = numbers(index, "journal-")?;
    let mut read = ReadIndex {
        entries: Entries::new(),
        changes: Vec::new(),
        damage: Vec::new(),
        damaged_records: 0,
        is_power_loss: false,
        next: snapshots.iter().chain(&journals).max().copied().unwrap_or(0) + 1,
    };
    let mut found = None;
    for number in snapshots.iter().rev() {
        if let Some(listing) = index_snapshot::read(&index_snapshot::path(index, *number))? {
            if listing.damaged > 0 {
                read.damage.push(format!(
                    "{} records of snapshot {number} of the index are damaged",
                    listing.damaged
                ));
            }
            read.damaged_records += listing.damaged;
            read.entries = listing.entries;
            found = Some(*number);
            break;
        }
        read.damage
            .push(format!("snapshot {number} of the index is damaged"));
    }
    if found.is_none() {
        read.damage.push(NO_INDEX.to_owned());
    }
    let first = found.unwrap_or(0);
    // An older journal: the process died between the last snapshot and the end of the mark.
    if was_open && journals.is_empty() {
        read.damage.push("the journal of the index is missing".to_owned());
    }
    let journals: Vec<u64> = journals.into_iter().filter(|number| *number >= first).collect();
    for number in journals {
        let replay = journal::replay(&journal::path(index, number))?;
        match replay.origin {
            Origin::ThisBoot => {}
            Origin::OtherBoot => read.is_power_loss = true,
            Origin::Unknown => read
                .damage
                .push(format!("the header of journal {number} is damaged")),
        }
        if replay.damaged > 0 {
            let records = replay.damaged;
            read.damage
                .push(format!("{records} records of journal {number} are damaged"));
        }
        read.damaged_records += replay.damaged;
        read.changes.extend(replay.changes);
    }
    Ok(read)
}

/// Removes the mark of an open directory, after the snapshot that needs no journal.
pub(super) fn mark_closed(index: &Path) -> Result<(), Error> {
    remove_file(&index.join(OPEN_MARK))
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

/// Result of [`sweep`].
#[derive(Default)]
struct Swept {
    /// Entries of files that no entry named, found again by their content.
    found_again: Vec<Entry>,
    /// Number of removed entries.
    lost: u64,
}

/// Removes entries without a file, and files without an entry. With `is_intact`, files whose content is that of their
/// name are kept.
fn sweep(
    root: &Path,
    entries: &mut Entries,
    is_intact: Option<fn(&Path, Digest, Encoding) -> bool>,
) -> Result<Swept, Error> {
    let mut present = HashSet::new();
    let mut swept = Swept::default();
    for_each_file(root, |path, named| {
        let Some((digest, encoding)) = named else {
            return remove_file(path);
        };
        let entry = entries.get(&digest);
        if entry.is_some_and(|entry| entry.place.is_file() && entry.encoding == encoding) {
            present.insert(digest);
            return Ok(());
        }
        if entry.is_none() && is_intact.is_some_and(|is_intact| is_intact(path, digest, encoding)) {
            let entry = entry_of_file(path, digest, encoding)?;
            swept.found_again.push(entry);
            return Ok(());
        }
        remove_file(path)
    })?;
    let gone: Vec<Digest> = entries
        .iter()
        .filter(|entry| entry.place.is_file() && !present.contains(&entry.digest))
        .map(|entry| entry.digest)
        .collect();
    swept.lost = gone.len() as u64;
    for digest in gone {
        entries.remove(&digest);
    }
    Ok(swept)
}

/// Entry of a file that the index does not name, last used when it was written.
fn entry_of_file(path: &Path, digest: Digest, encoding: Encoding) -> Result<Entry, Error> {
    let metadata =
        fs::metadata(path).map_err(Error::io(format_args!("cannot examine {}", path.display())))?;
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let since = modified
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Entry {
        digest,
        place: Place::File(None),
        encoding,
        blocks: blocks_of(metadata.len()),
        last_use: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
    })
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
