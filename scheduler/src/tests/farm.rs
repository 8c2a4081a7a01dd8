//! Server on loopback with its clients.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bitzel_cas::blob_store::one_chunk;
use bitzel_cas::{BlobStore, MemoryBlobStore};
use bitzel_proto::google::longrunning::{Operation, operation};
use bitzel_proto::reapi::execution_client::ExecutionClient;
use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{
    Action, Command, Directory, ExecuteOperationMetadata, ExecuteRequest, ExecuteResponse, Platform,
    WaitExecutionRequest, execution_stage,
};
use bitzel_proto::worker::worker_queue_client::WorkerQueueClient;
use bitzel_proto::{Digest, DigestFunction};
use prost::Message;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Status, Streaming};

use super::gated_action_cache::GatedActionCache;
use super::manual_clock::ManualClock;
use crate::{ExecutionConfig, ExecutionServer, ExecutionTasks};

pub(super) const ABANDONED_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a worker has to come back.
pub(super) const RECONNECT_TIMEOUT: Duration = Duration::from_secs(15);
pub(super) const NO_WORKER_TIMEOUT: Duration = Duration::from_mins(1);

pub(super) struct Farm {
    store: Arc<dyn BlobStore>,
    pub(super) action_cache: Arc<GatedActionCache>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) background: ExecutionTasks,
    channel: Channel,
}

/// Fails a test that waits for an event that never happens, instead of hanging.
pub(super) async fn with_timeout<T>(future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_mins(1), future).await;
    waited.expect("the event should have happened long ago")
}

pub(super) fn platform(properties: &[(&str, &str)]) -> Platform {
    let property = |(name, value): &(&str, &str)| Property {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    Platform {
        properties: properties.iter().map(property).collect(),
    }
}

impl Farm {
    pub(super) async fn start() -> Self {
        Self::start_on(Arc::new(MemoryBlobStore::default())).await
    }

    pub(super) async fn start_on(store: Arc<dyn BlobStore>) -> Self {
        let action_cache = Arc::new(GatedActionCache::default());
        let clock = Arc::new(ManualClock::default());
        let config = ExecutionConfig {
            max_attempts: NonZeroUsize::new(2).unwrap(),
            no_worker_timeout: NO_WORKER_TIMEOUT,
            abandoned_timeout: ABANDONED_TIMEOUT,
            worker_reconnect_timeout: RECONNECT_TIMEOUT,
            max_action_timeout: Duration::from_hours(1),
            ..ExecutionConfig::default()
        };
        let server = ExecutionServer::new(store.clone(), action_cache.clone(), config, clock.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let services = Server::builder()
            .add_service(server.execution.into_server())
            .add_service(server.worker_queue.into_server())
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        // Ends with the test's runtime.
        tokio::spawn(services);
        let channel = Channel::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        Self {
            store,
            action_cache,
            clock,
            background: server.background,
            channel,
        }
    }

    pub(super) fn client(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.channel.clone())
    }

    pub(super) fn worker_queue_client(&self) -> WorkerQueueClient<Channel> {
        WorkerQueueClient::new(self.channel.clone())
    }

    pub(super) async fn upload(&self, message: &impl Message) -> Digest {
        self.upload_bytes(&message.encode_to_vec()).await
    }

    pub(super) async fn upload_bytes(&self, bytes: &[u8]) -> Digest {
        let digest = DigestFunction::Sha256.digest(bytes);
        let content = one_chunk(bytes.to_vec().into());
        self.store.write(digest, content).await.unwrap();
        digest
    }

    /// Uploads an Action for Linux, and its inputs.
    pub(super) async fn action(&self, name: &str) -> Digest {
        self.action_with(name, |_| {}).await
    }

    pub(super) async fn action_with(&self, name: &str, change: impl FnOnce(&mut Action)) -> Digest {
        let command = Command {
            arguments: vec![name.to_owned()],
            ..Default::default()
        };
        let mut action = Action {
            command_digest: Some(self.upload(&command).await.into()),
            input_root_digest: Some(self.upload(&Directory::default()).await.into()),
            platform: Some(platform(&[("OSFamily", "linux"), ("network", "on")])),
            ..Default::default()
        };
        change(&mut action);
        self.upload(&action).await
    }

    pub(super) async fn execute(&self, action: Digest) -> Result<Operations, Status> {
        self.execute_with(action, |_| {}).await
    }

    pub(super) async fn execute_with(
        &self,
        action: Digest,
        change: impl FnOnce(&mut ExecuteRequest),
    ) -> Result<Operations, Status> {
        let mut request = ExecuteRequest {
            action_digest: Some(action.into()),
            digest_function: action.function().to_wire(),
            ..Default::default()
        };
        change(&mut request);
        let stream = with_timeout(self.client().execute(request)).await?;
        Ok(Operations(stream.into_inner()))
    }

    pub(super) async fn wait(&self, name: &str) -> Result<Operations, Status> {
        let name = name.to_owned();
        let stream = with_timeout(self.client().wait_execution(WaitExecutionRequest { name })).await?;
        Ok(Operations(stream.into_inner()))
    }
}

/// Stream of a client that follows an operation. Dropping it disconnects the client.
pub(super) struct Operations(Streaming<Operation>);

impl Operations {
    pub(super) async fn next(&mut self) -> Result<Option<Operation>, Status> {
        with_timeout(self.0.message()).await
    }

    /// Reads until the operation has reached `stage`.
    pub(super) async fn reach(&mut self, wanted: execution_stage::Value) -> Operation {
        loop {
            let operation = self
                .next()
                .await
                .unwrap()
                .expect("the stream ended before the stage");
            if stage(&operation) == wanted {
                return operation;
            }
        }
    }

    /// Reads to the end of the stream.
    pub(super) async fn response(&mut self) -> ExecuteResponse {
        let last = self.reach(execution_stage::Value::Completed).await;
        assert!(
            self.next().await.unwrap().is_none(),
            "the stream ends after the last state"
        );
        response(&last)
    }
}

pub(super) fn metadata(operation: &Operation) -> ExecuteOperationMetadata {
    let metadata = operation.metadata.as_ref().unwrap();
    assert!(
        metadata
            .type_url
            .ends_with("/build.bazel.remote.execution.v2.ExecuteOperationMetadata")
    );
    ExecuteOperationMetadata::decode(metadata.value.as_slice()).unwrap()
}

pub(super) fn stage(operation: &Operation) -> execution_stage::Value {
    metadata(operation).stage()
}

pub(super) fn response(operation: &Operation) -> ExecuteResponse {
    match operation.result.as_ref() {
        Some(operation::Result::Response(response)) => {
            assert!(
                response
                    .type_url
                    .ends_with("/build.bazel.remote.execution.v2.ExecuteResponse")
            );
            ExecuteResponse::decode(response.value.as_slice()).unwrap()
        }
        other => panic!("not a response: {other:?}"),
    }
}
