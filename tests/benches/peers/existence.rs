//! `FindMissingBlobs` with 20,000 digests, half of them present, in a large store.

use std::time::{Duration, Instant};

use bitzel_proto::reapi;
use tokio::task::JoinSet;

use crate::client::{Client, FUNCTION, blob};
use crate::measurement::Measurement;
use crate::system::System;

const DIGESTS: usize = 20_000;
const CALLS: usize = 100;
const IN_BATCH: usize = 1_000;
const PARALLEL: usize = 4;
/// A peer that is slow at storing gets a store of what it managed until then; it says so.
const LONGEST_FILL: Duration = Duration::from_mins(2);

fn content(index: usize) -> Vec<u8> {
    format!("blob {index}").into_bytes()
}

/// Fills the store and says how many blobs it has.
async fn fill(client: &Client, blobs: usize) -> usize {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    let mut filled = 0;
    while filled < blobs && start.elapsed() < LONGEST_FILL {
        if tasks.len() == PARALLEL {
            tasks.join_next().await.unwrap().unwrap();
        }
        let client = client.clone();
        tasks.spawn(async move {
            let batch = (filled..filled + IN_BATCH).map(|index| blob(content(index)));
            client.upload(batch.collect()).await;
        });
        filled += IN_BATCH;
    }
    tasks.join_all().await;
    filled
}

pub(crate) async fn measure(system: &System, blobs: usize) -> Vec<Measurement> {
    let client = Client::connect(system).await;
    let start = Instant::now();
    let filled = fill(&client, blobs).await;
    println!(
        "{}: a store of {filled} blobs, filled in {:?}",
        system.name(),
        start.elapsed()
    );
    let mut durations = vec![];
    for call in 0..CALLS {
        // Spread over the whole store, others in each call; every second one does not exist.
        let blob_digests = (0..DIGESTS).map(|number| {
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
        assert_eq!(response.into_inner().missing_blob_digests.len(), DIGESTS / 2);
    }
    vec![
        Measurement::quantile("FindMissingBlobs of 20,000, p50", &durations, 0.5),
        Measurement::quantile("FindMissingBlobs of 20,000, p99", &durations, 0.99),
    ]
}
