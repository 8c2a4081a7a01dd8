//! Memory of the server while everything is asked of it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::action_results;
use crate::actions::Actions;
use crate::client::{Client, blob, noise};
use crate::measurement::Measurement;
use crate::streams::{self, Content};
use crate::system::System;

/// Size of the blobs that are streamed, in MiB.
const STREAM: usize = 64;

/// Streams, batches, look-ups and Actions, side by side for `duration`.
pub(crate) async fn measure(system: &System, duration: Duration) -> Vec<Measurement> {
    let client = Client::connect(system).await;
    let results = action_results::store(&client).await;
    let start = Instant::now();
    let going_on = move || start.elapsed() < duration;
    let seed = Arc::new(AtomicU64::new(1 << 50));
    let mut load = JoinSet::new();
    for _ in 0..2 {
        let (client, seed) = (Client::connect(system).await, Arc::clone(&seed));
        load.spawn(async move {
            while going_on() {
                let content = Content::of_length(seed.fetch_add(1, Ordering::Relaxed), STREAM);
                let digest = content.digest();
                streams::write(&client, &content, digest).await;
                streams::read(&client, digest).await;
            }
        });
    }
    {
        let (client, seed) = (client.clone(), Arc::clone(&seed));
        load.spawn(async move {
            while going_on() {
                let blobs = (0..500).map(|_| blob(noise(seed.fetch_add(1, Ordering::Relaxed), 4 << 10)));
                client.upload(blobs.collect()).await;
            }
        });
    }
    for number in 0..8 {
        let (client, results) = (Client::connect(system).await, Arc::clone(&results));
        load.spawn(async move {
            let mut index = number;
            while going_on() {
                action_results::get(&client, results[index % results.len()]).await;
                index += 1;
            }
        });
    }
    if system.executes() {
        let actions = Actions::new(&client, 1 << 40).await;
        for _ in 0..4 {
            let (client, actions) = (Client::connect(system).await, Arc::clone(&actions));
            load.spawn(async move {
                while going_on() {
                    actions.run(&client).await;
                }
            });
        }
    }
    let mut samples = vec![];
    let mut second = tokio::time::interval(Duration::from_secs(1));
    while going_on() {
        second.tick().await;
        samples.push(system.megabytes("VmRSS:"));
    }
    load.join_all().await;
    // Means of the second third and of the last one: the first third warms up.
    let third = samples.len() / 3;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    let (middle, last) = (mean(&samples[third..2 * third]), mean(&samples[2 * third..]));
    vec![
        Measurement::new("resident memory, highest", system.megabytes("VmHWM:"), "MB"),
        Measurement::new("resident memory, growth under a steady load", last - middle, "MB"),
    ]
}
