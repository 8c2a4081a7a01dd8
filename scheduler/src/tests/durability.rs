//! What clients and workers see, and when its records are durable.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_cas::blob_store::one_chunk;
use bitzel_cas::{BlobStore, MemoryBlobStore};
use bitzel_proto::reapi::execution_server::Execution;
use bitzel_proto::reapi::{Action, Command, Directory, ExecuteRequest};
use bitzel_proto::worker::{Completed, WorkerMessage, scheduler_message, worker_message};
use bitzel_proto::{Digest, DigestFunction};
use futures::{StreamExt, poll};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::fake_worker::{exited, hello};
use super::farm::with_timeout;
use super::gated_action_cache::GatedActionCache;
use super::manual_clock::ManualClock;
use crate::journal::RecordNumber;
use crate::operation_queue::Record;
use crate::{ExecutionConfig, ExecutionServer, Journal, JournalError, Recovered};

/// Journal whose records become durable when the test says so.
pub(super) struct HeldJournal {
    appended: watch::Sender<RecordNumber>,
    durable: watch::Sender<RecordNumber>,
}

impl HeldJournal {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            appended: watch::Sender::default(),
            durable: watch::Sender::default(),
        })
    }

    /// Waits until so many records were appended.
    pub(super) async fn appended(&self, number: u64) {
        let mut appended = self.appended.subscribe();
        let enough = appended.wait_for(|appended| appended.0 >= number);
        with_timeout(enough).await.unwrap();
    }

    pub(super) fn write_all(&self) {
        self.durable.send_replace(*self.appended.borrow());
    }
}

#[async_trait]
impl Journal for HeldJournal {
    async fn recover(&self) -> Result<Recovered, JournalError> {
        Ok(Recovered::default())
    }

    fn append(&self, records: Vec<Record>) -> RecordNumber {
        self.appended
            .send_modify(|appended| appended.0 += records.len() as u64);
        *self.appended.borrow()
    }

    fn durable(&self) -> watch::Receiver<RecordNumber> {
        self.durable.subscribe()
    }
}

async fn upload(store: &dyn BlobStore, message: &impl Message) -> Digest {
    let bytes = message.encode_to_vec();
    let digest = DigestFunction::Sha256.digest(&bytes);
    store.write(digest, one_chunk(bytes.into())).await.unwrap();
    digest
}

#[tokio::test]
async fn nothing_is_shown_before_its_record_is_durable() {
    let store: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
    let action = Action {
        command_digest: Some(upload(&*store, &Command::default()).await.into()),
        input_root_digest: Some(upload(&*store, &Directory::default()).await.into()),
        ..Action::default()
    };
    let action = upload(&*store, &action).await;
    let journal = HeldJournal::new();
    let server = ExecutionServer::with_journal(
        store,
        Arc::new(GatedActionCache::default()),
        ExecutionConfig::default(),
        Arc::new(ManualClock::default()),
        journal.clone(),
        Recovered::default(),
    );

    let request = ExecuteRequest {
        action_digest: Some(action.into()),
        digest_function: action.function().to_wire(),
        ..ExecuteRequest::default()
    };
    let operations = server.execution.execute(Request::new(request)).await.unwrap();
    let mut operations = operations.into_inner();
    journal.appended(1).await;
    assert!(poll!(operations.next()).is_pending(), "the name of the operation");
    journal.write_all();
    with_timeout(operations.next()).await.unwrap().unwrap();

    let (worker, messages) = mpsc::channel(16);
    let mut inbound = server.worker_queue.open(
        ReceiverStream::new(messages).map(Ok),
        crate::operation_queue::Route::Direct,
        &tonic::Extensions::new(),
    );
    let send = async |message| {
        let message = Some(message);
        worker.send(WorkerMessage { message }).await.unwrap();
    };
    send(hello("w", 1, &[])).await;
    journal.appended(2).await;
    assert!(poll!(inbound.next()).is_pending(), "the assignment");
    assert!(poll!(operations.next()).is_pending(), "the worker's name");
    journal.write_all();
    with_timeout(operations.next()).await.unwrap().unwrap();
    let assign = with_timeout(inbound.next()).await.unwrap().unwrap();
    let Some(scheduler_message::Message::Assign(assign)) = assign.message else {
        panic!("{assign:?}")
    };
    send(worker_message::Message::Completed(Completed {
        lease: assign.lease,
        response: Some(exited(0)),
    }))
    .await;
    journal.appended(3).await;
    assert!(poll!(inbound.next()).is_pending(), "the acknowledgement");
    assert!(poll!(operations.next()).is_pending(), "the outcome");
    journal.write_all();
    let acknowledged = with_timeout(inbound.next()).await.unwrap().unwrap();
    assert!(matches!(
        acknowledged.message,
        Some(scheduler_message::Message::Acknowledged(_))
    ));
    assert!(with_timeout(operations.next()).await.unwrap().unwrap().done);
}
