//! `bitzel serve` that is killed and started again, with workers and clients of its own processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bitzel_proto::google::longrunning::{Operation, operation};
use bitzel_proto::reapi::batch_update_blobs_request::Request as BlobUpload;
use bitzel_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use bitzel_proto::reapi::execution_client::ExecutionClient;
use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{
    Action, BatchUpdateBlobsRequest, Command, Directory, ExecuteOperationMetadata, ExecuteRequest,
    ExecuteResponse, Platform, WaitExecutionRequest, execution_stage,
};
use bitzel_proto::{Digest, DigestFunction};
use bitzel_tests::{BitzelServer, Site, WorkerProcess};
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
connection.sendall(sys.argv[2].encode())
assert connection.recv(1) == b'.'
";

/// Arguments of workers. Their Actions connect to the test on loopback.
const WORKER_ARGUMENTS: [&str; 4] = ["--jobs", "1", "--action-network", "host"];

/// Actions that run until the test lets them end. Each run of one is a connection.
struct Runs {
    listener: TcpListener,
    /// Number of runs of each Action.
    counts: BTreeMap<String, usize>,
}

impl Runs {
    async fn listen() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
            counts: BTreeMap::new(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("its address")
    }

    /// Waits until this Action runs.
    async fn started(&mut self, name: &str) -> TcpStream {
        let (mut connection, _) = self.listener.accept().await.expect("a run");
        let mut said = vec![0; name.len()];
        connection.read_exact(&mut said).await.expect("its name");
        assert_eq!(said, name.as_bytes(), "another Action runs");
        *self.counts.entry(name.to_owned()).or_default() += 1;
        connection
    }
}

async fn end(mut run: TcpStream) {
    run.write_all(b".").await.expect("it still runs");
}

async fn channel(server: &BitzelServer) -> Channel {
    let url = server.url().replace("grpc://", "http://");
    Channel::from_shared(url)
        .expect("a URL")
        .connect()
        .await
        .expect("the server listens")
}

/// Uploads an Action that connects to the test, and starts it.
async fn execute(server: &BitzelServer, runs: &Runs, name: &str) -> Operations {
    let channel = channel(server).await;
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
    let (root, root_bytes) = Digest::of_message(FUNCTION, &Directory::default());
    let action = Action {
        command_digest: Some(command.to_wire()),
        input_root_digest: Some(root.to_wire()),
        platform: Some(Platform {
            properties: vec![network],
        }),
        ..Action::default()
    };
    let (action, action_bytes) = Digest::of_message(FUNCTION, &action);
    let blobs = [
        (command, command_bytes),
        (root, root_bytes),
        (action, action_bytes),
    ];
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
    let mut store = ContentAddressableStorageClient::new(channel.clone());
    let uploaded = store
        .batch_update_blobs(upload)
        .await
        .expect("an upload")
        .into_inner();
    for blob in uploaded.responses {
        let status = blob.status.unwrap_or_default();
        assert_eq!(status.code, 0, "an upload failed: {}", status.message);
    }
    let request = ExecuteRequest {
        action_digest: Some(action.to_wire()),
        digest_function: FUNCTION.to_wire(),
        ..ExecuteRequest::default()
    };
    Operations(
        ExecutionClient::new(channel)
            .execute(request)
            .await
            .expect("an operation")
            .into_inner(),
    )
}

/// Follows an operation by name.
async fn wait(server: &BitzelServer, name: &str) -> Result<Operations, Status> {
    let mut client = ExecutionClient::new(channel(server).await);
    let request = WaitExecutionRequest {
        name: name.to_owned(),
    };
    Ok(Operations(client.wait_execution(request).await?.into_inner()))
}

/// Stream of the states of an operation.
struct Operations(Streaming<Operation>);

impl Operations {
    async fn next(&mut self) -> (Operation, execution_stage::Value) {
        let operation = self.0.message().await.expect("no error").expect("another state");
        let metadata = operation.metadata.as_ref().expect("metadata");
        let metadata = ExecuteOperationMetadata::decode(metadata.value.as_slice()).expect("its metadata");
        (operation, metadata.stage())
    }

    async fn response(&mut self) -> ExecuteResponse {
        loop {
            let (operation, _) = self.next().await;
            if let Some(operation::Result::Response(response)) = operation.result {
                return ExecuteResponse::decode(response.value.as_slice()).expect("a response");
            }
        }
    }
}

fn assert_succeeded(response: &ExecuteResponse) {
    let result = response.result.as_ref();
    assert_eq!(result.map(|result| result.exit_code), Some(0), "{response:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_and_queued_actions_survive_the_server() {
    let (site, machine) = (Site::empty(), Site::empty());
    let arguments = ["--jobs", "0"];
    let mut server = BitzelServer::start_with(&site, &arguments);
    let _worker = WorkerProcess::start_with(&machine, &server.url(), &WORKER_ARGUMENTS);
    let mut runs = Runs::listen().await;

    let mut running = execute(&server, &runs, "running").await;
    let running_name = running.next().await.0.name;
    let run = runs.started("running").await;
    let mut queued = execute(&server, &runs, "queued").await;
    let queued_name = queued.next().await.0.name;

    server.kill_and_restart(&site, &arguments);
    let mut running = wait(&server, &running_name).await.expect("the old name is known");
    assert_eq!(running.next().await.1, execution_stage::Value::Executing);
    let mut queued = wait(&server, &queued_name).await.expect("the old name is known");
    assert_eq!(queued.next().await.1, execution_stage::Value::Queued);

    end(run).await;
    assert_succeeded(&running.response().await);
    end(runs.started("queued").await).await;
    assert_succeeded(&queued.response().await);
    let once = [("queued", 1), ("running", 1)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(runs.counts, BTreeMap::from(once), "nothing ran twice");

    server.kill_and_restart(&site, &arguments);
    let mut completed = wait(&server, &running_name).await.expect("the old name is known");
    assert_succeeded(&completed.response().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_during_the_outage_is_delivered_later() {
    let (site, machine) = (Site::empty(), Site::empty());
    let arguments = ["--jobs", "0"];
    let mut server = BitzelServer::start_with(&site, &arguments);
    let _worker = WorkerProcess::start_with(&machine, &server.url(), &WORKER_ARGUMENTS);
    let mut runs = Runs::listen().await;
    let mut operations = execute(&server, &runs, "a").await;
    let name = operations.next().await.0.name;
    let mut run = runs.started("a").await;

    server.kill();
    run.write_all(b".").await.unwrap();
    // The command has ended when its connection has.
    assert_eq!(run.read(&mut [0]).await.unwrap(), 0);
    server.kill_and_restart(&site, &arguments);
    let mut operations = wait(&server, &name).await.expect("the old name is known");
    assert_succeeded(&operations.response().await);
    assert_eq!(runs.counts["a"], 1, "nothing ran twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_whose_worker_is_gone_runs_again() {
    let (site, machine) = (Site::empty(), Site::empty());
    let configuration = site.path("server.toml");
    std::fs::write(&configuration, "[execution]\nreconnect_timeout = \"1s\"\n").unwrap();
    let configuration = configuration.display().to_string();
    let arguments = ["--jobs", "0", "--config", &configuration];
    let mut server = BitzelServer::start_with(&site, &arguments);
    let worker = WorkerProcess::start_with(&machine, &server.url(), &WORKER_ARGUMENTS);
    let mut runs = Runs::listen().await;
    let mut operations = execute(&server, &runs, "a").await;
    let name = operations.next().await.0.name;
    let lost = runs.started("a").await;

    server.kill();
    worker.kill();
    drop(lost);
    server.kill_and_restart(&site, &arguments);
    let mut operations = wait(&server, &name).await.expect("the old name is known");
    let other_machine = Site::empty();
    let _other = WorkerProcess::start_with(&other_machine, &server.url(), &WORKER_ARGUMENTS);
    end(runs.started("a").await).await;
    assert_succeeded(&operations.response().await);
    assert_eq!(runs.counts["a"], 2);
}
