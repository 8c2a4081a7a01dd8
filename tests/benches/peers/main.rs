//! Comparison of `bitzel serve` with servers of other projects: the same client, the same disk, one server at a time.
//!
//! Prints one JSON object a line: `{name, value, unit, reference, reference_value, ratio}`, one for each peer and
//! floor of a measurement. Peers that are not installed get a `SKIPPED` line.
//!
//! Environment: `BITZEL_BENCH_BLOBS` is the number of blobs in the store of the `FindMissingBlobs` workload (1,000,000),
//! `BITZEL_BENCH_SECONDS` the duration of the mixed load for the memory measurement (60; 600 shows more), and
//! `BITZEL_BENCH_ONLY` selects one workload.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program for people that ends when something is wrong; numbers for people"
)]

use std::time::Duration;

use bitzel_tests::peers;

mod action_results;
mod actions;
mod batches;
mod client;
mod existence;
mod floor;
mod http;
mod measured_server;
mod measurement;
mod memory;
mod null_workers;
mod streams;
mod unread;

use measured_server::{MeasuredServer, StoreSize};
use measurement::Measurement;

/// Options from the environment.
#[derive(Debug, Clone)]
struct Options {
    /// Blobs in the store of the `FindMissingBlobs` workload.
    blobs: usize,
    /// Duration of the mixed load.
    mixed_load: Duration,
    /// The only workload to run; `None` for all.
    only: Option<String>,
}

impl Options {
    fn from_environment() -> Self {
        let number = |name: &str, default: usize| {
            std::env::var(name).map_or(default, |text| {
                text.parse()
                    .unwrap_or_else(|_| panic!("{name} is a number, not {text:?}"))
            })
        };
        Self {
            blobs: number("BITZEL_BENCH_BLOBS", 1_000_000),
            mixed_load: Duration::from_secs(number("BITZEL_BENCH_SECONDS", 60) as u64),
            only: std::env::var("BITZEL_BENCH_ONLY").ok(),
        }
    }

    fn wants(&self, workload: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == workload)
    }
}

/// Measures streams, on a separate server with a full store.
async fn measure_streams(server: &MeasuredServer) -> Vec<Measurement> {
    let measurements = streams::measure(server).await;
    print_measurements(server.name(), &measurements);
    measurements
}

/// Measures downloads that nobody reads, on a separate server.
async fn measure_unread(server: &MeasuredServer) -> Vec<Measurement> {
    let measurements = unread::measure(server).await;
    print_measurements(server.name(), &measurements);
    measurements
}

async fn measure(server: &MeasuredServer, options: &Options) -> Vec<Measurement> {
    let mut measurements = vec![];
    if options.wants("batches") {
        measurements.extend(batches::measure(server).await);
    }
    if options.wants("http") {
        if server.http().is_some() {
            measurements.extend(http::measure(server).await);
        } else {
            peers::skip(server.name(), "it has no HTTP cache");
        }
    }
    if options.wants("action_results") {
        measurements.extend(action_results::measure(server).await);
    }
    if options.wants("existence") {
        measurements.extend(existence::measure(server, options.blobs).await);
    }
    if options.wants("actions") && server.executes() {
        measurements.extend(actions::measure(server).await);
    }
    if options.wants("memory") {
        measurements.extend(memory::measure(server, options.mixed_load).await);
    }
    print_measurements(server.name(), &measurements);
    measurements
}

fn print_measurements(name: &str, measurements: &[Measurement]) {
    for measurement in measurements {
        println!("{name}: {measurement}");
    }
}

#[tokio::main]
async fn main() {
    let options = Options::from_environment();
    let mut floors = vec![];
    if options.wants("streams") {
        floors.extend(floor::streams().await);
    }
    if options.wants("actions") {
        floors.push(floor::sandboxes());
    }
    if options.wants("null_workers") {
        let ours = null_workers::measure().await;
        print_measurements("bitzel", &ours);
        let theirs = null_workers::measure_buildgrid().await;
        print_measurements(peers::BUILDGRID.name, &theirs);
        measurement::report(&ours, peers::BUILDGRID.name, &theirs);
    }
    let mut ours = vec![];
    if options.wants("streams") {
        ours.extend(measure_streams(&MeasuredServer::bitzel(StoreSize::Small)).await);
    }
    if options.wants("unread") {
        ours.extend(measure_unread(&MeasuredServer::bitzel(StoreSize::Small)).await);
    }
    ours.extend(measure(&MeasuredServer::bitzel(StoreSize::Large), &options).await);
    if options.wants("actions") {
        let in_memory = actions::measure_in_memory().await;
        print_measurements("bitzel", &in_memory);
        ours.extend(in_memory);
    }
    for floor in &floors {
        measurement::report(&ours, floor.reference, std::slice::from_ref(&floor.measurement));
    }
    for start in MeasuredServer::PEERS {
        // The peer ends before the next one starts.
        if options.wants("streams")
            && let Some(peer) = start(StoreSize::Small)
        {
            let theirs = measure_streams(&peer).await;
            measurement::report(&ours, peer.name(), &theirs);
        }
        if options.wants("unread")
            && let Some(peer) = start(StoreSize::Small)
        {
            let theirs = measure_unread(&peer).await;
            measurement::report(&ours, peer.name(), &theirs);
        }
        if let Some(peer) = start(StoreSize::Large) {
            let theirs = measure(&peer, &options).await;
            measurement::report(&ours, peer.name(), &theirs);
        }
    }
    measurement::report_alone(&ours);
}
