//! `bitzel serve` as a separate process, and calls of its clients.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command as Program, ExitStatus, Stdio};
use std::time::Duration;

use bitzel_cas::retry::reconnection_pauses;
use bitzel_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use bitzel_proto::google::bytestream::{ReadRequest, WriteRequest};
use bitzel_proto::google::longrunning::Operation;
use bitzel_proto::reapi::action_cache_client::ActionCacheClient;
use bitzel_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use bitzel_proto::reapi::execution_client::ExecutionClient;
use bitzel_proto::reapi::{
    Action, BatchUpdateBlobsRequest, Command, Directory, ExecuteRequest, ExecuteResponse,
    FindMissingBlobsRequest, batch_update_blobs_request,
};
use bitzel_proto::{Digest, DigestFunction};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::messages::{request, response, write_requests};

/// Longer than anything here takes, so that a test that waits for an event that never comes fails.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(2);
/// Longest pause of [`until`].
const MAX_POLL_PAUSE: Duration = Duration::from_secs(1);
/// Maximum size of a message that these clients accept, in bytes.
const MAX_MESSAGE_SIZE: usize = 32 << 20;

/// Server of one test, with an empty store. Dropping it stops the process, which takes a runtime with several threads: the
/// server waits for its connections to end.
pub(crate) struct Server {
    process: Child,
    address: String,
    /// Address of the HTTP cache, if the server has one.
    pub(crate) http: Option<String>,
    pub(crate) channel: Channel,
    directory: TempDir,
}

impl Server {
    /// Server without a worker: store and action cache.
    pub(crate) async fn cache() -> Self {
        Self::start(&["--jobs", "0"]).await
    }

    /// Server without a worker that serves HTTP too.
    pub(crate) async fn http_cache() -> Self {
        Self::start(&["--jobs", "0", "--http-listen", "127.0.0.1:0"]).await
    }

    /// Server without a worker that serves HTTP too, with a configuration file.
    pub(crate) async fn http_cache_with(configuration: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("bitzel.toml");
        std::fs::write(&path, configuration).unwrap();
        let config = path.to_str().unwrap();
        let arguments = ["--jobs", "0", "--http-listen", "127.0.0.1:0", "--config", config];
        Self::start_in(directory, &arguments).await
    }

    /// Server with a worker that serves HTTP too, with a configuration file.
    pub(crate) async fn farm_with(configuration: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("bitzel.toml");
        std::fs::write(&path, configuration).unwrap();
        let config = path.to_str().unwrap();
        let arguments = ["--jobs", "2", "--http-listen", "127.0.0.1:0", "--config", config];
        Self::start_in(directory, &arguments).await
    }

    /// Server with a worker.
    pub(crate) async fn farm() -> Self {
        Self::start(&["--jobs", "2"]).await
    }

    /// Server with a configuration file; `{}` in it stands for the server's directory.
    pub(crate) async fn configured(text: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("bitzel.toml");
        let text = text.replace("{}", directory.path().to_str().unwrap());
        std::fs::write(&path, text).unwrap();
        Self::start_in(directory, &["--config", path.to_str().unwrap()]).await
    }

    async fn start(arguments: &[&str]) -> Self {
        Self::start_in(TempDir::new().unwrap(), arguments).await
    }

    async fn start_in(directory: TempDir, arguments: &[&str]) -> Self {
        let mut process = Program::new(env!("CARGO_BIN_EXE_bitzel"))
            .arg("--cache-dir")
            .arg(directory.path())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut address = |prefix: &str| {
            let line = lines.next().unwrap().unwrap();
            let address = line.strip_prefix(prefix).map(str::to_owned);
            address.unwrap_or_else(|| panic!("the server said {line:?}"))
        };
        let grpc = address("bitzel serves on grpc://");
        let http = arguments
            .contains(&"--http-listen")
            .then(|| address("the HTTP cache is on http://"));
        let address = grpc;
        let channel = endpoint(&address).connect().await.unwrap();
        Self {
            process,
            address,
            http,
            channel,
            directory,
        }
    }

    /// Address of gRPC.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Endpoint for connections beside [`Self::channel`].
    pub(crate) fn endpoint(&self) -> Endpoint {
        endpoint(&self.address)
    }

    /// Asks the process to end.
    pub(crate) fn terminate(&self) {
        let id = Pid::from_raw(self.process.id().try_into().unwrap());
        // A process that has ended already cannot be signalled; the test fails by its own checks.
        let _ = kill(id, Signal::SIGTERM);
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    pub(crate) fn blobs(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    pub(crate) fn streams(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    pub(crate) fn results(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.channel.clone())
    }

    pub(crate) fn executions(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.channel.clone())
    }

    /// Peak memory of the server so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// Memory of the server, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let kibibytes: u64 = line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap();
        kibibytes << 10
    }

    /// Bytes on disk of all files below the server's directory.
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let mut waiting = vec![self.directory.path().to_owned()];
        let mut bytes = 0;
        while let Some(directory) = waiting.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => waiting.push(entry.path()),
                    Ok(metadata) => bytes += metadata.blocks() * 512,
                    // Temporary files disappear meanwhile.
                    Err(_) => {}
                }
            }
        }
        bytes
    }

    /// Waits until files have fewer bytes than that: files of an abandoned upload are removed a little later.
    pub(crate) async fn has_on_disk_less_than(&self, bytes: u64) {
        until(async || self.bytes_on_disk() < bytes).await;
    }

    /// Uploads a blob.
    pub(crate) async fn put(&self, function: DigestFunction, blob: &[u8]) -> Digest {
        let digest = function.digest(blob);
        let code = self.put_as(digest, blob).await;
        assert_eq!(code, Code::Ok, "upload of {digest}");
        digest
    }

    /// Uploads a blob under a digest that may be wrong.
    pub(crate) async fn put_as(&self, digest: Digest, blob: &[u8]) -> Code {
        let request = BatchUpdateBlobsRequest {
            digest_function: digest.function().to_wire(),
            requests: vec![batch_update_blobs_request::Request {
                digest: Some(digest.to_wire()),
                data: blob.to_vec(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let response = self.blobs().batch_update_blobs(request).await.unwrap();
        let status = response.into_inner().responses.remove(0).status.unwrap();
        Code::from_i32(status.code)
    }

    /// Uploads a blob of any size in a stream.
    pub(crate) async fn upload(&self, function: DigestFunction, blob: &[u8]) -> Digest {
        let digest = function.digest(blob);
        let segment = function
            .resource_segment()
            .map_or(String::new(), |segment| format!("{segment}/"));
        let name = format!("uploads/u/blobs/{segment}{digest}");
        self.write(write_requests(&name, blob)).await.unwrap();
        digest
    }

    /// Uploads a message.
    pub(crate) async fn put_message(&self, function: DigestFunction, message: &impl Message) -> Digest {
        self.put(function, &message.encode_to_vec()).await
    }

    /// Digests that are missing, out of `digests`.
    pub(crate) async fn missing(&self, digests: &[Digest]) -> Vec<Digest> {
        let function = digests[0].function();
        let request = FindMissingBlobsRequest {
            blob_digests: digests.iter().map(Digest::to_wire).collect(),
            digest_function: function.to_wire(),
            ..Default::default()
        };
        let response = self.blobs().find_missing_blobs(request).await.unwrap();
        let missing = response.into_inner().missing_blob_digests.into_iter();
        missing
            .map(|digest| Digest::from_wire(function, &digest).unwrap())
            .collect()
    }

    /// Reads with `ByteStream`.
    pub(crate) async fn read(&self, name: &str, offset: i64, limit: i64) -> Result<Vec<u8>, Status> {
        let request = ReadRequest {
            resource_name: name.to_owned(),
            read_offset: offset,
            read_limit: limit,
        };
        let mut messages = self.streams().read(request).await?.into_inner();
        let mut blob = Vec::new();
        while let Some(message) = messages.message().await? {
            blob.extend_from_slice(&message.data);
        }
        Ok(blob)
    }

    /// Reads all of a blob that need not fit in memory.
    pub(crate) async fn read_into(&self, name: &str, mut sink: impl FnMut(&[u8])) {
        let request = ReadRequest {
            resource_name: name.to_owned(),
            ..Default::default()
        };
        let mut messages = self.streams().read(request).await.unwrap().into_inner();
        while let Some(message) = messages.message().await.unwrap() {
            sink(&message.data);
        }
    }

    /// Reads a whole blob.
    pub(crate) async fn get(&self, digest: Digest) -> Vec<u8> {
        let segment = digest.function().resource_segment();
        let prefix = segment.map_or(String::new(), |segment| format!("{segment}/"));
        self.read(&format!("blobs/{prefix}{digest}"), 0, 0).await.unwrap()
    }

    /// Writes with `ByteStream`.
    pub(crate) async fn write(&self, requests: Vec<WriteRequest>) -> Result<i64, Status> {
        let response = self.streams().write(tokio_stream::iter(requests)).await?;
        Ok(response.into_inner().committed_size)
    }

    /// Uploads an Action with an empty input root, or what `change` makes of it.
    pub(crate) async fn action(
        &self,
        function: DigestFunction,
        command: &Command,
        change: impl FnOnce(&mut Action),
    ) -> Digest {
        let mut action = Action {
            command_digest: Some(self.put_message(function, command).await.to_wire()),
            input_root_digest: Some(self.put_message(function, &Directory::default()).await.to_wire()),
            ..Default::default()
        };
        change(&mut action);
        self.put_message(function, &action).await
    }

    /// All states of an execution.
    pub(crate) async fn execute(&self, request: ExecuteRequest) -> Result<Vec<Operation>, Status> {
        let mut stream = self.executions().execute(request).await?.into_inner();
        let mut operations = Vec::new();
        while let Some(operation) = stream.message().await? {
            operations.push(operation);
        }
        Ok(operations)
    }

    /// Response of an execution.
    pub(crate) async fn respond(&self, request: ExecuteRequest) -> ExecuteResponse {
        let operations = self.execute(request).await.unwrap();
        response(operations.last().unwrap())
    }

    /// Executes a command on an input root, and returns the response.
    pub(crate) async fn run(&self, command: &Command, root: &Directory) -> ExecuteResponse {
        let function = DigestFunction::Sha256;
        let root = self.put_message(function, root).await;
        let action = self
            .action(function, command, |action| {
                action.input_root_digest = Some(root.to_wire());
            })
            .await;
        self.respond(request(action)).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.terminate();
        let _ = self.process.wait();
    }
}

/// Waits for a state of the server's process. It sends no event to wait for, so this asks again, with growing pauses.
pub(crate) async fn until(mut reached: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(RESPONSE_TIMEOUT, async {
        for pause in reconnection_pauses(MAX_POLL_PAUSE) {
            if reached().await {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    });
    waited.await.expect("the server should have got there long ago");
}

fn endpoint(address: &str) -> Endpoint {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.timeout(RESPONSE_TIMEOUT)
}
