//! Faults, drawn from a seed, and their ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bitzel_tests::Traffic;
use tokio::task::block_in_place;

use super::farm::{Farm, WORKER_WITH_SMALL_DISK, WORKERS};
use super::graph::LARGE_BYTES;

/// Longest time without an answer that a load balancer accepts before it takes a server out.
const HANG: Duration = Duration::from_secs(6);
/// Longer than `worker_reconnect_timeout` and `reconnect_timeout` of the farm: the leases of a worker are given away.
const STALE_LEASE: Duration = Duration::from_secs(10);

/// Kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    WorkerKilled,
    LeaderKilled,
    FollowerKilled,
    StoreKilled,
    PostgresqlKilled,
    PostgresqlHangs,
    LeaderHangs,
    /// A worker is stopped until others have its leases, and goes on with late results.
    StaleLeases,
    HalfOfTheWorkersTerminated,
    ConnectionsCut,
    ConnectionsDelayed,
    ConnectionsHeld,
    ClockJumps,
    DiskFull,
    BlobVanishes,
}

const ALL: [Fault; 15] = [
    Fault::WorkerKilled,
    Fault::LeaderKilled,
    Fault::FollowerKilled,
    Fault::StoreKilled,
    Fault::PostgresqlKilled,
    Fault::PostgresqlHangs,
    Fault::LeaderHangs,
    Fault::StaleLeases,
    Fault::HalfOfTheWorkersTerminated,
    Fault::ConnectionsCut,
    Fault::ConnectionsDelayed,
    Fault::ConnectionsHeld,
    Fault::ClockJumps,
    Fault::DiskFull,
    Fault::BlobVanishes,
];

/// End of a fault.
#[derive(Debug, Clone, Copy)]
enum End {
    StartWorker(usize),
    StartServer(usize),
    StartStore,
    StartPostgresql,
    ResumePostgresql,
    ResumeWorker(usize),
    ResumeServer(usize),
    LetFlow(usize),
    SetClock(usize),
    MakeSpace,
}

/// Source of faults.
pub(super) struct Faults {
    random: fastrand::Rng,
    /// Kinds that come next. All come before one comes again.
    next: Vec<Fault>,
    ends: Vec<(Instant, End)>,
    postgresql_is_down: bool,
    disk_is_full: bool,
    /// Number of faults by kind.
    pub(super) counts: BTreeMap<Fault, usize>,
    /// Kinds that this machine does not allow.
    pub(super) impossible: Vec<Fault>,
    started: Instant,
}

impl Faults {
    pub(super) fn new(random: fastrand::Rng, farm: &Farm) -> Self {
        let mut impossible = vec![];
        if farm.clocks.is_empty() {
            impossible.push(Fault::ClockJumps);
        }
        if farm.small_disk.is_none() {
            impossible.push(Fault::DiskFull);
        }
        Self {
            random,
            next: vec![],
            ends: vec![],
            postgresql_is_down: false,
            disk_is_full: false,
            counts: BTreeMap::new(),
            impossible,
            started: Instant::now(),
        }
    }

    /// True if each kind that is possible has happened.
    pub(super) fn had_all(&self) -> bool {
        ALL.iter()
            .all(|fault| self.impossible.contains(fault) || self.counts.contains_key(fault))
    }

    /// Time until the next fault. With less, the farm has no leader most of the time, and no graph is ever done.
    pub(super) fn pause(&mut self) -> Duration {
        Duration::from_millis(self.random.u64(200..4000))
    }

    /// Makes the next fault that is possible now.
    pub(super) fn inject(&mut self, farm: &mut Farm) {
        if self.next.is_empty() {
            self.next = ALL.to_vec();
            self.random.shuffle(&mut self.next);
        }
        // One that is not possible now has its turn later.
        for _ in 0..self.next.len() {
            let fault = self.next.remove(0);
            if self.try_inject(fault, farm) {
                *self.counts.entry(fault).or_default() += 1;
                return;
            }
            if !self.impossible.contains(&fault) {
                self.next.push(fault);
            }
        }
    }

    fn try_inject(&mut self, fault: Fault, farm: &mut Farm) -> bool {
        if self.impossible.contains(&fault) {
            return false;
        }
        let short = Duration::from_millis(self.random.u64(100..4000));
        let long = Duration::from_millis(self.random.u64(1000..HANG.as_millis().try_into().expect("small")));
        let worker = self.random.usize(0..WORKERS);
        let link = self.random.usize(0..WORKERS + 2);
        match fault {
            Fault::WorkerKilled => {
                if farm.workers[worker].is_down {
                    return false;
                }
                farm.workers[worker].kill();
                self.end(fault, worker, short, End::StartWorker(worker));
            }
            Fault::LeaderKilled | Fault::FollowerKilled => {
                let Some(leader) = farm.leader() else {
                    return false;
                };
                let server = if fault == Fault::LeaderKilled {
                    leader
                } else {
                    1 - leader
                };
                if farm.servers[server].is_down {
                    return false;
                }
                farm.servers[server].kill();
                self.end(fault, server, long, End::StartServer(server));
            }
            Fault::LeaderHangs => {
                let Some(leader) = farm.leader() else {
                    return false;
                };
                farm.servers[leader].pause();
                farm.set_balanced(leader, false);
                self.end(fault, leader, HANG, End::ResumeServer(leader));
            }
            Fault::StoreKilled => {
                if farm.store.is_down {
                    return false;
                }
                farm.store.kill();
                self.end(fault, 0, short, End::StartStore);
            }
            Fault::PostgresqlKilled | Fault::PostgresqlHangs => {
                if self.postgresql_is_down {
                    return false;
                }
                self.postgresql_is_down = true;
                if fault == Fault::PostgresqlKilled {
                    farm.postgresql.kill();
                    self.end(fault, 0, long, End::StartPostgresql);
                } else {
                    farm.postgresql.pause();
                    self.end(fault, 0, long, End::ResumePostgresql);
                }
            }
            Fault::StaleLeases => {
                let is_idle = farm.workers[worker].metric("bitzel_worker_actions_running") == Some(0.0);
                if farm.workers[worker].is_down || is_idle {
                    return false;
                }
                farm.workers[worker].pause();
                // The server notices at once, and not by keep-alive.
                farm.worker_links[worker].cut();
                self.end(fault, worker, STALE_LEASE, End::ResumeWorker(worker));
            }
            Fault::HalfOfTheWorkersTerminated => {
                let mut numbers: Vec<usize> = (0..WORKERS).collect();
                self.random.shuffle(&mut numbers);
                let up = numbers
                    .into_iter()
                    .filter(|number| !farm.workers[*number].is_down);
                let half: Vec<usize> = up.take(WORKERS / 2).collect();
                for number in &half {
                    farm.workers[*number].terminate();
                }
                self.print(fault, format!("{half:?}"));
            }
            Fault::ConnectionsCut => {
                farm.links().nth(link).expect("a link").cut();
                self.print(fault, link);
            }
            Fault::ConnectionsDelayed | Fault::ConnectionsHeld => {
                let delay = Duration::from_millis(self.random.u64(5..150));
                let traffic = match fault {
                    Fault::ConnectionsHeld => Traffic::IsHeld,
                    _ => Traffic::IsDelayed(delay),
                };
                farm.links().nth(link).expect("a link").set_traffic(traffic);
                self.end(fault, link, long, End::LetFlow(link));
            }
            Fault::ClockJumps => {
                let clock = self.random.usize(0..farm.clocks.len());
                let jump = *self
                    .random
                    .choice(&["+1h", "-1h", "+400d", "-400d", "+90", "-90"])
                    .expect("a jump");
                set_clock(farm, clock, jump);
                self.end(
                    fault,
                    format!("{jump} of {}", farm.clocks[clock].0),
                    long,
                    End::SetClock(clock),
                );
            }
            Fault::DiskFull => {
                let Some(disk) = &farm.small_disk else {
                    return false;
                };
                if self.disk_is_full {
                    return false;
                }
                disk.fill();
                self.disk_is_full = true;
                self.end(fault, WORKER_WITH_SMALL_DISK, long, End::MakeSpace);
            }
            Fault::BlobVanishes => {
                let files = large_files(&farm.store.site.cache());
                let Some(file) = self.random.choice(&files) else {
                    return false;
                };
                // The store may evict it at this moment.
                if std::fs::remove_file(file).is_err() {
                    return false;
                }
                self.print(fault, file.display());
            }
        }
        true
    }

    /// Notes the end of a fault.
    fn end(&mut self, fault: Fault, of: impl std::fmt::Display, after: Duration, end: End) {
        self.print(fault, format!("{of}, for {after:?}"));
        self.ends.push((Instant::now() + after, end));
    }

    fn print(&self, fault: Fault, details: impl std::fmt::Display) {
        let seconds = self.started.elapsed().as_secs_f64();
        super::print(&format!("{seconds:8.3} {fault:?} {details}"));
    }

    /// Ends the faults that are over, or all.
    pub(super) fn end_due(&mut self, farm: &mut Farm, all: bool) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.ends)
            .into_iter()
            .partition(|(at, _)| all || *at <= now);
        self.ends = later;
        for (_, end) in due {
            let due: End = end;
            match due {
                End::StartWorker(worker) => farm.workers[worker].start(),
                End::StartServer(server) => farm.servers[server].start(),
                End::StartStore => farm.store.start(),
                End::StartPostgresql => {
                    block_in_place(|| farm.postgresql.start());
                    self.postgresql_is_down = false;
                }
                End::ResumePostgresql => {
                    farm.postgresql.resume();
                    self.postgresql_is_down = false;
                }
                End::ResumeWorker(worker) => farm.workers[worker].resume(),
                End::ResumeServer(server) => {
                    farm.servers[server].resume();
                    farm.set_balanced(server, true);
                }
                End::LetFlow(link) => {
                    let link = farm.links().nth(link).expect("a link");
                    link.set_traffic(Traffic::Flows);
                }
                End::SetClock(clock) => set_clock(farm, clock, "+0"),
                End::MakeSpace => {
                    farm.small_disk.as_ref().expect("it was full").make_space();
                    self.disk_is_full = false;
                }
            }
        }
    }
}

fn set_clock(farm: &Farm, clock: usize, offset: &str) {
    let file = &farm.clocks[clock].1;
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{offset}\n")).expect("a file");
    std::fs::rename(new, file).expect("a file");
}

/// Files of the store that are blobs of their own.
fn large_files(directory: &std::path::Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(directory)
        .into_iter()
        .filter_map(Result::ok);
    let name_end = format!("-{LARGE_BYTES}");
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(&name_end))
        .map(|entry| entry.path().to_owned())
        .collect();
    files.sort();
    files
}
