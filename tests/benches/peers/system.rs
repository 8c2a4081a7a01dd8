//! The servers, each with its recommended settings and a directory of its own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bitzel_tests::peers::{self, free_port};
use bitzel_tests::{BbStorageSize, bitzel_program, configure_bb_storage};
use tempfile::TempDir;

/// A running server. It is killed and its files are removed when this is dropped.
pub(crate) struct System {
    name: &'static str,
    process: Child,
    address: SocketAddr,
    http: Option<SocketAddr>,
    directories: Vec<TempDir>,
}

/// How much a server may store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// 3 GiB: full after three large blobs, so that each further one takes the place of another. Caches are full most of
    /// their lives, and a disk that still fills up measures how the machine gets fresh pages for its page cache.
    Little,
    /// For all that one workload stores.
    Ample,
}

impl Room {
    /// In GiB.
    const LITTLE: &str = "3";
}

/// Longer than any server takes to listen.
const START: Duration = Duration::from_secs(30);

impl System {
    /// Each starts one peer; `None` says that this machine lacks it.
    pub(crate) const PEERS: [fn(Room) -> Option<Self>; 3] =
        [Self::buildbox_casd, Self::bazel_remote, Self::bb_storage];

    /// The program under test.
    pub(crate) fn bitzel(room: Room) -> Self {
        let http = free_port();
        let size = match room {
            Room::Little => Room::LITTLE,
            // Less than all workloads store: its memory is measured with a store that is full and has a million blobs or more.
            Room::Ample => "6",
        };
        let system = Self::serve(|command| {
            command
                .args(["--http-listen", &format!("127.0.0.1:{http}")])
                .args(["--store-size", size]);
        });
        system.with_http(http)
    }

    /// The program under test with what Actions write in memory, if this machine has a directory there.
    pub(crate) fn bitzel_with_scratch_in_memory() -> Option<Self> {
        let scratch = TempDir::with_prefix_in("bench-bitzel-", "/dev/shm").ok()?;
        let mut system = Self::serve(|command| {
            command.arg("--scratch-dir").arg(scratch.path().join("scratch"));
        });
        system.directories.push(scratch);
        Some(system)
    }

    /// `bitzel serve` with the arguments that `add` adds.
    fn serve(add: impl FnOnce(&mut Command)) -> Self {
        Self::start(
            "bitzel",
            Command::new(bitzel_program()),
            |command, directory, port| {
                command
                    .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--cache-dir"])
                    .arg(directory.path());
                add(command);
            },
        )
    }

    fn buildbox_casd(room: Room) -> Option<Self> {
        let program = peers::BUILDBOX_CASD.program_or_skip()?;
        Some(Self::start(
            peers::BUILDBOX_CASD.name,
            Command::new(program),
            |command, directory, port| {
                command.arg(format!("--bind=127.0.0.1:{port}"));
                if room == Room::Little {
                    command.arg(format!("--quota-high={}G", Room::LITTLE));
                }
                command.arg(directory.path());
            },
        ))
    }

    fn bazel_remote(room: Room) -> Option<Self> {
        let program = peers::BAZEL_REMOTE.program_or_skip()?;
        let http = free_port();
        let size = match room {
            Room::Little => Room::LITTLE,
            Room::Ample => "50",
        };
        let system = Self::start(
            peers::BAZEL_REMOTE.name,
            Command::new(program),
            |command, directory, port| {
                command
                    .arg("--dir")
                    .arg(directory.path())
                    .args(["--max_size", size, "--access_log_level", "none"])
                    .args(["--grpc_address", &format!("127.0.0.1:{port}")])
                    .args(["--http_address", &format!("127.0.0.1:{http}")]);
            },
        );
        Some(system.with_http(http))
    }

    fn bb_storage(_: Room) -> Option<Self> {
        // Its blocks take the place of older ones in any case. A blob is in one block, and the largest here has 1 GiB. The
        // files have holes where nothing was written.
        const SIZE: BbStorageSize = BbStorageSize {
            block_bytes: 5 << 28,
            key_bytes: 1 << 30,
        };
        let program = peers::BB_STORAGE.program_or_skip()?;
        Some(Self::start(
            peers::BB_STORAGE.name,
            Command::new(program),
            |command, directory, port| {
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                command.arg(configure_bb_storage(directory.path(), address, SIZE));
            },
        ))
    }

    fn start(
        name: &'static str,
        mut command: Command,
        configure: impl FnOnce(&mut Command, &TempDir, u16),
    ) -> Self {
        // Not /tmp, which may be in memory: beside the programs there is a disk.
        let beside = std::env::current_exe().unwrap();
        let directory = TempDir::with_prefix_in(format!("bench-{name}-"), beside.parent().unwrap()).unwrap();
        let port = free_port();
        configure(&mut command, &directory, port);
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.try_wait().unwrap() {
                panic!("{name} ended at once: {status}");
            }
            assert!(started.elapsed() < START, "{name} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            name,
            process,
            address,
            http: None,
            directories: vec![directory],
        }
    }

    /// Where it serves the HTTP cache, if it has one.
    pub(crate) fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    fn with_http(mut self, port: u16) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(
                started.elapsed() < START,
                "{} does not listen for HTTP",
                self.name
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        self.http = Some(address);
        self
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it runs Actions.
    pub(crate) fn executes(&self) -> bool {
        self.name == "bitzel"
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A number of kB from the kernel's account of the process, in MB.
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

/// Waits until the disk has everything that was written so far, so that it is charged to nobody who comes later.
pub(crate) fn sync() {
    let status = Command::new("sync").status().unwrap();
    assert!(status.success(), "sync: {status}");
}

impl Drop for System {
    fn drop(&mut self) {
        // Nothing that it holds is needed any more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
