//! bitzel beside the servers of others: the same client program, the same disk, one server at a time.
//!
//! Prints one JSON object a line: `{name, value, unit, reference, reference_value, ratio}`, one for each peer and
//! floor that a measurement has. Peers that this machine lacks are named and skipped.
//!
//! `BITZEL_BENCH_BLOBS` is the number of blobs of the store that is asked for missing ones (1,000,000),
//! `BITZEL_BENCH_SECONDS` how long the mixed load runs that memory is measured under (60; 600 shows more),
//! `BITZEL_BENCH_ONLY` one of the workloads alone.

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
mod measurement;
mod memory;
mod streams;
mod system;

use measurement::Measurement;
use system::{Room, System};

/// How much is measured.
#[derive(Debug, Clone)]
struct Options {
    /// Blobs in the store that is asked for missing ones.
    blobs: usize,
    /// How long the mixed load runs.
    mixed_load: Duration,
    /// The one workload to run, if not all.
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

/// The streams, of a server of its own whose store is full.
async fn measure_streams(system: &System) -> Vec<Measurement> {
    let measurements = streams::measure(system).await;
    show(system.name(), &measurements);
    measurements
}

async fn measure(system: &System, options: &Options) -> Vec<Measurement> {
    let mut measurements = vec![];
    if options.wants("batches") {
        measurements.extend(batches::measure(system).await);
    }
    if options.wants("http") {
        if system.http().is_some() {
            measurements.extend(http::measure(system).await);
        } else {
            peers::skip(system.name(), "it has no HTTP cache");
        }
    }
    if options.wants("action_results") {
        measurements.extend(action_results::measure(system).await);
    }
    if options.wants("existence") {
        measurements.extend(existence::measure(system, options.blobs).await);
    }
    if options.wants("actions") && system.executes() {
        measurements.extend(actions::measure(system).await);
    }
    if options.wants("memory") {
        measurements.extend(memory::measure(system, options.mixed_load).await);
    }
    show(system.name(), &measurements);
    measurements
}

fn show(name: &str, measurements: &[Measurement]) {
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
    let mut ours = vec![];
    if options.wants("streams") {
        ours.extend(measure_streams(&System::bitzel(Room::Little)).await);
    }
    ours.extend(measure(&System::bitzel(Room::Ample), &options).await);
    if options.wants("actions") {
        let in_memory = actions::measure_in_memory().await;
        show("bitzel", &in_memory);
        ours.extend(in_memory);
    }
    for floor in &floors {
        measurement::report(&ours, floor.reference, std::slice::from_ref(&floor.measurement));
    }
    for start in System::PEERS {
        // The peer ends before the next one starts.
        if options.wants("streams")
            && let Some(peer) = start(Room::Little)
        {
            let theirs = measure_streams(&peer).await;
            measurement::report(&ours, peer.name(), &theirs);
        }
        if let Some(peer) = start(Room::Ample) {
            let theirs = measure(&peer, &options).await;
            measurement::report(&ours, peer.name(), &theirs);
        }
    }
    measurement::report_alone(&ours);
}
