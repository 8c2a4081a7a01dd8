//! Actions of tenants that come back from the journal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bitzel_cas::{InstanceBlobStores, MemoryBlobStore, PossessionKey, TenantNames};
use bitzel_proto::reapi::execution_server::Execution;
use bitzel_proto::reapi::{Action, Command, Directory, FileNode, WaitExecutionRequest};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use futures::StreamExt;
use prost::Message;
use tonic::{Code, Request};
use uuid::Uuid;

use super::farm::{response, with_timeout};
use super::gated_action_cache::GatedActionCache;
use super::manual_clock::ManualClock;
use crate::operation_message::operation_name;
use crate::operation_queue::{
    ActionKey, OperationId, QueuedAction, Requester, RestoredOperation, RestoredState,
};
use crate::platform::RequiredProperties;
use crate::resources::Resources;
use crate::{ExecutionConfig, ExecutionServer, MemoryJournal, Recovered};

struct ByInstance;

impl TenantNames for ByInstance {
    fn tenant(&self, instance: &InstanceName) -> String {
        instance.to_string()
    }
}

async fn upload(stores: &InstanceBlobStores, instance: &InstanceName, blob: Vec<u8>) -> Digest {
    let digest = DigestFunction::Sha256.digest(&blob);
    let written = stores
        .store(instance)
        .write_batch(vec![(digest, blob.into())])
        .await;
    assert!(written.iter().all(Result::is_ok));
    digest
}

#[tokio::test]
async fn f12_a_restored_action_with_foreign_inputs_fails() {
    let store = Arc::new(MemoryBlobStore::default());
    let stores = InstanceBlobStores::isolated(store, Arc::new(ByInstance), PossessionKey::new(b"secret"));
    let [own, other] = ["own", "other"].map(|name| InstanceName::new(name).unwrap());
    let foreign = upload(&stores, &other, b"of another tenant".to_vec()).await;
    let directory = Directory {
        files: vec![FileNode {
            name: "file".to_owned(),
            digest: Some(foreign.into()),
            ..FileNode::default()
        }],
        ..Directory::default()
    };
    let command = Command {
        arguments: vec!["true".to_owned()],
        ..Command::default()
    };
    let action = Action {
        command_digest: Some(upload(&stores, &own, command.encode_to_vec()).await.into()),
        input_root_digest: Some(upload(&stores, &own, directory.encode_to_vec()).await.into()),
        ..Action::default()
    };
    let digest = upload(&stores, &own, action.encode_to_vec()).await;
    let operation = OperationId(Uuid::new_v4());
    let restored = RestoredOperation {
        operation,
        action: QueuedAction {
            key: ActionKey {
                instance: own.clone(),
                digest,
            },
            do_not_cache: false,
            requirements: RequiredProperties::default(),
            requester: Requester::default(),
            resources: Resources::default(),
            remaining_path: Duration::ZERO,
            input_trees: Arc::default(),
            priority: 0,
            queued: SystemTime::UNIX_EPOCH,
            request_metadata: None,
        },
        attempts: vec![],
        state: RestoredState::Queued,
    };
    let server = ExecutionServer::with_journal(
        stores,
        Arc::new(GatedActionCache::default()),
        ExecutionConfig::default(),
        Arc::new(ManualClock::default()),
        Arc::new(MemoryJournal::default()),
        Recovered {
            epoch: 1,
            operations: vec![restored],
            usage: vec![],
            builds: vec![],
        },
    );
    let request = WaitExecutionRequest {
        name: operation_name(&own, operation),
    };
    let operations = server
        .execution
        .wait_execution(Request::new(request))
        .await
        .unwrap();
    let mut operations = operations.into_inner();
    let last = loop {
        let operation = with_timeout(operations.next()).await.unwrap().unwrap();
        if operation.done {
            break operation;
        }
    };
    let status = response(&last).status.unwrap();
    assert_eq!(Code::from(status.code), Code::FailedPrecondition, "{status:?}");
    assert!(!status.details.is_empty(), "it names what is missing");
}
