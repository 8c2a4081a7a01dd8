use std::time::SystemTime;

use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{ExecuteResponse, Platform, RequestMetadata};
use bitzel_proto::{DigestFunction, InstanceName};

use super::*;
use crate::error::ExecutionError;
use crate::operation_queue::{ActionKey, OperationOutcome, QueuedAction, Requester};
use crate::platform::RequiredProperties;

fn action(name: &str) -> QueuedAction {
    QueuedAction {
        key: ActionKey {
            instance: InstanceName::new("release").unwrap(),
            digest: DigestFunction::Blake3.digest(name.as_bytes()),
        },
        do_not_cache: true,
        requirements: RequiredProperties::new(&Platform {
            properties: vec![Property {
                name: "OSFamily".to_owned(),
                value: "linux".to_owned(),
            }],
        }),
        requester: Requester {
            user: "alice (token)".into(),
            weight: 3.try_into().unwrap(),
            invocation: "build".into(),
        },
        priority: -7,
        queued: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123),
        request_metadata: Some(RequestMetadata {
            target_id: name.to_owned(),
            ..Default::default()
        }),
    }
}

fn id(number: u128) -> OperationId {
    OperationId(Uuid::from_u128(number))
}

fn accepted(number: u128, name: &str) -> Record {
    Record::Accepted {
        operation: id(number),
        action: Arc::new(action(name)),
    }
}

fn leased(number: u128, lease: u64) -> Record {
    Record::Leased {
        operation: id(number),
        lease: LeaseId(lease),
        worker: "w".into(),
    }
}

fn open(directory: &tempfile::TempDir) -> (DiskJournal, Recovered) {
    DiskJournal::open(&directory.path().join("journal"), Duration::ZERO).unwrap()
}

/// Appends records and waits until they are durable, then kills nothing: the next opening reads what is on disk.
async fn written(journal: &DiskJournal, records: Vec<Record>) {
    let last = journal.append(records);
    let mut durable = journal.durable();
    durable.wait_for(|durable| *durable >= last).await.unwrap();
}

#[tokio::test]
async fn operations_come_back_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, recovered) = open(&directory);
    assert_eq!((recovered.epoch, recovered.operations.len()), (1, 0));
    let outcome = |message: &str| {
        Arc::new(OperationOutcome::Response(Box::new(ExecuteResponse {
            message: message.to_owned(),
            ..Default::default()
        })))
    };
    written(
        &journal,
        vec![
            accepted(1, "queued"),
            accepted(2, "leased"),
            leased(2, 7),
            accepted(3, "requeued"),
            leased(3, 8),
            Record::Requeued {
                operation: id(3),
                attempts: vec!["worker w was lost".to_owned()],
            },
            accepted(4, "completed"),
            leased(4, 9),
            Record::Completed {
                operation: id(4),
                outcome: outcome("done"),
            },
            accepted(5, "forgotten"),
            leased(5, 10),
            Record::Forgotten { operation: id(5) },
            accepted(6, "failed"),
            Record::Completed {
                operation: id(6),
                outcome: Arc::new(OperationOutcome::Failed(ExecutionError::ShuttingDown)),
            },
            accepted(7, "requeued and leased"),
            Record::Requeued {
                operation: id(7),
                attempts: vec!["first".to_owned()],
            },
            leased(7, 11),
        ],
    )
    .await;
    drop(journal);
    let (_journal, recovered) = open(&directory);
    assert_eq!(recovered.epoch, 2);
    let states: Vec<_> = recovered
        .operations
        .iter()
        .map(|restored| {
            let state = match &restored.state {
                RestoredState::Queued => "queued".to_owned(),
                RestoredState::Leased { lease, worker } => format!("leased {} to {worker}", lease.0),
                RestoredState::Completed(OperationOutcome::Response(response)) => response.message.clone(),
                RestoredState::Completed(other) => panic!("{other:?}"),
            };
            (restored.operation.0.as_u128(), state, restored.attempts.join(","))
        })
        .collect();
    let expected = [
        (1, "queued", ""),
        (2, "leased 7 to w", ""),
        (3, "queued", "worker w was lost"),
        (4, "done", ""),
        (6, "the server is shutting down; try again", ""),
        (7, "leased 11 to w", "first"),
    ];
    let expected = expected.map(|(id, state, attempts)| (id, state.to_owned(), attempts.to_owned()));
    assert_eq!(states, expected);
    let first = &recovered.operations[0].action;
    assert_eq!(format!("{first:?}"), format!("{:?}", action("queued")));
}

#[tokio::test]
async fn records_of_one_interval_are_one_batch() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let (journal, _) = DiskJournal::open(&path, Duration::from_millis(500)).unwrap();
    let mut durable = journal.durable();
    for number in 0..100 {
        journal.append(vec![accepted(number, "a")]);
    }
    durable.changed().await.unwrap();
    assert_eq!(*durable.borrow_and_update(), RecordNumber(100), "one batch");
}

#[test]
fn a_dropped_journal_has_written_everything() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(&directory);
    journal.append((0..1000).map(|number| accepted(number, "a")).collect());
    drop(journal);
    assert_eq!(open(&directory).1.operations.len(), 1000);
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
