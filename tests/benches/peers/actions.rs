//! Actions that do nothing, in the sandbox, through Execute.

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
use crate::measurement::Measurement;
use crate::system::System;

pub(crate) const MANY: &str = "no-op Actions, 32 clients";
/// Names of the rate with many clients, and of median and 99th percentile with one.
type Names = [&'static str; 3];
const ON_DISK: Names = [
    MANY,
    "no-op Action, one client, p50",
    "no-op Action, one client, p99",
];
const IN_MEMORY: Names = [
    "no-op Actions, 32 clients, scratch in memory",
    "no-op Action, one client, scratch in memory, p50",
    "no-op Action, one client, scratch in memory, p99",
];
const CLIENTS: usize = 32;
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(10);
const ALONE: usize = 200;

/// Makes Actions that nobody has run.
#[derive(Debug)]
pub(crate) struct Actions {
    command: Digest,
    root: Digest,
    next: AtomicUsize,
}

impl Actions {
    /// Actions that are numbered from `first` on; each number is used once for a server.
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

    /// Uploads an Action, executes it and checks that it ran.
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
        let request = ExecuteRequest {
            action_digest: Some(digest.to_wire()),
            digest_function: FUNCTION.to_wire(),
            ..ExecuteRequest::default()
        };
        let mut stream = client.execution().execute(request).await.unwrap().into_inner();
        while let Some(operation) = stream.message().await.unwrap() {
            if operation.done {
                let Some(operation::Result::Response(response)) = operation.result else {
                    panic!("an Action failed: {operation:?}");
                };
                let response = ExecuteResponse::decode(response.value.as_slice()).unwrap();
                let result = response.result.as_ref();
                assert_eq!(result.map(|result| result.exit_code), Some(0), "{response:?}");
                assert!(!response.cached_result);
                return;
            }
        }
        panic!("Execute ended without an answer");
    }
}

/// With all of the server's directories on the disk.
pub(crate) async fn measure(system: &System) -> Vec<Measurement> {
    measure_as(ON_DISK, system).await
}

/// With what Actions write in memory; nothing where there is no directory for that.
pub(crate) async fn measure_in_memory() -> Vec<Measurement> {
    match System::bitzel_with_scratch_in_memory() {
        Some(system) => measure_as(IN_MEMORY, &system).await,
        None => {
            peers::skip("scratch in memory", "there is no /dev/shm");
            vec![]
        }
    }
}

async fn measure_as([many, median, slow]: Names, system: &System) -> Vec<Measurement> {
    let client = Client::connect(system).await;
    let actions = Actions::new(&client, 0).await;
    let mut alone = vec![];
    for number in 0..ALONE + 20 {
        let start = Instant::now();
        actions.run(&client).await;
        // The first ones warm the worker up.
        if number >= 20 {
            alone.push(start.elapsed());
        }
    }
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let client = Client::connect(system).await;
        let actions = Arc::clone(&actions);
        clients.spawn(async move {
            let mut ended = 0;
            while start.elapsed() < WARM_UP + MEASURED {
                actions.run(&client).await;
                if start.elapsed() > WARM_UP {
                    ended += 1;
                }
            }
            ended
        });
    }
    let ended: usize = clients.join_all().await.into_iter().sum();
    let elapsed = start.elapsed().saturating_sub(WARM_UP);
    vec![
        Measurement::rate(many, ended as f64, elapsed, "1/s"),
        Measurement::quantile(median, &alone, 0.5),
        Measurement::quantile(slow, &alone, 0.99),
    ]
}
