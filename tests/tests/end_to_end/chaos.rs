//! Chaos: a farm of real processes executes a graph of real Actions for three clients while faults hit it.
//!
//! Short by default. For longer, with the number of seconds, and with the seed of an earlier run:
//!
//! ```text
//! BITZEL_CHAOS_SECONDS=1800 BITZEL_CHAOS_SEED=7 cargo nextest run -p bitzel-tests --test end_to_end \
//!     --no-capture -E 'test(nothing_is_lost_in_chaos)'
//! ```
//!
//! The seed decides the graph, the kinds of faults, their order, targets and times. The processes themselves take their
//! time as they like, so a run with the same seed is similar, not the same.

mod client;
mod farm;
mod faults;
mod graph;
mod leaks;
mod program;

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, block_in_place};
use tonic::transport::Endpoint;

use client::{Client, Counts, cached_result, count};
use farm::Farm;
use faults::Faults;
use graph::Graph;

const CLIENTS: usize = 3;
/// Time with faults in continuous integration.
const SHORT_RUN: Duration = Duration::from_secs(30);
/// Interval in which the state of the farm is printed.
const STATE_INTERVAL: Duration = Duration::from_secs(10);
/// Interval in which ends of faults and of processes are noticed.
const TICK: Duration = Duration::from_millis(50);

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_in_chaos() {
    let seed = number_from("BITZEL_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let duration = number_from("BITZEL_CHAOS_SECONDS").map_or(SHORT_RUN, Duration::from_secs);
    print(&format!("BITZEL_CHAOS_SEED={seed}"));
    let mut random = fastrand::Rng::with_seed(seed);
    let Some(mut farm) = Farm::start_or_skip().await else {
        return;
    };
    let mut faults = Faults::new(random.fork(), &farm);
    let (seen, findings) = (Counts::default(), Arc::new(Mutex::new(vec![])));
    let salt = format!("chaos-{seed}-{}", std::process::id());
    let started = Instant::now();
    let mut graphs = vec![];
    while graphs.is_empty() || started.elapsed() < duration {
        let graph = Arc::new(Graph::new(&mut random, &format!("{salt}-{}", graphs.len())));
        graphs.push(Arc::clone(&graph));
        let mut walks = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client::new(
                number,
                &farm.front.url(),
                Arc::clone(&graph),
                seen.clone(),
                findings.clone(),
            );
            walks.spawn(client.walk(graph.targets(number, CLIENTS)));
        }
        hit(&mut farm, &mut faults, &seen, &mut walks, started + duration).await;
        print(&format!(
            "{:8.3} graph {} is done",
            started.elapsed().as_secs_f64(),
            graphs.len()
        ));
    }
    print("the farm heals");
    block_in_place(|| faults.end_due(&mut farm, true));
    let mut problems = vec![];
    for graph in &graphs {
        check(&mut farm, graph, &seen, &findings).await;
    }
    block_in_place(|| {
        leaks::wait_until_idle(&mut farm);
        for program in farm.programs() {
            program.end();
            problems.extend(program.panics());
        }
        problems.extend(leaks::find(&farm, &salt));
        problems.extend(leaks::damaged_blobs(&farm));
        let cached = leaks::cached_results(&farm);
        let actions = graphs.len() * graph::ACTIONS;
        if cached != actions as u64 {
            problems.push(format!(
                "the action cache has {cached} results of {actions} Actions"
            ));
        }
    });
    problems.extend(findings.lock().expect("no panic").drain(..));
    report(&faults, &seen, graphs.len(), started);
    assert!(
        problems.is_empty(),
        "seed {seed}: {} problems:\n{}\n{}",
        problems.len(),
        problems.join("\n"),
        farm.logs()
    );
    assert!(faults.had_all(), "each kind of fault has happened");
}

/// Makes faults while clients walk the graph, and to the end of `until` also between them.
async fn hit(farm: &mut Farm, faults: &mut Faults, seen: &Counts, walks: &mut JoinSet<()>, until: Instant) {
    let mut tick = tokio::time::interval(TICK);
    let (mut next, mut next_state) = (Instant::now(), Instant::now() + STATE_INTERVAL);
    loop {
        tokio::select! {
            walked = walks.join_next() => match walked {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    print(&farm.logs());
                    std::panic::resume_unwind(error.into_panic());
                }
            },
            _ = tick.tick() => {}
        }
        block_in_place(|| {
            supervise(farm, seen);
            faults.end_due(farm, false);
            let now = Instant::now();
            if now >= next_state {
                next_state = now + STATE_INTERVAL;
                print(&farm.state());
            }
            if now >= next && (now < until || !faults.had_all()) {
                faults.inject(farm);
                next = now + faults.pause();
            }
        });
    }
}

/// Starts programs again that have ended by themselves.
fn supervise(farm: &mut Farm, seen: &Counts) {
    for program in farm.programs() {
        if let Some(ended) = program.supervise() {
            print(&ended);
            count(seen, ended);
        }
    }
}

/// Without faults: each Action of a graph has its result, and the action cache has it.
async fn check(farm: &mut Farm, graph: &Arc<Graph>, seen: &Counts, findings: &Arc<Mutex<Vec<String>>>) {
    let client = Client::new(
        CLIENTS,
        &farm.front.url(),
        Arc::clone(graph),
        seen.clone(),
        findings.clone(),
    );
    let mut walks = JoinSet::new();
    walks.spawn(Arc::clone(&client).walk((0..graph.nodes.len()).collect()));
    let mut tick = tokio::time::interval(TICK);
    while !walks.is_empty() {
        tokio::select! {
            walked = walks.join_next() => {
                if let Some(Err(error)) = walked {
                    print(&farm.logs());
                    std::panic::resume_unwind(error.into_panic());
                }
            }
            _ = tick.tick() => block_in_place(|| supervise(farm, seen)),
        }
    }
    let actions = client.actions().await;
    assert_eq!(actions.len(), graph.nodes.len());
    let url = farm.front.url().replace("grpc://", "http://");
    let channel = Endpoint::from_shared(url).expect("a URL").connect_lazy();
    for (number, action) in actions {
        let found = match cached_result(channel.clone(), action).await {
            Ok(outputs) if outputs == graph.expected(number) => continue,
            Ok(outputs) => format!("the action cache has {outputs:?}"),
            Err(status) => format!("the action cache has no result: {status}"),
        };
        let name = graph::name(number);
        findings
            .lock()
            .expect("no panic")
            .push(format!("Action {name}: {found}"));
    }
}

/// Prints a line. Not `println`: the test harness hides its output.
fn print(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("standard output is open");
}

fn report(faults: &Faults, seen: &Counts, graphs: usize, started: Instant) {
    let line = |text: String| print(&text);
    let total: usize = faults.counts.values().sum();
    line(format!(
        "{} Actions of {graphs} graphs for {CLIENTS} clients in {:.0} s with {total} faults:",
        graphs * graph::ACTIONS,
        started.elapsed().as_secs_f64()
    ));
    for (fault, number) in &faults.counts {
        line(format!("{number:7} {fault:?}"));
    }
    line("clients and service managers have seen:".to_owned());
    for (what, number) in seen.lock().expect("no panic").iter() {
        line(format!("{number:7} {what}"));
    }
    if !faults.impossible.is_empty() {
        // A note, and no skipped test: all other faults have happened.
        line(format!("not possible on this machine: {:?}", faults.impossible));
    }
}
