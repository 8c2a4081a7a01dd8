//! `FindMissingBlobs` with 20,000 digests, half of them present, on a large store.

use std::time::{Duration, Instant};

use bitzel_proto::reapi;
use tokio::task::JoinSet;

use crate::client::{Client, FUNCTION, blob};
use crate::measured_server::MeasuredServer;
use crate::measurement::Measurement;

const DIGESTS_PER_CALL: usize = 20_000;
const CALL_COUNT: usize = 100;
const BLOBS_PER_BATCH: usize = 1_000;
const MAX_CONCURRENT_REQUESTS: usize = 4;
/// A peer with slow writes gets a smaller store: as many blobs as it takes in this time. The size is printed.
const MAX_FILL_TIME: Duration = Duration::from_mins(2);

fn content(index: usize) -> Vec<u8> {
    format!("blob {index}").into_bytes()
}

/// Fills the store; returns the number of its blobs.
async fn fill(client: &Client, blobs: usize) -> usize {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    let mut filled = 0;
    while filled < blobs && start.elapsed() < MAX_FILL_TIME {
        if tasks.len() == MAX_CONCURRENT_REQUESTS {
            tasks.join_next().await.unwrap().unwrap();
        }
        let client = client.clone();
        tasks.spawn(async move {
            let batch = (filled..filled + BLOBS_PER_BATCH).map(|index| blob(content(index)));
            client.upload(batch.collect()).await;
        });
        filled += BLOBS_PER_BATCH;
    }
    tasks.join_all().await;
    filled
}

pub(crate) async fn measure(server: &MeasuredServer, blobs: usize) -> Vec<Measurement> {
    let client = Client::connect(server).await;
    let start = Instant::now();
    let filled = fill(&client, blobs).await;
    println!(
        "{}: a store of {filled} blobs, filled in {:?}",
        server.name(),
        start.elapsed()
    );
    let mut durations = vec![];
    for call in 0..CALL_COUNT {
        // Spread over the whole store and different in each call; every second blob is missing.
        let blob_digests = (0..DIGESTS_PER_CALL).map(|number| {
            let index = (number * 7_919 + call * 104_729) % filled;
            let data = if number % 2 == 0 {
                content(index)
            } else {
                format!("missing {call} {number}").into_bytes()
            };
            FUNCTION.digest(&data).to_wire()
        });
        let request = reapi::FindMissingBlobsRequest {
            blob_digests: blob_digests.collect(),
            digest_function: FUNCTION.to_wire(),
            ..reapi::FindMissingBlobsRequest::default()
        };
        let start = Instant::now();
        let response = client.store().find_missing_blobs(request).await.unwrap();
        durations.push(start.elapsed());
        assert_eq!(
            response.into_inner().missing_blob_digests.len(),
            DIGESTS_PER_CALL / 2
        );
    }
    vec![
        Measurement::quantile("FindMissingBlobs of 20,000, p50", &durations, 0.5),
        Measurement::quantile("FindMissingBlobs of 20,000, p99", &durations, 0.99),
    ]
}
