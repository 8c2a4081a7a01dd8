//! Execution of Actions by workers that run nothing: the speed of the server alone, with gRPC on both sides.
//!
//! The server, its clients and its workers share the processors of the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitzel_proto::Digest;
use bitzel_proto::reapi::{Action, ActionResult, Command, Directory, ExecuteResponse};
use bitzel_proto::worker::worker_queue_client::WorkerQueueClient;
use bitzel_proto::worker::{Completed, Hello, WorkerMessage, scheduler_message, worker_message};
use bitzel_rpc::endpoint;
use bitzel_tests::{BuildGrid, peers};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::actions::execute;
use crate::client::{Client, FUNCTION};
use crate::measured_server::MeasuredServer;
use crate::measurement::Measurement;

const RATE: &str = "Actions by null workers, 64 clients";
const CLIENTS: usize = 64;
const WORKERS: usize = 8;
const SLOTS: u32 = 16;
const WARM_UP_TIME: Duration = Duration::from_secs(2);
const MEASURED_TIME: Duration = Duration::from_secs(10);
/// More than any server runs in that time. They are uploaded before.
const ACTIONS: usize = 60_000;
/// Actions of `BuildGrid`, which runs fewer.
const ACTIONS_OF_PEER: usize = 5_000;
const ACTIONS_OF_UPLOAD: usize = 1_000;

/// Measures `bitzel serve`.
pub(crate) async fn measure() -> Vec<Measurement> {
    let server = MeasuredServer::bitzel_without_slots();
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        workers.spawn(work(server.url(), format!("null-{number}")));
    }
    vec![rate(&server.url(), ACTIONS).await]
}

/// Measures `BuildGrid` with a worker that runs nothing either.
pub(crate) async fn measure_buildgrid() -> Vec<Measurement> {
    let Some(program) = peers::BUILDGRID.program_or_skip() else {
        return vec![];
    };
    let Some(engine) = BuildGrid::start_null_or_skip(&program, &SLOTS.to_string()) else {
        return vec![];
    };
    vec![rate(&engine.url().replace("grpc://", "http://"), ACTIONS_OF_PEER).await]
}

/// Completes each lease at once.
async fn work(url: String, worker_name: String) {
    let channel = endpoint::connect(&url).await.unwrap();
    let (outbound, messages) = mpsc::channel(SLOTS as usize);
    let hello = worker_message::Message::Hello(Hello {
        instance_secret: format!("{worker_name:*<16}").into_bytes(),
        worker_name,
        slots: SLOTS,
        ..Hello::default()
    });
    send(&outbound, hello).await;
    let mut client = WorkerQueueClient::new(channel);
    let mut inbound = client
        .work(ReceiverStream::new(messages))
        .await
        .unwrap()
        .into_inner();
    while let Some(message) = inbound.message().await.unwrap() {
        if let Some(scheduler_message::Message::Assign(assign)) = message.message {
            let completed = Completed {
                lease: assign.lease,
                response: Some(ExecuteResponse {
                    result: Some(ActionResult::default()),
                    status: Some(bitzel_proto::google::rpc::Status::default()),
                    ..ExecuteResponse::default()
                }),
            };
            send(&outbound, worker_message::Message::Completed(completed)).await;
        }
    }
}

async fn send(outbound: &mpsc::Sender<WorkerMessage>, message: worker_message::Message) {
    let message = Some(message);
    outbound.send(WorkerMessage { message }).await.unwrap();
}

/// Uploads Actions that have never run. Returns their digests.
async fn upload(client: &Client, count: usize) -> Vec<Digest> {
    let command = Command {
        arguments: vec!["/bin/true".into()],
        ..Command::default()
    };
    let command = Digest::of_message(FUNCTION, &command);
    let root = Digest::of_message(FUNCTION, &Directory::default());
    let (command_digest, root_digest) = (command.0.to_wire(), root.0.to_wire());
    client.upload(vec![command, root]).await;
    let actions: Vec<_> = (0..count)
        .map(|number| Action {
            command_digest: Some(command_digest.clone()),
            input_root_digest: Some(root_digest.clone()),
            salt: number.to_le_bytes().to_vec(),
            ..Action::default()
        })
        .map(|action| Digest::of_message(FUNCTION, &action))
        .collect();
    for part in actions.chunks(ACTIONS_OF_UPLOAD) {
        client.upload(part.to_vec()).await;
    }
    actions.into_iter().map(|(digest, _)| digest).collect()
}

async fn rate(url: &str, actions: usize) -> Measurement {
    let client = Client::connect_to(url).await;
    let actions = Arc::new(upload(&client, actions).await);
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let client = Client::connect_to(url).await;
        let (actions, next) = (Arc::clone(&actions), Arc::clone(&next));
        clients.spawn(async move {
            let mut ended = 0;
            while start.elapsed() < WARM_UP_TIME + MEASURED_TIME {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let action = *actions.get(number).expect("enough Actions");
                let response = execute(&client, action).await;
                assert!(response.result.is_some(), "{response:?}");
                if start.elapsed() > WARM_UP_TIME {
                    ended += 1;
                }
            }
            ended
        });
    }
    let ended: usize = clients.join_all().await.into_iter().sum();
    let elapsed = start.elapsed().saturating_sub(WARM_UP_TIME);
    Measurement::rate(RATE, ended as f64, elapsed, "1/s")
}
