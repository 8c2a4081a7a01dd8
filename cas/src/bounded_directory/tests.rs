//! The moments at which a process may die, made by hand.

use std::io::Write;

use tempfile::TempDir;

use super::*;

const OPTIONS: Options = Options {
    limit: 1 << 30,
    free_space_floor: 0,
    is_intact: |_, _| true,
};

fn open(root: &TempDir) -> Arc<BoundedDirectory> {
    Arc::new(BoundedDirectory::open(root.path(), OPTIONS).unwrap())
}

fn digest(number: u8) -> Digest {
    DigestFunction::Sha256.digest(&[number])
}

fn publish(directory: &Arc<BoundedDirectory>, number: u8) {
    let reservation = directory.reserve(digest(number)).unwrap();
    let mut file = directory.new_file().unwrap();
    file.write_all(&[number]).unwrap();
    directory
        .publish(digest(number), file, reservation, false)
        .unwrap();
}

fn present(directory: &BoundedDirectory, numbers: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let is_present = |number: &u8| directory.missing(&[digest(*number)]).is_empty();
    numbers.into_iter().filter(is_present).collect()
}

fn append_to_journal(directory: &BoundedDirectory, changes: &[(Change, Digest)]) {
    directory.state.lock().journal.append(changes).unwrap();
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
    append_to_journal(&directory, &[(Change::Add, digest(2))]);
    drop(directory);
    let directory = open(&root);
    assert_eq!(present(&directory, 1..3), [1]);
    assert_eq!(directory.usage().bytes, BLOCK);
}

#[test]
fn death_between_the_record_and_the_removal_removes() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    publish(&directory, 2);
    append_to_journal(&directory, &[(Change::Remove, digest(1))]);
    let path = directory.path(digest(1));
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
    directory.make_room(OPTIONS.limit, String::new).unwrap();
    directory.state.lock().reserved = 0;
    assert_eq!(present(&directory, [1]), [0; 0]);
    publish(&directory, 1);
    drop(directory);
    assert_eq!(present(&open(&root), [1]), [1]);
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
fn a_wrong_record_sends_the_start_to_the_files() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    directory.checkpoint().unwrap();
    publish(&directory, 2);
    let journal = journal_path(&directory);
    drop(directory);
    let mut bytes = fs::read(&journal).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&journal, bytes).unwrap();
    let directory = open(&root);
    assert_eq!(present(&directory, 1..3), [1], "only the snapshot vouches");
    assert!(!directory.path(digest(2)).exists());
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
    fs::write(index.join(snapshot::UNFINISHED), b"bitzels1 and then").unwrap();
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
    for length in 0..48 {
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
    append_to_journal(&directory, &[(Change::Touch, digest(1))]);
    drop(directory);
    let directory = open(&root);
    let order = directory.state.lock().in_order_of_use();
    assert_eq!(order, [digest(2), digest(3), digest(1)]);
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
    directory.state.lock().opened -= 2 * TOUCH_INTERVAL;
    assert!(directory.touch(digest(1)));
    assert!(directory.touch(digest(1)));
    assert_eq!(records(), before + 1);
}

#[test]
fn a_long_journal_starts_a_snapshot() {
    let root = TempDir::new().unwrap();
    let directory = open(&root);
    publish(&directory, 1);
    assert!(!directory.state.lock().checkpoint_is_due());
    let many = vec![(Change::Touch, digest(1)); usize::try_from(checkpoint::CHECKPOINT_RECORDS).unwrap()];
    append_to_journal(&directory, &many);
    assert!(directory.state.lock().checkpoint_is_due());
    directory.checkpoint().unwrap();
    assert!(!directory.state.lock().checkpoint_is_due());
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
fn entries_survive_their_encoding() {
    for function in DigestFunction::ALL {
        let digest = Digest::new(function, [0xa5; 32], u64::MAX - 1);
        assert_eq!(snapshot::decode(&snapshot::encode(digest)), Some(digest));
    }
    assert_eq!(snapshot::decode(&[9; snapshot::ENTRY]), None);
}
