//! Servers under measurement, each with its recommended settings and its own directory.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use bitzel_tests::{
    BbStorageSize, ListeningProcess, bitzel_program, configure_bb_storage, free_address, peers,
};
use tempfile::TempDir;

/// A running server. Killed, and its files removed, when it is dropped.
pub(crate) struct MeasuredServer {
    name: &'static str,
    process: ListeningProcess,
    address: SocketAddr,
    http: Option<SocketAddr>,
    directories: Vec<TempDir>,
}

/// Size of a server's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreSize {
    /// 3 GiB: full after three large blobs, so that each further blob evicts another. Caches are full most of their
    /// lives, and a disk that still fills up measures how the machine gets fresh pages for its page cache.
    Small,
    /// Enough for all blobs of one workload.
    Large,
}

impl StoreSize {
    const SMALL_GIBIBYTES: &str = "3";
}

impl MeasuredServer {
    /// Functions that start one peer each; `None` if it is not installed.
    pub(crate) const PEERS: [fn(StoreSize) -> Option<Self>; 3] =
        [Self::buildbox_casd, Self::bazel_remote, Self::bb_storage];

    /// The program under test.
    pub(crate) fn bitzel(size: StoreSize) -> Self {
        let http = free_address();
        let gibibytes = match size {
            StoreSize::Small => StoreSize::SMALL_GIBIBYTES,
            // Less than all workloads together store: memory is measured with a full store of a million blobs or more.
            StoreSize::Large => "6",
        };
        Self::serve(Some(http), |command| {
            command
                .args(["--http-listen", &http.to_string()])
                .args(["--store-size", gibibytes]);
        })
    }

    /// The program under test with its scratch space in memory; `None` if this machine has no directory in memory.
    pub(crate) fn bitzel_with_scratch_in_memory() -> Option<Self> {
        let scratch = TempDir::with_prefix_in("bench-bitzel-", "/dev/shm").ok()?;
        let mut server = Self::serve(None, |command| {
            command.arg("--scratch-dir").arg(scratch.path().join("scratch"));
        });
        server.directories.push(scratch);
        Some(server)
    }

    /// The program under test for workers of other processes.
    pub(crate) fn bitzel_without_slots() -> Self {
        Self::serve(None, |command| {
            command.args(["--jobs", "0", "--store-size", "6"]);
        })
    }

    /// `bitzel serve` with the arguments that `add_arguments` adds.
    fn serve(http: Option<SocketAddr>, add_arguments: impl FnOnce(&mut Command)) -> Self {
        Self::start(
            "bitzel",
            Command::new(bitzel_program()),
            http,
            |command, directory, address| {
                command
                    .args(["serve", "--listen", &address.to_string(), "--cache-dir"])
                    .arg(directory.path());
                add_arguments(command);
            },
        )
    }

    fn buildbox_casd(size: StoreSize) -> Option<Self> {
        let program = peers::BUILDBOX_CASD.program_or_skip()?;
        Some(Self::start(
            peers::BUILDBOX_CASD.name,
            Command::new(program),
            None,
            |command, directory, address| {
                command.arg(format!("--bind={address}"));
                if size == StoreSize::Small {
                    command.arg(format!("--quota-high={}G", StoreSize::SMALL_GIBIBYTES));
                }
                command.arg(directory.path());
            },
        ))
    }

    fn bazel_remote(size: StoreSize) -> Option<Self> {
        let program = peers::BAZEL_REMOTE.program_or_skip()?;
        let http = free_address();
        let gibibytes = match size {
            StoreSize::Small => StoreSize::SMALL_GIBIBYTES,
            StoreSize::Large => "50",
        };
        Some(Self::start(
            peers::BAZEL_REMOTE.name,
            Command::new(program),
            Some(http),
            |command, directory, address| {
                command
                    .arg("--dir")
                    .arg(directory.path())
                    .args(["--max_size", gibibytes, "--access_log_level", "none"])
                    .args(["--grpc_address", &address.to_string()])
                    .args(["--http_address", &http.to_string()]);
            },
        ))
    }

    fn bb_storage(_: StoreSize) -> Option<Self> {
        // New blocks replace the oldest ones at any size. A blob is in one block, and the largest here has 1 GiB. Unwritten
        // parts of the files are holes.
        const SIZE: BbStorageSize = BbStorageSize {
            block_bytes: 5 << 28,
            key_bytes: 1 << 30,
        };
        let program = peers::BB_STORAGE.program_or_skip()?;
        Some(Self::start(
            peers::BB_STORAGE.name,
            Command::new(program),
            None,
            |command, directory, address| {
                command.arg(configure_bb_storage(directory.path(), address, SIZE));
            },
        ))
    }

    fn start(
        name: &'static str,
        mut command: Command,
        http: Option<SocketAddr>,
        configure: impl FnOnce(&mut Command, &TempDir, SocketAddr),
    ) -> Self {
        let directory = directory_on_disk(&format!("bench-{name}-"));
        let address = free_address();
        configure(&mut command, &directory, address);
        let addresses: Vec<_> = [address].into_iter().chain(http).collect();
        Self {
            name,
            process: ListeningProcess::start(command, &addresses),
            address,
            http,
            directories: vec![directory],
        }
    }

    /// Address of its HTTP cache, if it has one.
    pub(crate) fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// True if it executes Actions.
    pub(crate) fn executes(&self) -> bool {
        self.name == "bitzel"
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A value of the process in `/proc/PID/status`, in MB.
    pub(crate) fn megabytes(&self, key: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let kilobytes: f64 = line
            .trim_matches(|letter: char| !letter.is_ascii_digit())
            .parse()
            .unwrap();
        kilobytes * 1024.0 / 1e6
    }
}

/// A temporary directory beside the programs. `/tmp` may be in memory.
pub(crate) fn directory_on_disk(prefix: &str) -> TempDir {
    let program = std::env::current_exe().unwrap();
    TempDir::with_prefix_in(prefix, program.parent().unwrap()).unwrap()
}

/// Waits until all earlier writes are on disk, so that later measurements do not pay for them.
pub(crate) fn sync() {
    let status = Command::new("sync").status().unwrap();
    assert!(status.success(), "sync: {status}");
}
