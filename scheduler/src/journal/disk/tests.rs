use super::*;
use crate::journal::tests::accepted;

fn open(directory: &tempfile::TempDir) -> DiskJournal {
    DiskJournal::open(&directory.path().join("journal"), Duration::ZERO).unwrap()
}

#[tokio::test]
async fn records_of_one_interval_are_one_batch() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = DiskJournal::open(&path, Duration::from_millis(500)).unwrap();
    let mut durable = journal.durable();
    for number in 0..100 {
        journal.append(vec![accepted(number, "a")]);
    }
    durable.changed().await.unwrap();
    assert_eq!(*durable.borrow_and_update(), RecordNumber(100), "one batch");
}

#[tokio::test]
async fn a_dropped_journal_has_written_everything() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    journal.append((0..1000).map(|number| accepted(number, "a")).collect());
    drop(journal);
    let recovered = open(&directory).recover().await.unwrap();
    assert_eq!(recovered.operations.len(), 1000);
}

#[test]
fn a_journal_of_another_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&directory));
    let path = directory.path().join("journal");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(NUMBERS)
        .unwrap()
        .insert("format", 2)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let refused = DiskJournal::open(&path, Duration::ZERO).err().unwrap();
    assert_eq!(
        refused.to_string(),
        "the journal of the queue has format 2, and this version of bitzel writes format 1"
    );
}
