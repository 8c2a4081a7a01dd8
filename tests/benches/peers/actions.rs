//! Execution of Actions that do nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitzel_proto::Digest;
use bitzel_proto::google::longrunning::operation;
use bitzel_proto::reapi::{Action, Command, Directory, ExecuteRequest, ExecuteResponse};
use bitzel_tests::peers;
use prost::Message as _;
use tokio::task::JoinSet;

use crate::client::{Client, FUNCTION};
use crate::measured_server::MeasuredServer;
use crate::measurement::Measurement;

pub(crate) const CONCURRENT_ACTIONS: &str = "no-op Actions, 32 clients";
/// Names of three measurements: the rate with many clients, and median and 99th percentile with one client.
type MeasurementNames = [&'static str; 3];
const SCRATCH_ON_DISK: MeasurementNames = [
    CONCURRENT_ACTIONS,
    "no-op Action, one client, p50",
    "no-op Action, one client, p99",
];
const SCRATCH_IN_MEMORY: MeasurementNames = [
    "no-op Actions, 32 clients, scratch in memory",
    "no-op Action, one client, scratch in memory, p50",
    "no-op Action, one client, scratch in memory, p99",
];
const CLIENTS: usize = 32;
const WARM_UP_TIME: Duration = Duration::from_secs(2);
const MEASURED_TIME: Duration = Duration::from_secs(10);
/// Actions of one client, one after the other, and those before them that warm the worker up.
const SEQUENTIAL_ACTIONS: usize = 200;
const WARM_UP_ACTIONS: usize = 20;

/// Source of Actions that have never run.
#[derive(Debug)]
pub(crate) struct Actions {
    command: Digest,
    root: Digest,
    next: AtomicUsize,
}

impl Actions {
    /// Actions with numbers from `first` on; no two Actions of a server have the same number.
    pub(crate) async fn new(client: &Client, first: usize) -> Arc<Self> {
        let command = Command {
            arguments: vec!["/bin/true".into()],
            ..Command::default()
        };
        let command = Digest::of_message(FUNCTION, &command);
        let root = Digest::of_message(FUNCTION, &Directory::default());
        let actions = Self {
            command: command.0,
            root: root.0,
            next: AtomicUsize::new(first),
        };
        client.upload(vec![command, root]).await;
        Arc::new(actions)
    }

    /// Uploads an Action, executes it and asserts that it ran.
    pub(crate) async fn run(&self, client: &Client) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let action = Action {
            command_digest: Some(self.command.to_wire()),
            input_root_digest: Some(self.root.to_wire()),
            salt: number.to_le_bytes().to_vec(),
            ..Action::default()
        };
        let (digest, bytes) = Digest::of_message(FUNCTION, &action);
        client.upload(vec![(digest, bytes)]).await;
        let response = execute(client, digest).await;
        let result = response.result.as_ref();
        assert_eq!(result.map(|result| result.exit_code), Some(0), "{response:?}");
        assert!(!response.cached_result);
    }
}

/// Executes an Action and waits for its end.
pub(crate) async fn execute(client: &Client, action: Digest) -> ExecuteResponse {
    let request = ExecuteRequest {
        action_digest: Some(action.to_wire()),
        digest_function: FUNCTION.to_wire(),
        ..ExecuteRequest::default()
    };
    let mut stream = client.execution().execute(request).await.unwrap().into_inner();
    while let Some(operation) = stream.message().await.unwrap() {
        if operation.done {
            let Some(operation::Result::Response(response)) = operation.result else {
                panic!("an Action failed: {operation:?}");
            };
            return ExecuteResponse::decode(response.value.as_slice()).unwrap();
        }
    }
    panic!("Execute ended without an answer");
}

/// Measures with all directories of the server on disk.
pub(crate) async fn measure(server: &MeasuredServer) -> Vec<Measurement> {
    measure_as(SCRATCH_ON_DISK, server).await
}

/// Measures with the scratch space in memory; skipped if there is no directory in memory.
pub(crate) async fn measure_in_memory() -> Vec<Measurement> {
    match MeasuredServer::bitzel_with_scratch_in_memory() {
        Some(server) => measure_as(SCRATCH_IN_MEMORY, &server).await,
        None => {
            peers::skip("scratch in memory", "there is no /dev/shm");
            vec![]
        }
    }
}

async fn measure_as(
    [rate, median, percentile_99]: MeasurementNames,
    server: &MeasuredServer,
) -> Vec<Measurement> {
    let client = Client::connect(server).await;
    let actions = Actions::new(&client, 0).await;
    let mut durations = vec![];
    for number in 0..SEQUENTIAL_ACTIONS + WARM_UP_ACTIONS {
        let start = Instant::now();
        actions.run(&client).await;
        if number >= WARM_UP_ACTIONS {
            durations.push(start.elapsed());
        }
    }
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let client = Client::connect(server).await;
        let actions = Arc::clone(&actions);
        clients.spawn(async move {
            let mut ended = 0;
            while start.elapsed() < WARM_UP_TIME + MEASURED_TIME {
                actions.run(&client).await;
                if start.elapsed() > WARM_UP_TIME {
                    ended += 1;
                }
            }
            ended
        });
    }
    let ended: usize = clients.join_all().await.into_iter().sum();
    let elapsed = start.elapsed().saturating_sub(WARM_UP_TIME);
    vec![
        Measurement::rate(rate, ended as f64, elapsed, "1/s"),
        Measurement::quantile(median, &durations, 0.5),
        Measurement::quantile(percentile_99, &durations, 0.99),
    ]
}
