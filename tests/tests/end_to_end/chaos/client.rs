//! Client that walks a graph as Bazel does: it repeats calls, follows operations by name, and builds lost inputs again.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitzel_proto::google::longrunning::operation;
use bitzel_proto::missing_blobs::missing_blob_subjects;
use bitzel_proto::reapi::action_cache_client::ActionCacheClient;
use bitzel_proto::reapi::batch_update_blobs_request::Request as BlobUpload;
use bitzel_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use bitzel_proto::reapi::execution_client::ExecutionClient;
use bitzel_proto::reapi::{
    ActionResult, BatchUpdateBlobsRequest, ExecuteRequest, ExecuteResponse, GetActionResultRequest,
    RequestMetadata, WaitExecutionRequest,
};
use bitzel_proto::{Digest, google};
use prost::Message as _;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::graph::{FUNCTION, Graph, Outputs, name};

/// Pause before a call is repeated. A real client has a growing one.
const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// Longer than any Action takes with all faults; only a lost one reaches it.
const ACTION_TIMEOUT: Duration = Duration::from_mins(4);
/// Time without an event of the operation after which a client asks again, on a new connection.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);
/// Number of Actions that a client asks for at the same time.
const MAX_CONCURRENT_ACTIONS: usize = 24;
/// Number of times that inputs of one Action are built again.
const MAX_RECOVERIES: usize = 20;
const REQUEST_METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// Numbers of what clients have seen, by description.
pub(super) type Counts = Arc<std::sync::Mutex<BTreeMap<String, usize>>>;

pub(super) fn count(counts: &Counts, what: impl Into<String>) {
    *counts.lock().expect("no panic").entry(what.into()).or_default() += 1;
}

/// Client with a connection, and the results that it has.
pub(super) struct Client {
    number: usize,
    channel: Channel,
    graph: Arc<Graph>,
    results: Vec<Mutex<Option<(Digest, Outputs)>>>,
    permits: Semaphore,
    seen: Counts,
    /// Statuses that no client should get, with their Action.
    pub(super) findings: Arc<std::sync::Mutex<Vec<String>>>,
}

/// What to do after an attempt.
enum Attempt {
    Done(Outputs),
    /// Blobs are missing.
    Missing(String),
    Repeat,
}

impl Client {
    pub(super) fn new(
        number: usize,
        url: &str,
        graph: Arc<Graph>,
        seen: Counts,
        findings: Arc<std::sync::Mutex<Vec<String>>>,
    ) -> Arc<Self> {
        let url = url.replace("grpc://", "http://");
        let endpoint = Endpoint::from_shared(url).expect("a URL");
        let channel = endpoint.connect_timeout(SILENCE_TIMEOUT).connect_lazy();
        Arc::new(Self {
            number,
            channel,
            results: graph.nodes.iter().map(|_| Mutex::new(None)).collect(),
            graph,
            permits: Semaphore::new(MAX_CONCURRENT_ACTIONS),
            seen,
            findings,
        })
    }

    /// Gets the results of these Actions, and of all that they depend on.
    pub(super) async fn walk(self: Arc<Self>, targets: Vec<usize>) {
        let mut tasks = JoinSet::new();
        for target in targets {
            tasks.spawn(Arc::clone(&self).result(target));
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("no panic");
        }
    }

    /// Digests of the Actions that were executed, by number.
    pub(super) async fn actions(&self) -> Vec<(usize, Digest)> {
        let mut actions = vec![];
        for (number, result) in self.results.iter().enumerate() {
            if let Some((action, _)) = &*result.lock().await {
                actions.push((number, *action));
            }
        }
        actions
    }

    /// The result of an Action. Earlier ones are locked in the order of the graph, so that nobody waits in a circle.
    fn result(self: Arc<Self>, number: usize) -> Pin<Box<dyn Future<Output = Outputs> + Send>> {
        Box::pin(async move {
            let mut slot = self.results[number].lock().await;
            if let Some((_, outputs)) = &*slot {
                return outputs.clone();
            }
            let (action, outputs) = self.build(number).await;
            *slot = Some((action, outputs.clone()));
            outputs
        })
    }

    async fn inputs(self: &Arc<Self>, number: usize) -> Vec<Outputs> {
        let mut tasks = vec![];
        for dependency in &self.graph.nodes[number].dependencies {
            tasks.push(tokio::spawn(Arc::clone(self).result(*dependency)));
        }
        let mut inputs = vec![];
        for task in tasks {
            inputs.push(task.await.expect("no panic"));
        }
        inputs
    }

    async fn build(self: &Arc<Self>, number: usize) -> (Digest, Outputs) {
        let mut recoveries = 0;
        let mut inputs = self.inputs(number).await;
        let mut started = Instant::now();
        loop {
            let permit = self.permits.acquire().await.expect("it is never closed");
            let blobs = self.graph.action(number, &inputs);
            let mut name_of_operation = String::new();
            let attempt = loop {
                let waited = started.elapsed();
                assert!(
                    waited < ACTION_TIMEOUT,
                    "client {}: Action {} ({}) has no result after {waited:?}; operation {name_of_operation}",
                    self.number,
                    name(number),
                    blobs.action,
                );
                match self.attempt(number, &blobs, &mut name_of_operation).await {
                    Attempt::Repeat => tokio::time::sleep(RETRY_PAUSE).await,
                    other => break other,
                }
            };
            drop(permit);
            match attempt {
                Attempt::Done(outputs) => return (blobs.action, outputs),
                Attempt::Missing(message) => {
                    recoveries += 1;
                    assert!(
                        recoveries <= MAX_RECOVERIES,
                        "the inputs of {} are missing again and again: {message}",
                        name(number)
                    );
                    count(&self.seen, "inputs built again");
                    for dependency in &self.graph.nodes[number].dependencies {
                        *self.results[*dependency].lock().await = None;
                    }
                    inputs = self.inputs(number).await;
                    started = Instant::now();
                }
                Attempt::Repeat => unreachable!("repeated above"),
            }
        }
    }

    async fn attempt(
        &self,
        number: usize,
        blobs: &super::graph::ActionBlobs,
        operation: &mut String,
    ) -> Attempt {
        match self.execute(number, blobs, operation).await {
            Ok(response) => self.judge(number, response),
            Err(status) => {
                let code = status.code();
                // A status with a source was made on this side, of an error of the transport.
                let is_local = std::error::Error::source(&status).is_some();
                let side = if is_local { "connection" } else { "server" };
                count(&self.seen, format!("call ended with {code:?} by the {side}"));
                match code {
                    Code::NotFound => operation.clear(),
                    Code::FailedPrecondition => {
                        let status = bitzel_proto::missing_blobs::to_rpc_status(&status);
                        operation.clear();
                        return self.missing(number, &status);
                    }
                    Code::Unavailable | Code::DeadlineExceeded => {}
                    // A connection that breaks in the middle of an HTTP/2 stream.
                    Code::Unknown | Code::Internal | Code::Cancelled if is_transport_error(&status) => {}
                    _ => self.find(number, &format!("call: {status:?}")),
                }
                Attempt::Repeat
            }
        }
    }

    fn judge(&self, number: usize, response: ExecuteResponse) -> Attempt {
        let status = response.status.unwrap_or_default();
        match Code::from_i32(status.code) {
            Code::Ok => {}
            Code::FailedPrecondition => return self.missing(number, &status),
            code => {
                count(&self.seen, format!("response with {code:?}"));
                if code != Code::Unavailable {
                    self.find(number, &format!("response: {code:?} {}", status.message));
                }
                return Attempt::Repeat;
            }
        }
        let result = response.result.unwrap_or_default();
        if response.cached_result {
            count(&self.seen, "result from the action cache");
        } else {
            count(&self.seen, "result of an execution");
        }
        match outputs(&result) {
            Ok(outputs) if outputs == self.graph.expected(number) && result.exit_code == 0 => {
                Attempt::Done(outputs)
            }
            outputs => {
                let stderr = String::from_utf8_lossy(&result.stderr_raw);
                self.find(
                    number,
                    &format!(
                        "wrong result: exit code {}, {outputs:?}, {stderr}",
                        result.exit_code
                    ),
                );
                Attempt::Repeat
            }
        }
    }

    fn missing(&self, number: usize, status: &google::rpc::Status) -> Attempt {
        let subjects = missing_blob_subjects(status);
        count(&self.seen, "FAILED_PRECONDITION");
        if subjects.is_empty() {
            self.find(
                number,
                &format!("FAILED_PRECONDITION without blobs: {}", status.message),
            );
            return Attempt::Repeat;
        }
        Attempt::Missing(format!("{}: {subjects:?}", status.message))
    }

    fn find(&self, number: usize, finding: &str) {
        let finding = format!("client {}, Action {}: {finding}", self.number, name(number));
        super::print(&format!("FOUND: {finding}"));
        self.findings.lock().expect("no panic").push(finding);
    }

    /// Executes the Action, or waits for the operation that has it.
    async fn execute(
        &self,
        number: usize,
        blobs: &super::graph::ActionBlobs,
        operation: &mut String,
    ) -> Result<ExecuteResponse, Status> {
        let mut client = ExecutionClient::new(self.channel.clone());
        let mut stream = if operation.is_empty() {
            self.upload(&blobs.blobs).await?;
            let request = ExecuteRequest {
                action_digest: Some(blobs.action.to_wire()),
                digest_function: FUNCTION.to_wire(),
                ..ExecuteRequest::default()
            };
            in_time(client.execute(self.request(number, request))).await?
        } else {
            count(&self.seen, "operation followed by name");
            let request = WaitExecutionRequest {
                name: operation.clone(),
            };
            in_time(client.wait_execution(self.request(number, request))).await?
        }
        .into_inner();
        follow(&mut stream, operation).await
    }

    fn request<T>(&self, number: usize, message: T) -> Request<T> {
        let metadata = RequestMetadata {
            tool_invocation_id: format!("chaos {}", self.number),
            target_id: name(number),
            action_mnemonic: "Chaos".to_owned(),
            ..RequestMetadata::default()
        };
        let mut request = Request::new(message);
        let value = MetadataValue::from_bytes(&metadata.encode_to_vec());
        request.metadata_mut().insert_bin(REQUEST_METADATA, value);
        request
    }

    async fn upload(&self, blobs: &[(Digest, Vec<u8>)]) -> Result<(), Status> {
        let requests = blobs.iter().map(|(digest, data)| BlobUpload {
            digest: Some(digest.to_wire()),
            data: data.clone(),
            ..BlobUpload::default()
        });
        let upload = BatchUpdateBlobsRequest {
            requests: requests.collect(),
            digest_function: FUNCTION.to_wire(),
            ..BatchUpdateBlobsRequest::default()
        };
        let mut store = ContentAddressableStorageClient::new(self.channel.clone());
        let uploaded = in_time(store.batch_update_blobs(upload)).await?.into_inner();
        for blob in uploaded.responses {
            let status = blob.status.unwrap_or_default();
            if status.code != 0 {
                return Err(Status::new(Code::from_i32(status.code), status.message));
            }
        }
        Ok(())
    }
}

/// The result that the action cache has, if its outputs are right.
pub(super) async fn cached_result(channel: Channel, action: Digest) -> Result<Outputs, Status> {
    let request = GetActionResultRequest {
        action_digest: Some(action.to_wire()),
        digest_function: FUNCTION.to_wire(),
        ..GetActionResultRequest::default()
    };
    let mut cache = ActionCacheClient::new(channel);
    outputs(&cache.get_action_result(request).await?.into_inner()).map_err(Status::internal)
}

async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let waited = tokio::time::timeout(SILENCE_TIMEOUT, call).await;
    waited.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
}

/// Follows an operation to its response.
async fn follow(
    stream: &mut Streaming<google::longrunning::Operation>,
    name: &mut String,
) -> Result<ExecuteResponse, Status> {
    loop {
        let Some(operation) = in_time(stream.message()).await? else {
            return Err(Status::unavailable("the stream ended before the operation"));
        };
        name.clone_from(&operation.name);
        match operation.result {
            Some(operation::Result::Response(response)) => {
                name.clear();
                let response = ExecuteResponse::decode(response.value.as_slice());
                return response.map_err(|error| Status::data_loss(error.to_string()));
            }
            Some(operation::Result::Error(status)) => {
                name.clear();
                return Err(Status::new(Code::from_i32(status.code), status.message));
            }
            None => {}
        }
    }
}

/// True for errors that the connection has, not the server.
fn is_transport_error(status: &Status) -> bool {
    let text = format!("{status:?}");
    ["transport", "h2", "hyper", "connection", "broken pipe", "reset"]
        .iter()
        .any(|word| text.to_lowercase().contains(word))
}

fn outputs(result: &ActionResult) -> Result<Outputs, String> {
    let digest = |wire| Digest::from_wire_field(FUNCTION, wire).map_err(|error| error.to_string());
    let mut outputs = Outputs::default();
    for file in &result.output_files {
        outputs
            .files
            .push((file.path.clone(), digest(file.digest.as_ref())?));
    }
    for directory in &result.output_directories {
        outputs
            .trees
            .push((directory.path.clone(), digest(directory.tree_digest.as_ref())?));
    }
    outputs.links.clone_from(&result.output_symlinks);
    outputs.files.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(outputs)
}
