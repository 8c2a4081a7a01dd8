//! One model test for all media.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::SystemTime;

use bitzel_builds::BuildId;
use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{ExecuteResponse, Platform, RequestMetadata};
use bitzel_proto::{DigestFunction, InstanceName};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use uuid::Uuid;

use super::postgresql::tests::TestDatabase;
use super::*;
use crate::error::ExecutionError;
use crate::operation_queue::{
    ActionKey, HolderProof, LeaseHolder, LeaseId, MAX_OUTCOME_BYTES, OperationId, OperationOutcome,
    QueuedAction, Requester, RestoredState,
};
use crate::platform::RequiredProperties;
use crate::resources::Resources;

pub(super) fn action(name: &str) -> QueuedAction {
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
            weight: NonZeroU32::new(3).unwrap(),
            invocation: "build".into(),
        },
        resources: Resources::default(),
        remaining_path: Duration::ZERO,
        input_trees: Arc::default(),
        priority: -7,
        queued: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123),
        request_metadata: Some(RequestMetadata {
            target_id: name.to_owned(),
            ..Default::default()
        }),
    }
}

pub(super) fn id(number: u128) -> OperationId {
    OperationId(Uuid::from_u128(number))
}

pub(super) fn accepted(number: u128, name: &str) -> Record {
    Record::Accepted {
        operation: id(number),
        action: Arc::new(action(name)),
    }
}

pub(super) fn leased(number: u128, lease: u64) -> Record {
    Record::Leased {
        operation: id(number),
        lease: LeaseId(lease),
        holder: LeaseHolder {
            worker: "w".into(),
            proof: HolderProof::new(&lease.to_le_bytes()),
        },
    }
}

pub(super) fn response(message: &str) -> Arc<OperationOutcome> {
    Arc::new(OperationOutcome::Response(Box::new(ExecuteResponse {
        message: message.to_owned(),
        ..Default::default()
    })))
}

/// Appends records and waits until they are durable.
pub(super) async fn written(journal: &dyn Journal, records: Vec<Record>) {
    let last = journal.append(records);
    let mut durable = journal.durable();
    durable.wait_for(|durable| *durable >= last).await.unwrap();
}

/// State of each operation as text: its Action, its state, and its attempts.
pub(super) fn states(recovered: &Recovered) -> BTreeMap<u128, String> {
    let states = recovered.operations.iter().map(|restored| {
        let state = match &restored.state {
            RestoredState::Queued => "queued".to_owned(),
            RestoredState::Leased { lease, holder } => {
                let own = HolderProof::new(&lease.0.to_le_bytes());
                assert!(holder.proof == own, "the proof of lease {}", lease.0);
                format!("leased {} to {}", lease.0, holder.worker)
            }
            RestoredState::Completed(OperationOutcome::Response(response)) => response.message.clone(),
            RestoredState::Completed(other) => panic!("{other:?}"),
        };
        let attempts = restored.attempts.join(", ");
        let text = format!("{:?}: {state} after [{attempts}]", restored.action);
        (restored.operation.0.as_u128(), text)
    });
    states.collect()
}

/// A step of the model test. The number selects an operation.
#[derive(Debug, Clone)]
enum Step {
    Accept(u128),
    Lease(u128),
    Requeue(u128),
    Complete(u128),
    Fail(u128),
    CompleteWithLargeResult(u128),
    Forget(u128),
    /// The use of a task was learnt; with 0 bytes it was forgotten.
    Learn(u128, u64),
    /// Everything so far is durable before the next record: a batch ends.
    Write,
    /// The server ends, and another one starts.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let operation = 0..6u128;
    prop_oneof![
        4 => operation.clone().prop_map(Step::Accept),
        4 => operation.clone().prop_map(Step::Lease),
        2 => operation.clone().prop_map(Step::Requeue),
        2 => operation.clone().prop_map(Step::Complete),
        1 => operation.clone().prop_map(Step::Fail),
        1 => operation.clone().prop_map(Step::CompleteWithLargeResult),
        1 => operation.prop_map(Step::Forget),
        2 => (0..4u128, 0..4u64).prop_map(|(task, memory)| Step::Learn(task, memory)),
        3 => Just(Step::Write),
        1 => Just(Step::Restart),
    ]
}

/// What a journal must know of an operation.
struct Expected {
    name: String,
    lease: Option<u64>,
    attempts: Vec<String>,
    outcome: Option<String>,
}

impl Expected {
    fn text(&self) -> String {
        let state = match (&self.outcome, self.lease) {
            (Some(outcome), _) => outcome.clone(),
            (None, Some(lease)) => format!("leased {lease} to w"),
            (None, None) => "queued".to_owned(),
        };
        format!(
            "{:?}: {state} after [{}]",
            action(&self.name),
            self.attempts.join(", ")
        )
    }
}

/// Model of a journal that keeps everything.
#[derive(Default)]
struct Model {
    operations: BTreeMap<u128, Expected>,
    /// Distinguishes operations of different cases, and those that come after a forgotten one.
    generation: u128,
    current: BTreeMap<u128, u128>,
    usage: BTreeMap<TaskName, TaskUse>,
    last_lease: u64,
}

impl Model {
    /// Applies a step if it is possible, and returns its record.
    fn apply(&mut self, step: &Step) -> Option<Record> {
        if let Step::Accept(operation) = step {
            if self.current.contains_key(operation) {
                return None;
            }
            self.generation += 1;
            let number = self.generation << 64 | operation;
            self.current.insert(*operation, number);
            let name = format!("action {number}");
            let record = accepted(number, &name);
            let expected = Expected {
                name,
                lease: None,
                attempts: vec![],
                outcome: None,
            };
            self.operations.insert(number, expected);
            return Some(record);
        }
        if let Step::Learn(task, memory_bytes) = step {
            let task = TaskName(*task);
            let task_use = (*memory_bytes > 0).then(|| TaskUse {
                runs: 7,
                resources: Resources {
                    memory_bytes: *memory_bytes,
                    millicpus: 1,
                    disk_bytes: 2,
                },
                milliseconds: vec![3, 4],
            });
            match &task_use {
                Some(task_use) => self.usage.insert(task, task_use.clone()),
                None => self.usage.remove(&task),
            };
            return Some(Record::Learnt { task, task_use });
        }
        let (Step::Lease(operation)
        | Step::Requeue(operation)
        | Step::Complete(operation)
        | Step::Fail(operation)
        | Step::CompleteWithLargeResult(operation)
        | Step::Forget(operation)) = step
        else {
            return None;
        };
        let number = *self.current.get(operation)?;
        let expected = self.operations.get_mut(&number);
        if let Step::Forget(_) = step {
            self.current.remove(operation);
            self.operations.remove(&number);
            return Some(Record::Forgotten {
                operation: id(number),
            });
        }
        let expected = expected.filter(|expected| expected.outcome.is_none())?;
        match step {
            Step::Lease(_) if expected.lease.is_none() => {
                self.last_lease += 1;
                expected.lease = Some(self.last_lease);
                Some(leased(number, self.last_lease))
            }
            Step::Requeue(_) if expected.lease.is_some() => {
                expected.lease = None;
                expected.attempts.push(format!("attempt {}", self.last_lease));
                Some(Record::Requeued {
                    operation: id(number),
                    attempts: expected.attempts.clone(),
                })
            }
            Step::Complete(_) => {
                expected.outcome = Some(format!("done {number}"));
                Some(Record::Completed {
                    operation: id(number),
                    outcome: response(&format!("done {number}")),
                })
            }
            Step::Fail(_) => {
                expected.outcome = Some(ExecutionError::ShuttingDown.to_string());
                Some(Record::Completed {
                    operation: id(number),
                    outcome: Arc::new(OperationOutcome::Failed(ExecutionError::ShuttingDown)),
                })
            }
            Step::CompleteWithLargeResult(_) => {
                // Found in the action cache instead.
                self.operations.remove(&number);
                Some(Record::Completed {
                    operation: id(number),
                    outcome: response(&"x".repeat(MAX_OUTCOME_BYTES + 1)),
                })
            }
            _ => None,
        }
    }
}

/// A place that outlives the journals in it.
trait Medium {
    /// Opens the journal, as a server does that starts or begins to lead.
    async fn open(&self) -> Arc<dyn Journal>;
}

struct File(tempfile::TempDir);

impl Medium for File {
    async fn open(&self) -> Arc<dyn Journal> {
        Arc::new(DiskJournal::open(&self.0.path().join("journal"), Duration::ZERO).unwrap())
    }
}

impl Medium for TestDatabase {
    async fn open(&self) -> Arc<dyn Journal> {
        Arc::new(self.lead().await.0)
    }
}

struct Memory;

impl Medium for Memory {
    async fn open(&self) -> Arc<dyn Journal> {
        Arc::new(MemoryJournal::default())
    }
}

/// Compares a medium with the model, for many histories.
fn compare(medium: &impl Medium, keeps: bool, cases: u32) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut model = Model::default();
    let mut epochs = vec![];
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        // A smaller history would start in the state that the failing one has left.
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    };
    let steps = proptest::collection::vec(step(), 1..60);
    let model = std::cell::RefCell::new((&mut model, &mut epochs));
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        let mut model = model.borrow_mut();
        let (model, epochs) = &mut *model;
        runtime.block_on(async {
            let mut journal = medium.open().await;
            epochs.push(journal.recover().await.unwrap().epoch);
            for step in steps.iter().chain([&Step::Restart]) {
                match step {
                    Step::Write => written(&*journal, vec![]).await,
                    Step::Restart => {
                        written(&*journal, vec![]).await;
                        drop(journal);
                        journal = medium.open().await;
                        let recovered = journal.recover().await.unwrap();
                        epochs.push(recovered.epoch);
                        let expected = model.operations.iter().filter(|_| keeps);
                        let expected: BTreeMap<_, _> = expected
                            .map(|(number, expected)| (*number, expected.text()))
                            .collect();
                        assert_eq!(states(&recovered), expected);
                        let usage: BTreeMap<_, _> = recovered.usage.into_iter().collect();
                        let expected = if keeps {
                            model.usage.clone()
                        } else {
                            BTreeMap::new()
                        };
                        assert_eq!(usage, expected);
                        if !keeps {
                            model.operations.clear();
                            model.current.clear();
                        }
                    }
                    step => {
                        journal.append(model.apply(step).into_iter().collect());
                    }
                }
            }
        });
        Ok(())
    });
    outcome.unwrap();
    let (_, epochs) = model.into_inner();
    if keeps {
        assert!(
            epochs.is_sorted_by(|earlier, later| earlier < later),
            "{epochs:?}"
        );
    } else {
        // They are random.
        epochs.sort_unstable();
        assert!(
            epochs.is_sorted_by(|one, other| one < other),
            "an epoch occurs twice"
        );
    }
}

/// Builds are written, replaced and forgotten, beside operations in the same batch.
async fn keep_builds(medium: &impl Medium) {
    let build = |number: u128, row: &[u8]| Record::Build {
        build: Uuid::from_u128(number),
        row: row.to_owned(),
    };
    let restored = |number: u128, row: &[u8]| RestoredBuild {
        build: BuildId(Uuid::from_u128(number)),
        row: row.to_owned(),
    };
    let journal = medium.open().await;
    journal.recover().await.unwrap();
    let first = vec![
        build(1, b"one"),
        accepted(1, "a"),
        build(2, b"two"),
        build(3, b"three"),
    ];
    written(&*journal, first).await;
    let second = vec![
        build(2, b"replaced"),
        build(2, b"twice"),
        Record::BuildForgotten {
            build: Uuid::from_u128(3),
        },
        build(4, b"come"),
        Record::BuildForgotten {
            build: Uuid::from_u128(4),
        },
    ];
    written(&*journal, second).await;
    drop(journal);
    let journal = medium.open().await;
    let mut recovered = journal.recover().await.unwrap();
    recovered.builds.sort_by_key(|build| build.build);
    assert_eq!(recovered.builds, [restored(1, b"one"), restored(2, b"twice")]);
    assert_eq!(recovered.operations.len(), 1);
}

#[tokio::test]
async fn a_file_keeps_builds() {
    keep_builds(&File(tempfile::tempdir().unwrap())).await;
}

#[tokio::test]
async fn postgresql_keeps_builds() {
    if let Some(database) = TestDatabase::start_or_skip() {
        keep_builds(&database).await;
    }
}

/// As in a database of a version without builds.
#[tokio::test]
async fn the_table_of_builds_is_added() {
    if let Some(database) = TestDatabase::start_or_skip() {
        drop(database.open().await);
        let connection = database.connector.connect().await.unwrap();
        let dropped = connection.client.batch_execute("DROP TABLE bitzel_builds");
        dropped.await.unwrap();
        keep_builds(&database).await;
    }
}

#[test]
fn a_file_keeps_what_the_model_keeps() {
    compare(&File(tempfile::tempdir().unwrap()), true, 24);
}

#[test]
fn postgresql_keeps_what_the_model_keeps() {
    if let Some(database) = TestDatabase::start_or_skip() {
        compare(&database, true, 24);
    }
}

#[test]
fn memory_keeps_nothing() {
    compare(&Memory, false, 24);
}
