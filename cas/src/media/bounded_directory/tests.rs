mod recovery;

use std::fs;
use std::io::Write;
use std::sync::Arc;

use tempfile::TempDir;

use super::files::file_path;
use super::lookup::TOUCH_INTERVAL_SECONDS;
use super::*;
use crate::file_stream::read_at;

const OPTIONS: Options = Options {
    limit: 1 << 30,
    free_space_floor: 0,
    checkpoint_records: 1 << 20,
    checks: ContentChecks {
        file: |_, _, _| true,
        small: Some(|entry, content| content[..1] != [0] && entry.digest.hash() == digest(content[0]).hash()),
    },
};

fn open(root: &TempDir) -> Arc<BoundedDirectory> {
    Arc::new(BoundedDirectory::open(root.path(), OPTIONS).unwrap())
}

fn digest(number: u8) -> Digest {
    DigestFunction::Sha256.digest(&[number])
}

fn publish(directory: &Arc<BoundedDirectory>, number: u8) {
    let small_entry = SmallEntry {
        digest: digest(number),
        encoding: Encoding::Raw,
        content: vec![number].into(),
    };
    directory
        .insert_small(&[small_entry], false)
        .pop()
        .unwrap()
        .unwrap();
}

/// Adds an entry in a file of its own.
fn publish_file(directory: &Arc<BoundedDirectory>, number: u8) {
    let reservation = directory.reserve(digest(number), 1).unwrap();
    let mut file = directory.new_file(digest(number)).unwrap();
    file.write_all(&[number]).unwrap();
    directory
        .insert_file(
            digest(number),
            FinishedFile {
                file,
                encoding: Encoding::Raw,
                length: 1,
                checksum: None,
            },
            reservation,
            false,
        )
        .unwrap();
}

fn file_entry(number: u8) -> Entry {
    Entry {
        digest: digest(number),
        place: Place::File(None),
        encoding: Encoding::Raw,
        blocks: 1,
        last_use: 0,
    }
}

fn present(directory: &BoundedDirectory, numbers: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let is_present = |number: &u8| directory.missing(&[digest(*number)]).is_empty();
    numbers.into_iter().filter(is_present).collect()
}

impl BoundedDirectory {
    /// Changes bytes on the disk, as a faulty disk does.
    pub(crate) fn damage(&self, digest: Digest, change: impl FnOnce(&mut Vec<u8>)) {
        use std::os::unix::fs::FileExt;
        let mut state = self.state.lock();
        let entry = state.entries.get(&digest).unwrap();
        let length = u64::from(entry.blocks) * BLOCK_BYTES;
        match entry.place {
            Place::File(_) => {
                let path = file_path(&self.root, &entry);
                let mut content = fs::read(&path).unwrap();
                change(&mut content);
                fs::remove_file(&path).unwrap();
                fs::write(&path, content).unwrap();
            }
            Place::Segment { number, block } => {
                let file = state.segments.file(number).unwrap();
                let offset = u64::from(block) * BLOCK_BYTES;
                let mut content = read_at(&file, offset, length).unwrap().to_vec();
                change(&mut content);
                file.write_all_at(&content, offset).unwrap();
            }
        }
    }
}

#[test]
fn segment_is_removed_with_its_last_entry() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    let segments = || fs::read_dir(root.path().join("segments")).unwrap().count();
    publish(&directory, 1);
    assert_eq!(segments(), 1);
    drop(directory.reserve(digest(9), OPTIONS.limit).unwrap());
    assert_eq!((segments(), directory.usage().bytes), (0, 0));
    publish(&directory, 2);
    drop(directory);
    assert_eq!(present(&open(&root), 1..3), [2]);
}

#[test]
fn lease_protects_present_and_later_entries() {
    let root = TempDir::new().unwrap();
    let options = Options {
        limit: 4 * BLOCK_BYTES,
        ..OPTIONS
    };
    let directory = Arc::new(BoundedDirectory::open(root.path(), options).unwrap());
    publish(&directory, 1);
    let lease = DirectoryLease::new(Arc::clone(&directory), vec![digest(1), digest(2)]);
    let again = DirectoryLease::new(Arc::clone(&directory), vec![digest(1)]);
    publish_file(&directory, 2);
    (3..20).for_each(|number| publish(&directory, number));
    assert_eq!(present(&directory, 1..20), [1, 2, 18, 19]);
    assert_eq!(directory.usage().leased_bytes, 2 * BLOCK_BYTES);
    // A reservation that does not fit beside the leased entries evicts nothing.
    assert!(matches!(
        directory.reserve(digest(20), 3 * BLOCK_BYTES),
        Err(Error::NoSpace { .. })
    ));
    assert_eq!(present(&directory, 1..20), [1, 2, 18, 19]);
    drop(lease);
    (20..30).for_each(|number| publish(&directory, number));
    assert_eq!(present(&directory, 1..30), [1, 27, 28, 29]);
    drop(again);
    drop(directory.reserve(digest(9), 4 * BLOCK_BYTES).unwrap());
    assert_eq!(directory.usage().blobs, 0);
}

/// Makes the last use of an entry so many seconds older.
fn make_older(directory: &BoundedDirectory, number: u8, seconds: u32) {
    let mut state = directory.state.lock();
    let entry = state.entries.get(&digest(number)).unwrap();
    state
        .entries
        .set_last_use(&entry.digest, entry.last_use - seconds);
}

#[test]
fn use_is_journaled_at_most_once_per_interval() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    let records = || directory.state.lock().journal.records();
    let before = records();
    assert!(directory.touch(digest(1)));
    assert_eq!(records(), before, "published just now");
    make_older(&directory, 1, 2 * TOUCH_INTERVAL_SECONDS);
    assert!(directory.touch(digest(1)));
    assert!(directory.touch(digest(1)));
    assert_eq!(records(), before + 1);
}

#[test]
fn long_journal_starts_one_snapshot() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    (1..4).for_each(|number| publish(&directory, number));
    let request = |records| directory.state.lock().request_checkpoint(records);
    assert!(!request(4));
    assert!(request(3));
    assert!(!request(3), "is requested already");
    directory.checkpoint().unwrap();
    directory.state.lock().checkpoint_requested = false;
    assert!(!request(3));
}

#[test]
fn record_is_decoded_as_it_was_encoded() {
    for function in DigestFunction::ALL {
        for (encoding, place) in [
            (Encoding::Raw, Place::File(None)),
            (Encoding::Raw, Place::File(Some(Checksum([0xff; 8])))),
            (Encoding::Zstd, Place::Segment { number: 7, block: 9 }),
        ] {
            let entry = Entry {
                digest: Digest::new(function, [0xa5; 32], u64::MAX - 1),
                place,
                encoding,
                blocks: 12345,
                last_use: u32::MAX,
            };
            for change in [Change::Add, Change::Remove, Change::Touch] {
                let mut record = record::encode(change, &entry);
                assert_eq!(record::decode(&record), Some((change, entry)));
                record[30] ^= 1;
                assert_eq!(record::decode(&record), None);
            }
        }
    }
}
