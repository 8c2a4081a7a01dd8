//! The moments at which a process may die, made by hand.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;

use super::*;

const OPTIONS: Options = Options {
    limit: 1 << 30,
    free_space_floor: 0,
    checkpoint_records: 1 << 20,
    is_intact: |_, _| true,
};

fn open(root: &TempDir) -> Arc<BoundedDirectory> {
    Arc::new(BoundedDirectory::open(root.path(), OPTIONS).unwrap())
}

fn digest(number: u8) -> Digest {
    DigestFunction::Sha256.digest(&[number])
}

fn publish(directory: &Arc<BoundedDirectory>, number: u8) {
    let parcel = Parcel {
        digest: digest(number),
        encoding: Encoding::Raw,
        content: vec![number].into(),
    };
    directory.put(&[parcel], false).pop().unwrap().unwrap();
}

/// As a file of its own.
fn publish_file(directory: &Arc<BoundedDirectory>, number: u8) {
    let reservation = directory.reserve(digest(number), 1).unwrap();
    let mut file = directory.new_file(digest(number)).unwrap();
    file.write_all(&[number]).unwrap();
    directory
        .publish(
            digest(number),
            FileContent {
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
        used: 0,
    }
}

fn present(directory: &BoundedDirectory, numbers: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let is_present = |number: &u8| directory.missing(&[digest(*number)]).is_empty();
    numbers.into_iter().filter(is_present).collect()
}

fn append_to_journal(directory: &BoundedDirectory, change: Change, numbers: &[u8]) {
    let entries: Vec<Entry> = numbers.iter().map(|number| file_entry(*number)).collect();
    let mut state = directory.state.lock();
    state.journal.append(change, &entries).unwrap();
}

fn journal_path(directory: &BoundedDirectory) -> PathBuf {
    journal::path(
        &directory.root.join("index"),
        directory.state.lock().journal.number(),
    )
}

#[test]
fn death_between_the_record_and_the_file_leaves_neither() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    append_to_journal(&directory, Change::Add, &[2]);
    drop(directory);
    let directory = open(&root);
    assert_eq!(present(&directory, 1..3), [1]);
    assert_eq!(directory.usage().bytes, BLOCK);
}

#[test]
fn death_between_the_record_and_the_removal_removes() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish_file(&directory, 1);
    publish_file(&directory, 2);
    append_to_journal(&directory, Change::Remove, &[1]);
    let path = file_path(root.path(), &file_entry(1));
    drop(directory);
    assert!(path.exists());
    let directory = open(&root);
    assert_eq!(present(&directory, 1..3), [2]);
    assert!(!path.exists());
}

#[test]
fn what_was_removed_and_came_back_stays() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    publish_file(&directory, 2);
    drop(directory.reserve(digest(9), OPTIONS.limit).unwrap());
    assert_eq!(present(&directory, 1..3), [0; 0]);
    publish(&directory, 1);
    publish_file(&directory, 2);
    drop(directory);
    assert_eq!(present(&open(&root), 1..3), [1, 2]);
}

#[test]
fn a_record_cut_off_at_the_end_is_left_out() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    publish(&directory, 2);
    let journal = journal_path(&directory);
    drop(directory);
    let mut file = fs::OpenOptions::new().append(true).open(&journal).unwrap();
    file.write_all(&[1; 20]).unwrap();
    let directory = open(&root);
    assert_eq!(present(&directory, 1..3), [1, 2]);
}

#[test]
fn a_wrong_record_costs_what_it_names_and_nothing_else() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    directory.checkpoint().unwrap();
    for number in 2..5 {
        publish_file(&directory, number);
    }
    let journal = journal_path(&directory);
    drop(directory);
    let mut bytes = fs::read(&journal).unwrap();
    bytes[2 * record::RECORD + 20] ^= 1;
    fs::write(&journal, bytes).unwrap();
    let directory = open(&root);
    assert_eq!(present(&directory, 1..5), [1, 2, 4]);
    assert!(!file_path(root.path(), &file_entry(3)).exists());
    drop(directory);
    assert_eq!(present(&open(&root), 1..5), [1, 2, 4]);
}

#[test]
fn a_wrong_record_in_a_snapshot_costs_what_it_names_and_nothing_else() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    (1..5).for_each(|number| publish(&directory, number));
    directory.close().unwrap();
    let snapshot = snapshot::path(
        &root.path().join("index"),
        directory.state.lock().journal.number() + 1,
    );
    drop(directory);
    let mut bytes = fs::read(&snapshot).unwrap();
    bytes[2 * record::RECORD + 20] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    assert_eq!(present(&open(&root), 1..5), [1, 3, 4]);
}

#[test]
fn blocks_that_no_record_names_are_given_back() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    // The process dies after the bytes were written, before the record.
    let extent = directory.state.lock().segments.allocate(8).unwrap();
    extent.write(&vec![7; 8 * 4096]).unwrap();
    publish(&directory, 2);
    let taken = || extent.file.metadata().unwrap().blocks() * 512;
    assert_eq!(taken(), 10 * BLOCK);
    drop(directory);
    let directory = open(&root);
    assert_eq!(present(&directory, 1..3), [1, 2]);
    assert_eq!(taken(), 2 * BLOCK);
    let contents = directory
        .locate(&[digest(1), digest(2)])
        .into_iter()
        .map(|located| {
            let Content::Part(file, offset) = located.unwrap().content else {
                panic!("not in a segment");
            };
            crate::file_stream::read_at(&file, offset, 1).unwrap()[0]
        });
    assert_eq!(contents.collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_segment_goes_with_its_last_entry() {
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
fn a_lease_keeps_what_is_there_and_what_comes_later() {
    let root = TempDir::new().unwrap();
    let options = Options {
        limit: 4 * BLOCK,
        ..OPTIONS
    };
    let directory = Arc::new(BoundedDirectory::open(root.path(), options).unwrap());
    publish(&directory, 1);
    let lease = DirectoryLease::new(Arc::clone(&directory), vec![digest(1), digest(2)]);
    let again = DirectoryLease::new(Arc::clone(&directory), vec![digest(1)]);
    publish_file(&directory, 2);
    (3..20).for_each(|number| publish(&directory, number));
    assert_eq!(present(&directory, 1..20), [1, 2, 18, 19]);
    assert_eq!(directory.usage().leased_bytes, 2 * BLOCK);
    // What does not fit beside the leased ones evicts nobody.
    assert!(matches!(
        directory.reserve(digest(20), 3 * BLOCK),
        Err(Error::NoSpace { .. })
    ));
    assert_eq!(present(&directory, 1..20), [1, 2, 18, 19]);
    drop(lease);
    (20..30).for_each(|number| publish(&directory, number));
    assert_eq!(present(&directory, 1..30), [1, 27, 28, 29]);
    drop(again);
    drop(directory.reserve(digest(9), 4 * BLOCK).unwrap());
    assert_eq!(directory.usage().blobs, 0);
}

#[test]
fn journals_of_several_starts_are_replayed_in_order_until_a_snapshot_takes_their_place() {
    let root = TempDir::new().unwrap();
    for number in 1..=4 {
        publish(&open(&root), number);
    }
    let directory = open(&root);
    assert_eq!(present(&directory, 1..=4), [1, 2, 3, 4]);
    let files = || fs::read_dir(root.path().join("index")).unwrap().count();
    assert!(files() > 5, "a journal for each start");
    directory.checkpoint().unwrap();
    assert_eq!(files(), 2, "a snapshot and its journal");
    publish(&directory, 5);
    drop(directory);
    assert_eq!(present(&open(&root), 1..=5), [1, 2, 3, 4, 5]);
}

#[test]
fn an_unfinished_snapshot_does_not_count() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    // The process dies after the new journal, before the new snapshot.
    let index = root.path().join("index");
    let number = directory.state.lock().journal.number() + 1;
    drop(Journal::create(&index, number).unwrap());
    fs::write(index.join(snapshot::UNFINISHED), b"bitzels3 and then").unwrap();
    drop(directory);
    let directory = open(&root);
    assert_eq!(present(&directory, [1]), [1]);
    publish(&directory, 2);
    drop(directory);
    assert_eq!(present(&open(&root), 1..3), [1, 2]);
}

#[test]
fn an_unfinished_journal_does_not_count_and_goes() {
    // The process dies at every byte of the header, at a start and at a checkpoint.
    for length in 0..record::RECORD {
        let root = TempDir::new().unwrap();
        let directory = open(&root);
        publish(&directory, 1);
        directory.checkpoint().unwrap();
        publish(&directory, 2);
        drop(directory);
        let unfinished = root.path().join("index").join(journal::UNFINISHED);
        fs::write(&unfinished, vec![b'b'; length]).unwrap();
        assert_eq!(present(&open(&root), 1..3), [1, 2], "{length} bytes");
        assert!(!unfinished.exists());
    }
}

#[test]
fn uses_reach_the_journal_and_with_it_the_next_start() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    for number in 1..=3 {
        publish(&directory, number);
    }
    append_to_journal(&directory, Change::Touch, &[1]);
    drop(directory);
    let directory = open(&root);
    let order: Vec<Digest> = directory.entries().iter().map(|entry| entry.digest).collect();
    assert_eq!(order, [digest(2), digest(3), digest(1)]);
}

/// As if the entry had been used last so many seconds earlier.
fn make_older(directory: &BoundedDirectory, number: u8, seconds: u32) {
    let mut state = directory.state.lock();
    let entry = state.entries.get(&digest(number)).unwrap();
    state.entries.set_used(&entry.digest, entry.used - seconds);
}

#[test]
fn times_and_order_of_use_survive_the_death_of_the_process() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    (1..4).for_each(|number| publish(&directory, number));
    (1..4).for_each(|number| make_older(&directory, number, 86_400));
    directory.checkpoint().unwrap();
    assert!(directory.touch(digest(1)));
    let before = directory.entries();
    drop(directory);
    let after = open(&root).entries();
    assert_eq!(after, before);
    assert_eq!(after.last().unwrap().digest, digest(1));
    assert!(after[0].used + 80_000 < after[2].used);
}

#[test]
fn a_use_is_journaled_at_most_once_per_interval() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    let records = || directory.state.lock().journal.records();
    let before = records();
    assert!(directory.touch(digest(1)));
    assert_eq!(records(), before, "published just now");
    make_older(&directory, 1, 2 * looking::TOUCH_INTERVAL);
    assert!(directory.touch(digest(1)));
    assert!(directory.touch(digest(1)));
    assert_eq!(records(), before + 1);
}

#[test]
fn a_long_journal_starts_one_snapshot() {
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
fn temporary_files_of_an_earlier_process_are_removed() {
    let root = TempDir::new().unwrap();
    drop(open(&root));
    let left = root.path().join("temporary").join("left");
    fs::write(&left, "half").unwrap();
    drop(open(&root));
    assert!(!left.exists());
}

#[test]
fn records_survive_their_encoding() {
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
                used: u32::MAX,
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
