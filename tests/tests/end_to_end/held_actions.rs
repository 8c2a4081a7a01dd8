//! Actions that run until the test lets them end, and clients that execute them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bitzel_proto::google::longrunning::{Operation, operation};
use bitzel_proto::reapi::batch_update_blobs_request::Request as BlobUpload;
use bitzel_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use bitzel_proto::reapi::execution_client::ExecutionClient;
use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{
    Action, BatchUpdateBlobsRequest, Command, Directory, ExecuteOperationMetadata, ExecuteRequest,
    ExecuteResponse, FileNode, Platform, WaitExecutionRequest, execution_stage,
};
use bitzel_proto::{Digest, DigestFunction};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

const FUNCTION: DigestFunction = DigestFunction::Sha256;

/// Command of an Action: connects to the test, says its name, and ends when it gets a byte.
const COMMAND: &str = "\
import socket, sys
connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
connection.sendall(sys.argv[2].encode() + b'\\n')
assert connection.recv(1) == b'.'
";

/// Actions that run until the test lets them end. Each run of one is a connection.
pub(super) struct Runs {
    listener: TcpListener,
    /// Number of runs of each Action.
    pub(super) counts: BTreeMap<String, usize>,
}

impl Runs {
    pub(super) async fn listen() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
            counts: BTreeMap::new(),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("its address")
    }

    /// Waits until this Action runs.
    pub(super) async fn started(&mut self, name: &str) -> TcpStream {
        let (started, run) = self.next().await;
        assert_eq!(started, name, "another Action runs");
        run
    }

    /// Waits until another Action runs, and returns its name.
    pub(super) async fn next(&mut self) -> (String, TcpStream) {
        let (mut connection, _) = self.listener.accept().await.expect("a run");
        let mut name = String::new();
        loop {
            match connection.read_u8().await.expect("its name") {
                b'\n' => break,
                byte => name.push(byte.into()),
            }
        }
        *self.counts.entry(name.clone()).or_default() += 1;
        (name, connection)
    }
}

pub(super) async fn end(mut run: TcpStream) {
    run.write_all(b".").await.expect("it still runs");
}

pub(super) async fn channel(url: &str) -> Channel {
    let url = url.replace("grpc://", "http://");
    Channel::from_shared(url)
        .expect("a URL")
        .connect()
        .await
        .expect("the server listens")
}

/// Uploads an Action that connects to the test, and starts it.
pub(super) async fn execute(url: &str, runs: &Runs, name: &str) -> Operations {
    let action = upload(url, runs, name).await;
    start(channel(url).await, action).await.expect("an operation")
}

/// Starts an Action.
pub(super) async fn start(channel: Channel, action: Digest) -> Result<Operations, Status> {
    let request = ExecuteRequest {
        action_digest: Some(action.to_wire()),
        digest_function: FUNCTION.to_wire(),
        ..ExecuteRequest::default()
    };
    let mut client = ExecutionClient::new(channel);
    Ok(Operations(client.execute(request).await?.into_inner()))
}

/// Uploads an Action that connects to the test.
pub(super) async fn upload(url: &str, runs: &Runs, name: &str) -> Digest {
    upload_with_inputs(url, runs, name, &[]).await
}

/// As [`upload`], with files in the input root.
pub(super) async fn upload_with_inputs(url: &str, runs: &Runs, name: &str, files: &[Vec<u8>]) -> Digest {
    let channel = channel(url).await;
    let port = runs.address().port().to_string();
    let arguments = ["/usr/bin/python3", "-c", COMMAND, &port, name];
    let command = Command {
        arguments: arguments.map(str::to_owned).to_vec(),
        ..Command::default()
    };
    let network = Property {
        name: "network".to_owned(),
        value: "on".to_owned(),
    };
    let (command, command_bytes) = Digest::of_message(FUNCTION, &command);
    let mut directory = Directory::default();
    for (number, content) in files.iter().enumerate() {
        let digest = FUNCTION.digest(content);
        directory.files.push(FileNode {
            name: format!("{number:04}"),
            digest: Some(digest.to_wire()),
            ..FileNode::default()
        });
        upload_blobs(channel.clone(), vec![(digest, content.clone())]).await;
    }
    let (root, root_bytes) = Digest::of_message(FUNCTION, &directory);
    let action = Action {
        command_digest: Some(command.to_wire()),
        input_root_digest: Some(root.to_wire()),
        platform: Some(Platform {
            properties: vec![network],
        }),
        ..Action::default()
    };
    let (action, action_bytes) = Digest::of_message(FUNCTION, &action);
    let blobs = vec![
        (command, command_bytes),
        (root, root_bytes),
        (action, action_bytes),
    ];
    upload_blobs(channel, blobs).await;
    action
}

async fn upload_blobs(channel: Channel, blobs: Vec<(Digest, Vec<u8>)>) {
    let upload = BatchUpdateBlobsRequest {
        requests: blobs
            .into_iter()
            .map(|(digest, data)| BlobUpload {
                digest: Some(digest.to_wire()),
                data,
                ..BlobUpload::default()
            })
            .collect(),
        digest_function: FUNCTION.to_wire(),
        ..BatchUpdateBlobsRequest::default()
    };
    let mut store = ContentAddressableStorageClient::new(channel);
    let uploaded = store
        .batch_update_blobs(upload)
        .await
        .expect("an upload")
        .into_inner();
    for blob in uploaded.responses {
        let status = blob.status.unwrap_or_default();
        assert_eq!(status.code, 0, "an upload failed: {}", status.message);
    }
}

/// Follows an operation by name.
pub(super) async fn wait(url: &str, name: &str) -> Result<Operations, Status> {
    let mut client = ExecutionClient::new(channel(url).await);
    let request = WaitExecutionRequest {
        name: name.to_owned(),
    };
    Ok(Operations(client.wait_execution(request).await?.into_inner()))
}

/// Stream of the states of an operation.
pub(super) struct Operations(Streaming<Operation>);

impl Operations {
    pub(super) async fn next(&mut self) -> (Operation, execution_stage::Value) {
        self.try_next().await.expect("no error")
    }

    /// As [`Self::next`], or the error with which the stream ends.
    pub(super) async fn try_next(&mut self) -> Result<(Operation, execution_stage::Value), Status> {
        let operation = self.0.message().await?.expect("another state");
        let metadata = operation.metadata.as_ref().expect("metadata");
        let metadata = ExecuteOperationMetadata::decode(metadata.value.as_slice()).expect("its metadata");
        let stage = metadata.stage();
        Ok((operation, stage))
    }

    pub(super) async fn response(&mut self) -> ExecuteResponse {
        loop {
            let (operation, _) = self.next().await;
            if let Some(operation::Result::Response(response)) = operation.result {
                return ExecuteResponse::decode(response.value.as_slice()).expect("a response");
            }
        }
    }
}

pub(super) fn assert_succeeded(response: &ExecuteResponse) {
    let result = response.result.as_ref();
    assert_eq!(result.map(|result| result.exit_code), Some(0), "{response:?}");
}
