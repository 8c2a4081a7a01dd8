//! A farm: PostgreSQL, a store, two schedulers and workers, with a proxy before each of them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use bitzel_tests::{FaultyProxy, PostgresqlServer, Site, free_address};

use super::program::Program;

pub(super) const WORKERS: usize = 4;
/// The worker whose disk is small, and gets full.
pub(super) const WORKER_WITH_SMALL_DISK: usize = WORKERS - 1;
const SMALL_DISK: &str = "size=96m";
/// From the Debian package libfaketime: the clock of one process, by `LD_PRELOAD`.
const FAKE_CLOCK: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// File system in memory, which is unmounted when it is dropped.
pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` without the right to mount.
    fn mount(at: PathBuf) -> Option<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", SMALL_DISK, "chaos"]).arg(&at);
        command.output().ok()?.status.success().then_some(Self(at))
    }

    /// Fills it to the last block.
    pub(super) fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("ballast")).expect("a file");
        let block = vec![0; 64 << 10];
        // Until there is no space.
        while file.write_all(&block).is_ok() {}
    }

    pub(super) fn make_space(&self) {
        std::fs::remove_file(self.0.join("ballast")).expect("the disk was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was killed may still end.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// All processes. Dropped from the first field to the last one.
pub(super) struct Farm {
    pub(super) small_disk: Option<SmallDisk>,
    pub(super) workers: Vec<Program>,
    pub(super) servers: Vec<Program>,
    pub(super) store: Program,
    pub(super) postgresql: PostgresqlServer,
    /// From clients to the servers.
    pub(super) front: FaultyProxy,
    /// From each worker to the servers.
    pub(super) worker_links: Vec<FaultyProxy>,
    /// From the servers to the store.
    pub(super) store_link: FaultyProxy,
    /// Clocks of the processes that have one of their own.
    pub(super) clocks: Vec<(String, PathBuf)>,
    /// Address of each server.
    addresses: Vec<std::net::SocketAddr>,
}

impl Farm {
    /// Starts everything, or prints that the test is skipped.
    pub(super) async fn start_or_skip() -> Option<Self> {
        let postgresql = PostgresqlServer::start_or_skip()?;
        let mut clocks = vec![];
        let mut clock = |name: &str, site: &Site| {
            if !std::path::Path::new(FAKE_CLOCK).is_file() {
                return vec![];
            }
            let file = site.path("clock");
            std::fs::write(&file, "+0\n").expect("a file");
            let variables = [
                ("LD_PRELOAD", FAKE_CLOCK.to_owned()),
                ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
                ("FAKETIME_CACHE_DURATION", "1".to_owned()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ];
            clocks.push((name.to_owned(), file));
            variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
        };

        let site = Site::empty();
        std::fs::write(site.path("store.toml"), "[execution]\nenabled = false\n").expect("a file");
        let (address, admin) = (free_address(), free_address());
        let variables = clock("store", &site);
        let arguments = serve_arguments("store.toml", address, admin);
        let mut store = Program::new("store", site, "serve", arguments, admin, &variables);
        store.start();
        store.wait_until_ready();
        let store_link = FaultyProxy::start(vec![address]).await;

        let mut servers = vec![];
        let mut addresses = vec![];
        for name in ["server-0", "server-1"] {
            let site = Site::empty();
            let configuration = format!(
                "[execution]\nreconnect_timeout = \"8s\"\nworker_reconnect_timeout = \"3s\"\n\
                 quarantine_after = 1000\n\
                 [execution.journal]\nmedium = \"postgresql\"\n\
                 [execution.journal.postgresql]\nurl = \"{}\"\n\
                 [blobs.grpc]\nendpoint = \"{store}\"\n[actions.grpc]\nendpoint = \"{store}\"\n",
                postgresql.url(),
                store = store_link.url(),
            );
            std::fs::write(site.path("server.toml"), configuration).expect("a file");
            let (address, admin) = (free_address(), free_address());
            let variables = clock(name, &site);
            let arguments = serve_arguments("server.toml", address, admin);
            let mut server = Program::new(name, site, "serve", arguments, admin, &variables);
            server.start();
            server.wait_until_ready();
            addresses.push(address);
            servers.push(server);
        }
        let front = FaultyProxy::start(addresses.clone()).await;

        let mut small_disk = None;
        let (mut workers, mut worker_links) = (vec![], vec![]);
        for number in 0..WORKERS {
            let name = format!("worker-{number}");
            let site = Site::empty();
            if number == WORKER_WITH_SMALL_DISK {
                small_disk = SmallDisk::mount(site.cache());
            }
            // Each knows both servers, and prefers one of them.
            let mut servers = addresses.clone();
            servers.rotate_left(number % 2);
            let link = FaultyProxy::start(servers).await;
            let admin = free_address();
            let arguments = [
                &link.url(),
                "--name",
                &name,
                "--allow-root",
                "--jobs",
                "2",
                "--drain-timeout",
                "5",
                "--admin",
                &admin.to_string(),
            ];
            let variables = if number == 0 { clock(&name, &site) } else { vec![] };
            let arguments = arguments.map(str::to_owned).to_vec();
            let mut worker = Program::new(&name, site, "worker", arguments, admin, &variables);
            worker.start();
            worker.wait_until_ready();
            workers.push(worker);
            worker_links.push(link);
        }
        Some(Self {
            small_disk,
            workers,
            servers,
            store,
            postgresql,
            front,
            worker_links,
            store_link,
            clocks,
            addresses,
        })
    }

    /// The server that leads.
    pub(super) fn leader(&self) -> Option<usize> {
        let mut servers = (0..self.servers.len()).filter(|number| !self.servers[*number].is_down);
        servers.find(|number| self.servers[*number].metric("bitzel_scheduler_leads") == Some(1.0))
    }

    /// Takes a server out of all load balancers, as a health check does, or puts it in again.
    pub(super) fn set_balanced(&self, server: usize, is_balanced: bool) {
        let addresses = self.addresses.iter().enumerate();
        let addresses: Vec<_> = addresses
            .filter(|(number, _)| is_balanced || *number != server)
            .map(|(_, address)| *address)
            .collect();
        for proxy in self.worker_links.iter().chain([&self.front]) {
            proxy.prefer(addresses.clone());
            if !is_balanced {
                proxy.cut();
            }
        }
    }

    /// All programs of bitzel.
    pub(super) fn programs(&mut self) -> impl Iterator<Item = &mut Program> {
        self.workers
            .iter_mut()
            .chain(&mut self.servers)
            .chain([&mut self.store])
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &FaultyProxy> {
        self.worker_links.iter().chain([&self.front, &self.store_link])
    }

    /// Who leads, what waits, and what each worker runs, for people.
    pub(super) fn state(&self) -> String {
        let leader = self.leader();
        let metric = |name| leader.and_then(|leader| self.servers[leader].metric(name));
        let running = self.workers.iter().map(|worker| {
            let is_up = !worker.is_down;
            is_up
                .then(|| worker.metric("bitzel_worker_actions_running"))
                .flatten()
        });
        format!(
            "         server {leader:?} leads {:?} workers, {:?} Actions wait, {:?} slots are used, workers run {:?}",
            metric("bitzel_workers"),
            metric("bitzel_queue_waiting_actions"),
            metric("bitzel_worker_slots_used"),
            running.collect::<Vec<_>>()
        )
    }

    /// The ends of all logs.
    pub(super) fn logs(&mut self) -> String {
        self.programs().map(|program| program.last_lines()).collect()
    }
}

fn serve_arguments(
    configuration: &str,
    address: std::net::SocketAddr,
    admin: std::net::SocketAddr,
) -> Vec<String> {
    let (address, admin) = (address.to_string(), admin.to_string());
    let arguments = ["--config", configuration, "--listen", &address, "--admin", &admin];
    arguments.map(str::to_owned).to_vec()
}
