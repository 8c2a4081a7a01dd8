//! Memory of the server under a mixed load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::action_results;
use crate::actions::Actions;
use crate::client::{Client, blob, noise};
use crate::measured_server::MeasuredServer;
use crate::measurement::Measurement;
use crate::streams::{self, Content};

const STREAM_MEBIBYTES: usize = 64;

/// Measures while streams, batches, look-ups and Actions run in parallel for `duration`.
pub(crate) async fn measure(server: &MeasuredServer, duration: Duration) -> Vec<Measurement> {
    let client = Client::connect(server).await;
    let results = action_results::store(&client).await;
    let start = Instant::now();
    let is_running = move || start.elapsed() < duration;
    let seed = Arc::new(AtomicU64::new(1 << 50));
    let mut load = JoinSet::new();
    for _ in 0..2 {
        let (client, seed) = (Client::connect(server).await, Arc::clone(&seed));
        load.spawn(async move {
            while is_running() {
                let content = Content::of_length(seed.fetch_add(1, Ordering::Relaxed), STREAM_MEBIBYTES);
                let digest = content.digest();
                streams::write(&client, &content, digest).await;
                streams::read(&client, digest).await;
            }
        });
    }
    {
        let (client, seed) = (client.clone(), Arc::clone(&seed));
        load.spawn(async move {
            while is_running() {
                let blobs = (0..500).map(|_| blob(noise(seed.fetch_add(1, Ordering::Relaxed), 4 << 10)));
                client.upload(blobs.collect()).await;
            }
        });
    }
    for number in 0..8 {
        let (client, results) = (Client::connect(server).await, Arc::clone(&results));
        load.spawn(async move {
            let mut index = number;
            while is_running() {
                action_results::get(&client, results[index % results.len()]).await;
                index += 1;
            }
        });
    }
    if server.executes() {
        let actions = Actions::new(&client, 1 << 40).await;
        for _ in 0..4 {
            let (client, actions) = (Client::connect(server).await, Arc::clone(&actions));
            load.spawn(async move {
                while is_running() {
                    actions.run(&client).await;
                }
            });
        }
    }
    let mut samples = vec![];
    let mut second = tokio::time::interval(Duration::from_secs(1));
    while is_running() {
        second.tick().await;
        samples.push(server.megabytes("VmRSS:"));
    }
    load.join_all().await;
    // Compares the means of the second and the last third; the first third warms the server up.
    let third = samples.len() / 3;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    let (middle, last) = (mean(&samples[third..2 * third]), mean(&samples[2 * third..]));
    vec![
        Measurement::new("resident memory, highest", server.megabytes("VmHWM:"), "MB"),
        Measurement::new("resident memory, growth under a steady load", last - middle, "MB"),
    ]
}
