//! 100,000 blobs of 4 KiB in batches.

use std::time::Instant;

use bitzel_proto::reapi;
use tokio::task::JoinSet;

use crate::client::{Client, FUNCTION, blob, noise};
use crate::measured_server::MeasuredServer;
use crate::measurement::Measurement;

const BLOB_COUNT: usize = 100_000;
const BLOB_BYTES: usize = 4 << 10;
/// 2 MiB in a request, which all servers accept.
const BLOBS_PER_BATCH: usize = 500;
const MAX_CONCURRENT_REQUESTS: usize = 4;

/// The blobs of one batch.
fn batch(number: usize) -> Vec<(bitzel_proto::Digest, Vec<u8>)> {
    (0..BLOBS_PER_BATCH)
        .map(|index| {
            blob(noise(
                (1 << 40) + (number * BLOBS_PER_BATCH + index) as u64,
                BLOB_BYTES,
            ))
        })
        .collect()
}

pub(crate) async fn measure(server: &MeasuredServer) -> Vec<Measurement> {
    let batches = BLOB_COUNT / BLOBS_PER_BATCH;
    // Made before the time is taken. One more batch warms the server up.
    let mut blobs: Vec<_> = (0..=batches).map(batch).collect();
    let digests: Vec<Vec<_>> = blobs
        .iter()
        .map(|batch| batch.iter().map(|(digest, _)| digest.to_wire()).collect())
        .collect();
    let client = Client::connect(server).await;
    client.upload(blobs.pop().unwrap()).await;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for batch in blobs {
        if tasks.len() == MAX_CONCURRENT_REQUESTS {
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
        if tasks.len() == MAX_CONCURRENT_REQUESTS {
            tasks.join_next().await.unwrap().unwrap();
        }
        let client = client.clone();
        tasks.spawn(async move { read(&client, digests).await });
    }
    tasks.join_all().await;
    let read = start.elapsed();
    let rate = |name, elapsed| Measurement::rate(name, BLOB_COUNT as f64, elapsed, "blobs/s");
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
    assert_eq!(response.responses.len(), BLOBS_PER_BATCH);
    assert!(
        response
            .responses
            .iter()
            .all(|part| part.data.len() == BLOB_BYTES)
    );
}
