//! Inputs of the next Action, which a worker fetches while another one runs.

use std::time::{Duration, Instant};

use bitzel_proto::google::protobuf::Timestamp;
use bitzel_proto::reapi::ExecuteResponse;
use bitzel_tests::{BitzelServer, Site, SlowNetwork, WorkerProcess};

use super::held_actions::{Runs, assert_succeeded, channel, end, execute, start, upload_with_inputs};

/// Content of a file, different for each number, that no compression makes smaller.
fn content(number: u64, length: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    bytes.flatten().take(length).collect()
}

/// Time in which a worker fetched the inputs of an Action.
fn fetch_time(response: &ExecuteResponse) -> Duration {
    let result = response.result.as_ref().expect("a result");
    let metadata = result.execution_metadata.as_ref().expect("its metadata");
    let time = |stamp: &Option<Timestamp>| {
        let stamp = stamp.as_ref().expect("a time");
        Duration::new(
            stamp.seconds.try_into().expect("after 1970"),
            stamp.nanos.try_into().expect("nanoseconds"),
        )
    };
    let start = time(&metadata.input_fetch_start_timestamp);
    time(&metadata.input_fetch_completed_timestamp).saturating_sub(start)
}

/// Arguments of a worker with one slot. Its Actions connect to the test on loopback.
fn worker_arguments(prefetch_size: &str) -> [&str; 6] {
    [
        "--jobs",
        "1",
        "--action-network",
        "host",
        "--prefetch-size",
        prefetch_size,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_of_the_next_action_are_fetched_while_one_runs() {
    const INPUT_BYTES: usize = 3 << 20;
    let (site, machine) = (Site::empty(), Site::empty());
    let server = BitzelServer::start_with(&site, &["--jobs", "0"]);
    let mut network = SlowNetwork::start(server.address(), 1 << 20).await;
    let _worker = WorkerProcess::start_with(&machine, &network.url(), &worker_arguments("100M"));
    let mut runs = Runs::listen().await;

    let mut first = execute(&server.url(), &runs, "first").await;
    let run = runs.started("first").await;
    let files = [content(1, INPUT_BYTES)];
    let next = upload_with_inputs(&server.url(), &runs, "next", &files).await;
    let mut next = start(channel(&server.url()).await, next)
        .await
        .expect("an operation");
    network.has_passed(INPUT_BYTES as u64).await;
    end(run).await;
    assert_succeeded(&first.response().await);
    end(runs.started("next").await).await;
    let response = next.response().await;
    assert_succeeded(&response);
    let fetched = fetch_time(&response);
    assert!(
        fetched < Duration::from_secs(1),
        "{fetched:?}, of three seconds without a prefetch"
    );
}

/// A queue of Actions with large inputs on one slot, without and with prefetches. Run it by hand:
/// `cargo nextest run --run-ignored only -E 'test(measures_prefetches)' --no-capture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measures_prefetches() {
    const ACTIONS: u64 = 6;
    const FILES: u64 = 50;
    const FILE_BYTES: usize = 2 << 20;
    for prefetch_size in ["0", "2G"] {
        let (site, machine) = (Site::empty(), Site::empty());
        let server = BitzelServer::start_with(&site, &["--jobs", "0"]);
        let network = SlowNetwork::start(server.address(), 20 << 20).await;
        let mut runs = Runs::listen().await;
        let mut actions = vec![];
        for action in 0..ACTIONS {
            let files: Vec<_> = (0..FILES)
                .map(|file| content(1 + action * FILES + file, FILE_BYTES))
                .collect();
            actions.push(upload_with_inputs(&server.url(), &runs, &action.to_string(), &files).await);
        }
        let _worker = WorkerProcess::start_with(&machine, &network.url(), &worker_arguments(prefetch_size));
        let mut operations = vec![];
        for action in actions {
            operations.push(
                start(channel(&server.url()).await, action)
                    .await
                    .expect("an operation"),
            );
        }
        let begin = Instant::now();
        for _ in 0..ACTIONS {
            let (_, run) = runs.next().await;
            // The time of the command.
            tokio::time::sleep(Duration::from_secs(12)).await;
            end(run).await;
        }
        let mut fetches = vec![];
        for mut operation in operations {
            fetches.push(fetch_time(&operation.response().await).as_millis());
        }
        println!(
            "prefetch {prefetch_size}: {ACTIONS} Actions in {:.1} s, fetch times in ms: {fetches:?}",
            begin.elapsed().as_secs_f64()
        );
    }
}
