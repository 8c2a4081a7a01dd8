//! Speed and memory of the operation queue alone: no network, no store, workers that do nothing. All speeds are by
//! processor time, so that other processes of a shared computer do not disturb them.
//!
//! `cargo bench -p bitzel-scheduler --bench operation_queue`. The floor in the same run is a first-in-first-out queue that
//! makes no decisions: a map of operations and a deque. `docs/operations.md` has the goals.
#![expect(clippy::print_stdout, reason = "the numbers are the program's output")]
#![expect(clippy::unwrap_used, reason = "a failure ends the benchmark")]

use std::collections::{HashMap, VecDeque};
use std::hint::black_box;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{Platform, RequestMetadata, ToolDetails};
use bitzel_proto::worker::Hello;
use bitzel_proto::{DigestFunction, InstanceName};
use bitzel_scheduler::clock::Time;
use bitzel_scheduler::operation_queue::{
    ActionKey, Effect, LeaseId, OperationId, OperationOutcome, OperationQueue, QueuedAction, Requester,
    WorkerId,
};
use bitzel_scheduler::platform::RequiredProperties;
use bitzel_scheduler::resources::Resources;
use bitzel_scheduler::{
    DiskJournal, ExecutionConfig, Journal, PostgresqlConfig, PostgresqlConnector, PostgresqlJournal,
};
use nix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[path = "../../tests/src/postgresql.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the file is that of the end-to-end tests"
)]
mod postgresql;

use postgresql::PostgresqlServer;

const WORKERS: u32 = 1_000;
const QUEUED: u32 = 100_000;
const MEASURED: u32 = 300_000;
const USERS: u32 = 20;
const INVOCATIONS_OF_USER: u32 = 5;
const JOURNALED: u32 = 100_000;
const COMMIT_INTERVALS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(20),
];
const MIN_JOURNALED_PER_SECOND: u32 = 15_000;
const MIN_IN_POSTGRESQL_PER_SECOND: u32 = 5_000;
/// Numbers of Actions that are accepted, leased and completed together, each step of all of them in one batch.
const BATCHES: [u32; 4] = [10, 100, 1_000, 5_000];
/// Time of each measurement by batches.
const BATCHES_TIME: Duration = Duration::from_secs(4);
const LATENCY_ROUNDS: usize = 5;
/// Goals, in Actions a second, bytes, and time.
const MIN_ACTIONS_PER_SECOND: u32 = 20_000;
const MAX_BYTES_PER_ACTION: u64 = 2 << 10;
const MAX_P99: Duration = Duration::from_millis(5);

fn platform() -> Platform {
    let property = |(name, value): (&str, &str)| Property {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    Platform {
        properties: [("ISA", "x86-64"), ("OSFamily", "linux")].map(property).to_vec(),
    }
}

/// An Action as a build requests it. All Actions are different.
fn action(number: u32) -> QueuedAction {
    let user = number % USERS;
    let invocation = format!(
        "8f1f6f0e-7c0a-4ad5-9d0a-{user:06}{:06}",
        number / USERS % INVOCATIONS_OF_USER
    );
    QueuedAction {
        key: ActionKey {
            instance: InstanceName::default(),
            digest: DigestFunction::Sha256.digest(&number.to_le_bytes()),
        },
        do_not_cache: false,
        requirements: RequiredProperties::new(&platform()),
        requester: Requester {
            user: format!("user {user} (token)").into(),
            weight: NonZeroU32::new(1 + user % 3).unwrap(),
            invocation: invocation.as_str().into(),
        },
        resources: Resources::default(),
        remaining_path: Duration::ZERO,
        input_trees: Arc::default(),
        priority: i32::try_from(number % 3).unwrap(),
        queued: SystemTime::UNIX_EPOCH,
        request_metadata: Some(RequestMetadata {
            tool_details: Some(ToolDetails {
                tool_name: "bitzel".to_owned(),
                tool_version: "0.1.0".to_owned(),
            }),
            action_id: format!("recipe-{number}:do_compile"),
            tool_invocation_id: invocation,
            target_id: format!("recipe-{number}"),
            ..Default::default()
        }),
    }
}

/// Operation queue with null workers.
struct Farm {
    queue: OperationQueue,
    start: Instant,
    accepted: u32,
    leases: VecDeque<(WorkerId, LeaseId)>,
    journal: Option<Arc<dyn Journal>>,
}

impl Farm {
    fn new() -> Self {
        Self::with_upcoming(0)
    }

    /// A farm whose workers are told so many of their next Actions.
    fn with_upcoming(max_upcoming_actions: u32) -> Self {
        let mut farm = Self {
            queue: OperationQueue::new(ExecutionConfig::default()),
            start: Instant::now(),
            accepted: 0,
            leases: VecDeque::new(),
            journal: None,
        };
        for number in 0..WORKERS {
            let hello = Hello {
                worker_name: format!("worker-{number}"),
                slots: 1,
                platform: Some(platform()),
                max_upcoming_actions,
                ..Default::default()
            };
            let (_, effects) = farm.queue.register_worker(farm.now(), &hello);
            farm.carry_out(effects);
        }
        farm
    }

    fn now(&self) -> Time {
        Time::default() + self.start.elapsed()
    }

    fn accept(&mut self, action: QueuedAction) {
        self.accepted += 1;
        let id = OperationId(Uuid::from_u128(self.accepted.into()));
        let (_, effects) = self.queue.execute(self.now(), id, action, false).unwrap();
        self.carry_out(effects);
    }

    fn complete_one(&mut self) {
        let (worker, lease) = self.leases.pop_front().unwrap();
        let now = self.now();
        let (completed, effects) = self.queue.complete(now, worker, lease);
        self.carry_out(effects);
        let outcome = OperationOutcome::Response(Box::default());
        let operation = completed.unwrap().operation;
        let effects = self.queue.finish(now, operation, outcome);
        self.carry_out(effects);
        // The clients have their answers.
        self.queue.detach(now, operation);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        if let Some(journal) = &self.journal {
            let records = effects.iter().filter_map(|effect| match effect {
                Effect::Record(record) => Some(record.clone()),
                _ => None,
            });
            journal.append(records.collect());
        }
        for effect in effects {
            if let Effect::Assign { worker, lease, .. } = black_box(effect) {
                self.leases.push_back((worker, lease));
            }
        }
    }
}

impl Farm {
    fn wait_until_durable(&self, runtime: &Runtime) {
        let journal = self.journal.as_ref().unwrap();
        let last = journal.append(vec![]);
        let mut durable = journal.durable();
        runtime
            .block_on(durable.wait_for(|durable| *durable >= last))
            .unwrap();
    }
}

/// Memory of this process in bytes.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Actions a second through queue, lease and completion, with the queue full all the time.
fn throughput(farm: &mut Farm) -> f64 {
    // Made before: reading a request is not the machine's work.
    let first = farm.accepted;
    let mut requests: Vec<_> = (first..first + MEASURED).map(action).collect();
    requests.reverse();
    let start = processor_time();
    while let Some(request) = requests.pop() {
        farm.accept(request);
        farm.complete_one();
    }
    f64::from(MEASURED) / processor_time().saturating_sub(start).as_secs_f64()
}

/// Actions a second with a journal under the queue, up to the moment when the last record is durable: by the wall clock,
/// and by the processor time of the thread that writes, which is the slower one of the two.
fn journaled(runtime: &Runtime, journal: Arc<dyn Journal>) -> (f64, f64) {
    let mut farm = Farm::new();
    farm.journal = Some(journal);
    let mut requests: Vec<_> = (0..WORKERS + JOURNALED).map(action).collect();
    requests.reverse();
    let own_start = processor_time();
    let all_start = processor_time_of(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    let start = Instant::now();
    while let Some(request) = requests.pop() {
        farm.accept(request);
        if farm.accepted > WORKERS {
            farm.complete_one();
        }
    }
    farm.wait_until_durable(runtime);
    let own_time = processor_time().saturating_sub(own_start);
    let all_time = processor_time_of(ClockId::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(all_start);
    let writer_time = all_time.saturating_sub(own_time);
    let count = f64::from(JOURNALED);
    (
        count / start.elapsed().as_secs_f64(),
        count / writer_time.as_secs_f64(),
    )
}

/// Actions a second by the wall clock, if `batch` Actions at a time are accepted, wait until that is durable, and are then
/// completed together, while others take their slots.
fn in_batches(runtime: &Runtime, journal: Arc<dyn Journal>, batch: u32) -> f64 {
    let mut farm = Farm::new();
    farm.journal = Some(journal);
    let start = Instant::now();
    let mut completed = 0;
    while start.elapsed() < BATCHES_TIME {
        for _ in 0..batch {
            farm.accept(action(farm.accepted));
        }
        farm.wait_until_durable(runtime);
        for _ in 0..batch {
            farm.complete_one();
        }
        farm.wait_until_durable(runtime);
        completed += batch;
    }
    f64::from(completed) / start.elapsed().as_secs_f64()
}

fn on_disk(directory: &Path, commit_interval: Duration) -> Arc<dyn Journal> {
    Arc::new(DiskJournal::open(&directory.join("journal"), commit_interval).unwrap())
}

/// The journal of a server that leads on this PostgreSQL.
fn in_postgresql(
    runtime: &Runtime,
    server: &PostgresqlServer,
    commit_interval: Duration,
) -> Arc<dyn Journal> {
    let config = PostgresqlConfig {
        url: server.url(),
        password_file: None,
        tls_ca: None,
        address: None,
        servers_ca: None,
        servers_certificate: None,
        servers_key: None,
        lease_time: Duration::from_secs(3),
    };
    let connector = PostgresqlConnector::new(&config, Path::new(""), None, String::new()).unwrap();
    let leader = uuid::Uuid::new_v4();
    let journal = |epoch: u32| {
        let deposed = CancellationToken::new();
        PostgresqlJournal::new(
            connector.clone(),
            (epoch, leader),
            config.lease_time,
            commit_interval,
            deposed,
        )
    };
    runtime.block_on(async {
        // Creates the tables.
        let _not_leading = journal(0).recover().await;
        let (client, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client.batch_execute("TRUNCATE bitzel_operations").await.unwrap();
        let lead = "UPDATE bitzel_leader SET epoch = epoch + 1, holder = $1 RETURNING epoch";
        let epoch: i64 = client.query_one(lead, &[&leader]).await.unwrap().get(0);
        let journal: Arc<dyn Journal> = Arc::new(journal(u32::try_from(epoch).unwrap()));
        journal
    })
}

/// Prints the speeds with journals.
fn journals() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    for interval in COMMIT_INTERVALS {
        let directory = tempfile::tempdir().unwrap();
        let (by_clock, by_writer) = journaled(&runtime, on_disk(directory.path(), interval));
        println!(
            "with the journal on disk, commit interval {interval:?}: {by_clock:.0} Actions/s by the wall clock, \
             {by_writer:.0}/s by processor time of the writer (goal {MIN_JOURNALED_PER_SECOND})"
        );
    }
    // As Debian configures it, with fsync.
    let Some(server) = PostgresqlServer::start_with(&[]) else {
        return;
    };
    for interval in COMMIT_INTERVALS {
        let (by_clock, by_writer) = journaled(&runtime, in_postgresql(&runtime, &server, interval));
        println!(
            "with the journal in PostgreSQL on the same machine, commit interval {interval:?}: {by_clock:.0} Actions/s by \
             the wall clock, {by_writer:.0}/s by processor time of the writer (goal {MIN_IN_POSTGRESQL_PER_SECOND})"
        );
    }
    for batch in BATCHES {
        let directory = tempfile::tempdir().unwrap();
        let disk = in_batches(&runtime, on_disk(directory.path(), Duration::ZERO), batch);
        let postgresql = in_batches(&runtime, in_postgresql(&runtime, &server, Duration::ZERO), batch);
        println!(
            "in batches of {batch} Actions: {postgresql:.0} Actions/s in PostgreSQL, {disk:.0}/s on disk, by the wall clock"
        );
    }
}

/// The same number of Actions through a queue that decides nothing.
fn floor() -> f64 {
    let mut operations = HashMap::new();
    let mut queue = VecDeque::new();
    let mut requests: Vec<_> = (0..QUEUED + MEASURED).map(action).collect();
    requests.reverse();
    for number in 0..QUEUED {
        operations.insert(Uuid::from_u128(number.into()), requests.pop().unwrap());
        queue.push_back(Uuid::from_u128(number.into()));
    }
    let start = processor_time();
    let mut number = QUEUED;
    while let Some(request) = requests.pop() {
        let id = Uuid::from_u128(number.into());
        operations.insert(id, request);
        queue.push_back(id);
        let next = queue.pop_front().unwrap();
        black_box(operations.remove(&next));
        number += 1;
    }
    f64::from(MEASURED) / processor_time().saturating_sub(start).as_secs_f64()
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    processor_time_of(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn processor_time_of(clock: ClockId) -> Duration {
    clock_gettime(clock).unwrap().into()
}

/// Times from the arrival of an Action to its lease, with arrivals at a steady rate, whatever the machine does. The arrivals
/// are on a time scale of their own, and the machine is busy on it for the processor time that its calls really take: so
/// other processes of a shared computer do not disturb the numbers.
fn accept_to_lease(rate: u32) -> Vec<Duration> {
    let mut farm = Farm::new();
    let count = 3 * rate;
    let mut requests: Vec<_> = (0..count).map(action).collect();
    requests.reverse();
    let mut times = Vec::with_capacity(count as usize);
    let mut busy_until = Duration::ZERO;
    for number in 0..count {
        let arrival = Duration::from_secs_f64(f64::from(number) / f64::from(rate));
        let request = requests.pop().unwrap();
        let leases = farm.leases.len();
        let start = processor_time();
        farm.accept(request);
        busy_until = busy_until.max(arrival) + processor_time().saturating_sub(start);
        assert!(farm.leases.len() > leases, "a free slot takes the Action at once");
        times.push(busy_until.saturating_sub(arrival));
        if farm.leases.len() > WORKERS as usize / 2 {
            let start = processor_time();
            farm.complete_one();
            busy_until += processor_time().saturating_sub(start);
        }
    }
    times.sort_unstable();
    times
}

fn main() {
    let half = MIN_ACTIONS_PER_SECOND / 2;
    // First, on a fresh heap: after the other parts, the allocator has a million small pieces to join.
    // The median of several rounds: on a shared computer, the host takes the processor away for tens of milliseconds.
    let mut rounds: Vec<_> = (0..LATENCY_ROUNDS).map(|_| accept_to_lease(half)).collect();
    rounds.sort_by_key(|times| times[times.len() * 99 / 100]);
    let times = &rounds[LATENCY_ROUNDS / 2];
    let p99 = times[times.len() * 99 / 100];
    let mut farm = Farm::new();
    let before = resident_bytes();
    while farm.accepted < WORKERS + QUEUED {
        farm.accept(action(farm.accepted));
    }
    let bytes = resident_bytes().saturating_sub(before) / u64::from(QUEUED);
    assert_eq!(farm.queue.occupancy().waiting, QUEUED as usize);
    let rate = throughput(&mut farm);
    drop(farm);
    let mut farm = Farm::with_upcoming(1);
    while farm.accepted < WORKERS + QUEUED {
        farm.accept(action(farm.accepted));
    }
    let rate_with_upcoming = throughput(&mut farm);
    let floor = floor();
    println!("{WORKERS} workers, {QUEUED} queued, {USERS} users with {INVOCATIONS_OF_USER} invocations each");
    println!(
        "queue, lease, completion: {rate:.0} Actions/s (goal {MIN_ACTIONS_PER_SECOND}; floor without decisions: \
         {floor:.0}/s, {:.1} times)",
        floor / rate
    );
    println!("the same with an upcoming Action for each worker: {rate_with_upcoming:.0} Actions/s");
    println!("memory: {bytes} bytes for each queued Action (goal {MAX_BYTES_PER_ACTION})");
    println!(
        "accept to lease at {half}/s: p50 {:?}, p99 {p99:?} (goal {MAX_P99:?})",
        times[times.len() / 2]
    );
    journals();
    let missed = rate < f64::from(MIN_ACTIONS_PER_SECOND) || bytes > MAX_BYTES_PER_ACTION || p99 > MAX_P99;
    assert!(!missed, "a goal is missed");
}
