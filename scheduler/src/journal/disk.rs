//! Journal in a file of this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;
use bitzel_builds::{BuildId, RestoredBuild};
use parking_lot::{Condvar, Mutex};
use prost::Message;
use redb::{Database, ReadableTable, StorageError, Table, TableDefinition, WriteTransaction};
use tokio::sync::watch;
use uuid::Uuid;

use super::format::{AttemptsRow, OperationRow, UsageRow, encode_outcome, restored_operation};
use super::{Journal, JournalError, RecordNumber, Recovered};
use crate::operation_queue::{OperationId, Record, TaskName};

/// Accepted operations by identifier.
const OPERATIONS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("operations");
/// Attempts of operations by identifier.
const ATTEMPTS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("attempts");
/// Outcomes of operations by identifier.
const OUTCOMES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("outcomes");
/// Uses of resources by tasks.
const USAGE: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("usage");
/// Rows of builds by identifier.
const BUILDS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("builds");
/// Numbers of the journal by name.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

/// Version of the format.
pub(super) const FORMAT: u64 = 1;
/// Pause after a failed write.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Journal in a redb database. A thread writes all records that have gathered as one transaction with one fsync, so the
/// cost of a batch is shared by all operations in it.
pub struct DiskJournal {
    /// Content at the opening, until it is asked for.
    recovered: Mutex<Option<Recovered>>,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
    durable: watch::Sender<RecordNumber>,
}

#[derive(Default)]
struct Pending {
    records: Vec<Record>,
    last: RecordNumber,
    closed: bool,
}

impl DiskJournal {
    /// Opens or creates the journal, and reads what an earlier run left. A batch is written when `commit_interval` has
    /// passed since its first record.
    pub fn open(path: &Path, commit_interval: Duration) -> Result<Self, JournalError> {
        let database = Database::create(path).map_err(boxed)?;
        let recovered = recover(&database)?;
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            changed: Condvar::new(),
            durable: watch::Sender::new(RecordNumber::default()),
        });
        let writer = {
            let shared = shared.clone();
            let writer = thread::Builder::new().name("journal".to_owned());
            let file = JournalFile {
                path: path.to_owned(),
                database: Some(database),
            };
            writer.spawn(move || shared.write_batches(file, commit_interval))
        };
        Ok(Self {
            recovered: Mutex::new(Some(recovered)),
            shared,
            writer: Some(writer.map_err(JournalError::Thread)?),
        })
    }
}

#[async_trait]
impl Journal for DiskJournal {
    async fn recover(&self) -> Result<Recovered, JournalError> {
        self.recovered.lock().take().ok_or(JournalError::AlreadyRecovered)
    }

    fn append(&self, records: Vec<Record>) -> RecordNumber {
        let mut pending = self.shared.pending.lock();
        if !records.is_empty() {
            pending.last.0 += records.len() as u64;
            pending.records.extend(records);
            self.shared.changed.notify_one();
        }
        pending.last
    }

    fn durable(&self) -> watch::Receiver<RecordNumber> {
        self.shared.durable.subscribe()
    }
}

impl Drop for DiskJournal {
    /// Writes what is pending.
    fn drop(&mut self) {
        self.shared.pending.lock().closed = true;
        self.shared.changed.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the thread of the journal panicked");
        }
    }
}

impl Shared {
    /// Writes batches until the journal is closed and all are written.
    fn write_batches(&self, mut file: JournalFile, commit_interval: Duration) {
        loop {
            let mut pending = self.pending.lock();
            while pending.records.is_empty() {
                if pending.closed {
                    return;
                }
                self.changed.wait(&mut pending);
            }
            if !pending.closed {
                // More records gather meanwhile, and share the fsync.
                drop(pending);
                thread::sleep(commit_interval);
                pending = self.pending.lock();
            }
            let records = std::mem::take(&mut pending.records);
            let last = pending.last;
            drop(pending);
            while let Err(error) = file.write(&records) {
                tracing::error!(%error, "the journal cannot be written; new Actions wait until it can");
                let mut pending = self.pending.lock();
                if pending.closed {
                    return;
                }
                self.changed.wait_for(&mut pending, RETRY_PAUSE);
            }
            self.durable.send_replace(last);
        }
    }
}

fn boxed(error: impl Into<redb::Error>) -> Box<redb::Error> {
    Box::new(error.into())
}

/// File of the journal. After an error of the disk redb refuses all that follows, so the file is opened again; the batch
/// that failed is then written once more, which changes nothing if it was written.
struct JournalFile {
    path: PathBuf,
    /// `None` after an error.
    database: Option<Database>,
}

impl JournalFile {
    fn write(&mut self, records: &[Record]) -> Result<(), Box<redb::Error>> {
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::create(&self.path).map_err(boxed)?,
        };
        write(&database, records)?;
        self.database = Some(database);
        Ok(())
    }
}

/// Writes records in one transaction.
fn write(database: &Database, records: &[Record]) -> Result<(), Box<redb::Error>> {
    let transaction = database.begin_write().map_err(boxed)?;
    {
        let mut tables = Tables::open(&transaction)?;
        for record in records {
            tables.write(record).map_err(boxed)?;
        }
    }
    transaction.commit().map_err(boxed)
}

/// Tables of one transaction.
struct Tables<'a> {
    operations: Table<'a, u128, &'static [u8]>,
    attempts: Table<'a, u128, &'static [u8]>,
    outcomes: Table<'a, u128, &'static [u8]>,
    usage: Table<'a, u128, &'static [u8]>,
    builds: Table<'a, u128, &'static [u8]>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, Box<redb::Error>> {
        Ok(Self {
            operations: transaction.open_table(OPERATIONS).map_err(boxed)?,
            attempts: transaction.open_table(ATTEMPTS).map_err(boxed)?,
            outcomes: transaction.open_table(OUTCOMES).map_err(boxed)?,
            usage: transaction.open_table(USAGE).map_err(boxed)?,
            builds: transaction.open_table(BUILDS).map_err(boxed)?,
        })
    }

    fn write(&mut self, record: &Record) -> Result<(), StorageError> {
        match record {
            Record::Accepted { operation, action } => {
                let row = OperationRow::new(action).encode_to_vec();
                self.operations.insert(key(operation), row.as_slice())?;
            }
            Record::Leased {
                operation,
                lease,
                holder,
            } => {
                let row = self.attempts.get(key(operation))?;
                let row = row.and_then(|row| AttemptsRow::decode(row.value()).ok());
                let row = AttemptsRow {
                    lease: lease.0,
                    worker: (*holder.worker).to_owned(),
                    proof: holder.proof.as_bytes().to_vec(),
                    ..row.unwrap_or_default()
                };
                self.attempts
                    .insert(key(operation), row.encode_to_vec().as_slice())?;
            }
            Record::Requeued { operation, attempts } => {
                let row = AttemptsRow {
                    attempts: attempts.clone(),
                    ..AttemptsRow::default()
                };
                self.attempts
                    .insert(key(operation), row.encode_to_vec().as_slice())?;
            }
            Record::Completed { operation, outcome } => match encode_outcome(outcome) {
                Some(encoded) => {
                    self.outcomes.insert(key(operation), encoded.as_slice())?;
                }
                None => {
                    self.operations.remove(key(operation))?;
                    self.attempts.remove(key(operation))?;
                }
            },
            Record::Learnt {
                task,
                task_use: Some(task_use),
            } => {
                let row = UsageRow::new(task_use).encode_to_vec();
                self.usage.insert(task.0, row.as_slice())?;
            }
            Record::Learnt { task, task_use: None } => {
                self.usage.remove(task.0)?;
            }
            Record::Forgotten { operation } => {
                self.operations.remove(key(operation))?;
                self.attempts.remove(key(operation))?;
                self.outcomes.remove(key(operation))?;
            }
            Record::Build { build, row } => {
                self.builds.insert(build.as_u128(), row.as_slice())?;
            }
            Record::BuildForgotten { build } => {
                self.builds.remove(build.as_u128())?;
            }
        }
        Ok(())
    }
}

fn key(operation: &OperationId) -> u128 {
    operation.0.as_u128()
}

/// Reads the journal, and counts this run.
fn recover(database: &Database) -> Result<Recovered, JournalError> {
    let transaction = database.begin_write().map_err(boxed)?;
    let recovered = {
        let mut numbers = transaction.open_table(NUMBERS).map_err(boxed)?;
        let number = |name| -> Result<Option<u64>, Box<redb::Error>> {
            Ok(numbers.get(name).map_err(boxed)?.map(|number| number.value()))
        };
        match number("format")? {
            None | Some(FORMAT) => {}
            Some(other) => return Err(JournalError::Format(other)),
        }
        let epoch = number("epoch")?.unwrap_or_default() + 1;
        numbers.insert("format", FORMAT).map_err(boxed)?;
        numbers.insert("epoch", epoch).map_err(boxed)?;
        let operations = transaction.open_table(OPERATIONS).map_err(boxed)?;
        let attempts = transaction.open_table(ATTEMPTS).map_err(boxed)?;
        let outcomes = transaction.open_table(OUTCOMES).map_err(boxed)?;
        let mut restored = vec![];
        for row in operations.iter().map_err(boxed)? {
            let (key, row) = row.map_err(boxed)?;
            let key = key.value();
            let attempts = attempts.get(key).map_err(boxed)?;
            let attempts = attempts.and_then(|row| AttemptsRow::decode(row.value()).ok());
            let outcome = outcomes.get(key).map_err(boxed)?;
            restored.extend(restored_operation(
                Uuid::from_u128(key),
                row.value(),
                attempts.unwrap_or_default(),
                outcome.as_ref().map(redb::AccessGuard::value),
            ));
        }
        let usage = transaction.open_table(USAGE).map_err(boxed)?;
        let mut learnt = vec![];
        for row in usage.iter().map_err(boxed)? {
            let (task, row) = row.map_err(boxed)?;
            learnt
                .extend(UsageRow::decode_use(row.value()).map(|task_use| (TaskName(task.value()), task_use)));
        }
        let mut builds = vec![];
        for row in transaction
            .open_table(BUILDS)
            .map_err(boxed)?
            .iter()
            .map_err(boxed)?
        {
            let (key, row) = row.map_err(boxed)?;
            builds.push(RestoredBuild {
                build: BuildId(Uuid::from_u128(key.value())),
                row: row.value().to_owned(),
            });
        }
        Recovered {
            usage: learnt,
            epoch: u32::try_from(epoch).unwrap_or(u32::MAX),
            operations: restored,
            builds,
        }
    };
    transaction.commit().map_err(boxed)?;
    Ok(recovered)
}

#[cfg(test)]
mod tests;
