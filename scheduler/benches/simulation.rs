//! Simulation of builds of core-image-minimal on farms of 10 to 1,000 workers, with the real operation queue.
//!
//! `cargo bench -p bitzel-scheduler --bench simulation -- --svg docs/simulation.svg` also writes the picture. The graph is an
//! export of `bitzel graph`; the durations are from a file. Time is simulated, so the numbers are the same on every machine.
#![expect(clippy::print_stdout, reason = "the numbers are the program's output")]
#![expect(clippy::expect_used, reason = "a failure ends the simulation")]

use std::time::Duration;

use bitzel_scheduler::ExecutionConfig;

#[path = "simulation/farm.rs"]
mod farm;
#[path = "simulation/graph.rs"]
mod graph;
#[path = "simulation/picture.rs"]
mod picture;

use farm::Farm;
use graph::Graph;
use picture::{Row, draw};

/// Numbers of builds that start together. One alone is limited by its critical path.
const BUILDS: [u32; 2] = [1, 50];
const WORKERS: [u32; 7] = [10, 20, 50, 100, 200, 500, 1000];
/// Largest distance from the bound where slots are the limit, and of shares from the weights, in percent.
const MAX_DISTANCE_PERCENT: f64 = 5.0;
/// Factor from which on one of the two limits decides. Near both of them, equal shares keep builds that wait for their chains
/// from finishing one after the other.
const SLOTS_LIMIT: u32 = 2;
/// Slots of the farm that three users share.
const SHARED_SLOTS: usize = 10;
/// Builds that each of them runs at the same time, so that each always has waiting Actions.
const BUILDS_OF_USER: usize = 4;
const USERS: [(&str, u32); 3] = [("alice", 1), ("bob", 1), ("ci", 2)];
/// Time of the farm for which the shares are measured.
const SHARED_TIME: Duration = Duration::from_hours(1);

/// Time of some equal builds that start together on a farm.
fn makespan(graph: &Graph, path_weight: u32, workers: u32, builds: u32, is_one_invocation: bool) -> Duration {
    let mut config = ExecutionConfig::default();
    config.priority.path_weight = path_weight;
    let mut farm = Farm::new(graph, config, workers as usize);
    farm.is_one_invocation = is_one_invocation;
    for _ in 0..builds {
        farm.start("alice", 1);
    }
    let makespan = farm.run(|_| false);
    assert!(farm.is_done(), "tasks are left");
    makespan
}

/// Shares of the slot time that users get while all of them wait, in percent.
fn shares(graph: &Graph) -> Vec<f64> {
    let mut farm = Farm::new(graph, ExecutionConfig::default(), SHARED_SLOTS);
    for _ in 0..BUILDS_OF_USER {
        for (user, weight) in USERS {
            farm.start(user, weight);
        }
    }
    let time = farm.run(|farm| {
        let used: Duration = farm.used.values().sum();
        let is_over = used >= SHARED_TIME * u32::try_from(SHARED_SLOTS).unwrap_or(1);
        is_over || USERS.iter().any(|(user, _)| farm.waiting(user) == 0)
    });
    println!("three users shared {SHARED_SLOTS} slots for {} s", time.as_secs());
    let all: Duration = farm.used.values().sum();
    let share = |(user, _): &(&str, u32)| farm.used[*user].as_secs_f64() / all.as_secs_f64() * 100.0;
    USERS.iter().map(share).collect()
}

/// Compares both orders with the bound, and tells if the makespan is close enough to it where slots are the limit.
fn compare(graph: &Graph, workers: u32, builds: u32) -> (Row, bool) {
    let (by_slots, critical_path) = (graph.work() * builds / workers, graph.critical_path());
    let simple_bound = by_slots.max(critical_path).as_secs_f64();
    let bound = graph.lower_bound(builds, workers).as_secs_f64();
    let row = Row {
        workers,
        bound,
        by_path: makespan(graph, 10, workers, builds, false).as_secs_f64(),
        by_arrival: makespan(graph, 0, workers, builds, false).as_secs_f64(),
    };
    let without_shares = makespan(graph, 10, workers, builds, true).as_secs_f64();
    let above = |seconds: f64| (seconds / bound - 1.0) * 100.0;
    let is_limited_by_slots = by_slots >= critical_path * SLOTS_LIMIT;
    let limit = if is_limited_by_slots {
        "slots"
    } else if by_slots * SLOTS_LIMIT <= critical_path {
        "critical path"
    } else {
        "both"
    };
    println!(
        "{workers:>7}  {simple_bound:>6.0} s  {bound:>6.0} s  {:>6.0} s (+{:.1} %)  {:>6.0} s (+{:.1} %)  {:>6.0} s (+{:.1} %)  limited by {limit}",
        row.by_path,
        above(row.by_path),
        without_shares,
        above(without_shares),
        row.by_arrival,
        above(row.by_arrival),
    );
    let is_within = above(without_shares) <= MAX_DISTANCE_PERCENT
        && (!is_limited_by_slots || above(row.by_path) <= MAX_DISTANCE_PERCENT);
    (row, is_within)
}

fn main() {
    let graph = Graph::read();
    let (work, critical_path) = (graph.work(), graph.critical_path());
    println!(
        "core-image-minimal: {} tasks, {} s of work, critical path {} s",
        graph.tasks.len(),
        work.as_secs(),
        critical_path.as_secs()
    );
    let mut missed = false;
    let mut pictures = vec![];
    for builds in BUILDS {
        println!(
            "{builds} builds at once\nworkers  simple    bound     longest path first  without shares     order of arrival"
        );
        let mut rows = vec![];
        for workers in WORKERS {
            let (row, is_within) = compare(&graph, workers, builds);
            missed |= !is_within;
            rows.push(row);
        }
        pictures.push(rows);
    }
    let shares = shares(&graph);
    let weights: u32 = USERS.iter().map(|(_, weight)| weight).sum();
    for ((user, weight), share) in USERS.iter().zip(&shares) {
        let due = f64::from(*weight) / f64::from(weights) * 100.0;
        println!("{user} with weight {weight}: {share:.1} % of the slot time (due {due:.0} %)");
        missed |= (share / due - 1.0).abs() * 100.0 > MAX_DISTANCE_PERCENT;
    }
    let mut arguments = std::env::args().skip_while(|argument| argument != "--svg");
    if let Some(path) = arguments.nth(1) {
        let rows = &pictures[BUILDS.len() - 1];
        let title = format!(
            "{} simulated builds of core-image-minimal at once",
            BUILDS[BUILDS.len() - 1]
        );
        std::fs::write(path, draw(&title, rows)).expect("a file that can be written");
    }
    assert!(!missed, "a goal is missed");
}
