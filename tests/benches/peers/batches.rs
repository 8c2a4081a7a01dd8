//! 100,000 blobs of 4 KiB in batches.

use std::time::Instant;

use bitzel_proto::reapi;
use tokio::task::JoinSet;

use crate::client::{Client, FUNCTION, blob, noise};
use crate::measurement::Measurement;
use crate::system::System;

const BLOBS: usize = 100_000;
const SIZE: usize = 4 << 10;
/// 2 MiB in a request, which everybody takes.
const IN_BATCH: usize = 500;
/// Requests under way at a time.
const PARALLEL: usize = 4;

/// The blobs of one batch.
fn batch(number: usize) -> Vec<(bitzel_proto::Digest, Vec<u8>)> {
    (0..IN_BATCH)
        .map(|index| blob(noise((1 << 40) + (number * IN_BATCH + index) as u64, SIZE)))
        .collect()
}

pub(crate) async fn measure(system: &System) -> Vec<Measurement> {
    let batches = BLOBS / IN_BATCH;
    // Made before the clock starts. One batch more warms the server up.
    let mut blobs: Vec<_> = (0..=batches).map(batch).collect();
    let digests: Vec<Vec<_>> = blobs
        .iter()
        .map(|batch| batch.iter().map(|(digest, _)| digest.to_wire()).collect())
        .collect();
    let client = Client::connect(system).await;
    client.upload(blobs.pop().unwrap()).await;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for batch in blobs {
        if tasks.len() == PARALLEL {
            tasks.join_next().await.unwrap().unwrap();
        }
        let client = client.clone();
        tasks.spawn(async move { client.upload(batch).await });
    }
    tasks.join_all().await;
    let written = start.elapsed();

    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for digests in digests.into_iter().take(batches) {
        if tasks.len() == PARALLEL {
            tasks.join_next().await.unwrap().unwrap();
        }
        let client = client.clone();
        tasks.spawn(async move { read(&client, digests).await });
    }
    tasks.join_all().await;
    let read = start.elapsed();
    let rate = |name, elapsed| Measurement::rate(name, BLOBS as f64, elapsed, "blobs/s");
    vec![
        rate("100,000 blobs of 4 KiB by BatchUpdateBlobs", written),
        rate("100,000 blobs of 4 KiB by BatchReadBlobs", read),
    ]
}

async fn read(client: &Client, digests: Vec<reapi::Digest>) {
    let request = reapi::BatchReadBlobsRequest {
        digests,
        digest_function: FUNCTION.to_wire(),
        ..reapi::BatchReadBlobsRequest::default()
    };
    let response = client
        .store()
        .batch_read_blobs(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(response.responses.len(), IN_BATCH);
    assert!(response.responses.iter().all(|part| part.data.len() == SIZE));
}
