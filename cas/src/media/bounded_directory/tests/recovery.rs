//! Deaths of the process at chosen points, simulated by hand.

use std::io::IoSlice;
use std::os::unix::fs::MetadataExt;

use super::*;

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
fn death_between_record_and_file_leaves_neither() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    append_to_journal(&directory, Change::Add, &[2]);
    drop(directory);
    let directory = open(&root);
    assert_eq!(present(&directory, 1..3), [1]);
    assert_eq!(directory.usage().bytes, BLOCK_BYTES);
}

#[test]
fn death_between_record_and_removal_removes_the_file() {
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
fn entry_that_was_removed_and_added_again_stays() {
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
fn record_cut_off_at_the_end_is_left_out() {
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
fn damaged_journal_record_of_a_file_costs_nothing() {
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
    bytes[2 * record::RECORD_BYTES + 20] ^= 1;
    fs::write(&journal, bytes).unwrap();
    let directory = open(&root);
    assert_eq!(
        present(&directory, 1..5),
        [1, 2, 3, 4],
        "the file is found by its content"
    );
    assert_eq!(directory.losses().unwrap().found_again, 1);
    drop(directory);
    let directory = open(&root);
    assert_eq!(present(&directory, 1..5), [1, 2, 3, 4]);
    assert_eq!(directory.losses(), None);
}

#[test]
fn damaged_snapshot_record_costs_nothing() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    (1..5).for_each(|number| publish(&directory, number));
    directory.close().unwrap();
    let snapshot = index_snapshot::path(
        &root.path().join("index"),
        directory.state.lock().journal.number() + 1,
    );
    drop(directory);
    let mut bytes = fs::read(&snapshot).unwrap();
    bytes[2 * record::RECORD_BYTES + 20] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    assert_eq!(
        present(&open(&root), 1..5),
        [1, 2, 3, 4],
        "it is found by its trailer"
    );
}

#[test]
fn blocks_without_a_record_are_deallocated() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    // The process dies after the bytes were written, before the record.
    let extent = directory.state.lock().segments.allocate(8).unwrap();
    let content = vec![7; 8 * 4096];
    extent.write(&mut [IoSlice::new(&content)]).unwrap();
    publish(&directory, 2);
    let taken = || extent.file.metadata().unwrap().blocks() * 512;
    assert_eq!(taken(), 10 * BLOCK_BYTES);
    drop(directory);
    let directory = open(&root);
    assert_eq!(present(&directory, 1..3), [1, 2]);
    assert_eq!(taken(), 2 * BLOCK_BYTES);
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
fn sparse_copy_of_a_segment_keeps_entries_with_zeros() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    let zeros = vec![0; 4096];
    let mostly_zeros = [&zeros[..], &[1], &zeros[..]].concat();
    let contents = [&zeros, &mostly_zeros].map(|content| SmallEntry {
        digest: DigestFunction::Sha256.digest(content),
        encoding: Encoding::Raw,
        content: content.clone().into(),
    });
    assert!(directory.insert_small(&contents, false).iter().all(Result::is_ok));
    let digests = contents.map(|entry| entry.digest);
    // What `cp` makes of blocks of zeros in a file that has holes.
    let extent = directory.state.lock().segments.allocate(1).unwrap();
    for block in [1, 2, 4] {
        segments::punch_hole(&extent.file, block * BLOCK_BYTES, BLOCK_BYTES).unwrap();
    }
    drop(directory);
    let directory = open(&root);
    assert_eq!(directory.missing(&digests), []);
    assert_eq!(present(&directory, [1]), [1]);
}

#[test]
fn entry_of_a_stale_index_that_is_a_hole_is_gone() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    publish(&directory, 2);
    let extent = directory.state.lock().segments.allocate(1).unwrap();
    segments::punch_hole(&extent.file, BLOCK_BYTES, BLOCK_BYTES).unwrap();
    drop(directory);
    assert_eq!(present(&open(&root), 1..3), [1]);
}

#[test]
fn bytes_that_look_like_a_trailer_are_no_entry() {
    // With a trailer of the entry itself, and without room for one.
    for length in [5000, 8190] {
        let root = TempDir::new().unwrap();
        let directory = open(&root);
        let forged = Entry {
            digest: digest(4),
            place: Place::Segment { number: 0, block: 0 },
            encoding: Encoding::Raw,
            blocks: 1,
            last_use: 0,
        };
        let mut content = vec![3; length];
        content[4096 - record::RECORD_BYTES..4096].copy_from_slice(&record::encode(Change::Add, &forged));
        let whole = Digest::new(DigestFunction::Sha256, *digest(3).hash(), length as u64);
        let small_entry = SmallEntry {
            digest: whole,
            encoding: Encoding::Raw,
            content: content.into(),
        };
        assert!(directory.insert_small(&[small_entry], false)[0].is_ok());
        publish(&directory, 5);
        drop(directory);
        fs::remove_dir_all(root.path().join("index")).unwrap();
        let directory = open(&root);
        assert_eq!(directory.missing(&[whole]).is_empty(), length == 5000);
        assert_eq!(present(&directory, [4, 5]), [5]);
    }
}

#[test]
fn snapshot_replaces_the_journals_of_several_starts() {
    let root = TempDir::new().unwrap();
    for number in 1..=4 {
        publish(&open(&root), number);
    }
    let directory = open(&root);
    assert_eq!(present(&directory, 1..=4), [1, 2, 3, 4]);
    let files = || fs::read_dir(root.path().join("index")).unwrap().count();
    assert!(files() > 5, "a journal for each start");
    directory.checkpoint().unwrap();
    assert_eq!(
        files(),
        3,
        "a snapshot, its journal and the mark of an open directory"
    );
    publish(&directory, 5);
    drop(directory);
    assert_eq!(present(&open(&root), 1..=5), [1, 2, 3, 4, 5]);
}

#[test]
fn unfinished_snapshot_is_ignored() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    // The process dies after the new journal, before the new snapshot.
    let index = root.path().join("index");
    let number = directory.state.lock().journal.number() + 1;
    drop(Journal::create(&index, number).unwrap());
    fs::write(index.join(index_snapshot::UNFINISHED), b"bitzels3 and then").unwrap();
    drop(directory);
    let directory = open(&root);
    assert_eq!(present(&directory, [1]), [1]);
    publish(&directory, 2);
    drop(directory);
    assert_eq!(present(&open(&root), 1..3), [1, 2]);
}

#[test]
fn unfinished_journal_is_ignored_and_removed() {
    // The process dies at every byte of the header, at a start and at a checkpoint.
    for length in 0..record::RECORD_BYTES {
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
fn journal_keeps_the_order_of_use_for_the_next_start() {
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

#[test]
fn times_and_order_of_use_survive_death() {
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
    assert!(after[0].last_use + 80_000 < after[2].last_use);
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
