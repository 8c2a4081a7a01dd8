//! Protocol between the worker and the sandbox launcher.
//!
//! The launcher's standard input is a Unix stream socket; the worker has its other end. Both sides send messages of one
//! line each: a JSON object and a line feed.
//!
//! 1. The worker sends one [`LauncherSetup`].
//! 2. The worker sends a [`LaunchRequest`], and no other before the answer.
//! 3. The launcher sends a [`LaunchAnswer`] when the last process of the command has ended.
//! 4. If the answer says `reusable`, they go on with step 2. Otherwise the launcher exits.
//!
//! When the worker closes its end, the launcher kills all processes of the command and exits after the last of them.
//! If the launcher closes its end without an answer, the worker starts another one.
//!
//! Worker and launcher are built together, so the protocol has no version.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub mod portable;

/// Directory that holds the input root in the command's file system. The launcher itself, which has no overlay there,
/// sees the worker's directory.
pub const INPUT_ROOT: &str = "/work";

/// Directories that an input root has which is the root file system of a command: the sandbox's own devices, processes and
/// temporary files are mounted there.
pub const MOUNTED_IN_INPUT_ROOT: [&str; 3] = ["dev", "proc", "tmp"];

/// Settings that all commands of a launcher share.
#[derive(Debug, Serialize, Deserialize)]
pub struct LauncherSetup {
    /// Arguments of bubblewrap that build the file system, without a command. They mount the launcher's working
    /// directory, which is the worker's directory, at [`INPUT_ROOT`].
    pub bubblewrap: Vec<String>,
    /// Files of the sandbox itself. Each launcher has inodes of its own for them: a lock or a lease on one cannot stop
    /// a command of another launcher.
    pub files: Vec<SandboxFile>,
    /// Image root that the arguments of bubblewrap refer to. `None` if they refer to the machine's own root.
    pub image_root: Option<ImageRootMount>,
    /// Network of the commands.
    pub network: Network,
    /// Bounds that this launcher watches for each command.
    pub bounds: WatchedBounds,
}

/// Read-only overlay of an image root, which the launcher mounts for itself before it calls bubblewrap. It gives each
/// launcher inodes of its own: a lock on one cannot stop a command of another launcher. Paths are relative to the
/// worker's directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageRootMount {
    /// Directories of the overlay, uppermost first.
    pub lower_directories: Vec<String>,
    /// Directory that the overlay is mounted on.
    pub mount_point: String,
}

/// Network of the commands of a launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Loopback of their own, and nothing else.
    Loopback,
    /// All that this machine reaches, apart from [`UNREACHABLE_NETWORKS`]. Such a launcher is not reused.
    Isolated(IsolatedNetwork),
    /// This machine's network.
    Host,
}

/// Settings of an isolated network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolatedNetwork {
    /// Name or path of the program pasta.
    pub program: String,
    /// Addresses at which commands find this machine's own name server: at most one of each family.
    pub name_server_forwards: Vec<IpAddr>,
}

/// Networks that no command in an isolated network reaches, as address and length of the prefix: the loopback of this
/// machine, link-local addresses, metadata services of clouds, and IPv6 addresses that stand for such an IPv4 address.
pub const UNREACHABLE_NETWORKS: [(IpAddr, u8); 16] = [
    v4([0, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    // Alibaba Cloud; Azure, whose own service also resolves names there.
    v4([100, 100, 100, 200], 32),
    v4([168, 63, 129, 16], 32),
    // ::1, and the old form of IPv4 addresses in IPv6.
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    // The present form, which the kernel sends as IPv4, and that of stateless translation.
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    // AWS (metadata, identities of pods, name server, time) and Google Cloud.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    // NAT64 and 6to4 of 127.0.0.0/8 and 169.254.0.0/16.
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0x7f00, 0], 104),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0xa9fe, 0], 112),
    v6([0x2002, 0x7f00, 0, 0, 0, 0, 0, 0], 24),
    v6([0x2002, 0xa9fe, 0, 0, 0, 0, 0, 0], 32),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> (IpAddr, u8) {
    (IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

const fn v6(segments: [u16; 8], prefix: u8) -> (IpAddr, u8) {
    let [first, second, third, fourth, ..] = segments;
    let [.., fifth, sixth, seventh, eighth] = segments;
    let address = Ipv6Addr::new(first, second, third, fourth, fifth, sixth, seventh, eighth);
    (IpAddr::V6(address), prefix)
}

/// True if no command in an isolated network reaches the address.
pub fn is_unreachable(address: IpAddr) -> bool {
    let bits = |address| match address {
        IpAddr::V4(address) => (32, u128::from(u32::from(address))),
        IpAddr::V6(address) => (128, u128::from(address)),
    };
    let (length, address) = bits(address);
    UNREACHABLE_NETWORKS.iter().any(|(network, prefix)| {
        let (own_length, network) = bits(*network);
        // No prefix is 0 bits long, so no shift is as long as the number.
        own_length == length && (network ^ address) >> (length - u32::from(*prefix)) == 0
    })
}

/// Small read-only file of the sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxFile {
    /// Absolute path in the sandbox.
    pub path: String,
    /// Content.
    pub content: String,
}

/// Bounds of one command that a launcher watches. `None` if something else enforces a bound, such as a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchedBounds {
    /// Memory in bytes: that of processes, and of files in `/tmp` and `/dev/shm`.
    pub memory_bytes: Option<u64>,
    /// Number of processes and threads.
    pub processes: Option<u64>,
    /// Space on disk in bytes that the command's changes and logs take.
    pub disk_bytes: Option<u64>,
    /// Size in bytes of standard output and standard error together.
    pub log_bytes: Option<u64>,
}

/// One of the [`WatchedBounds`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchedBound {
    /// `memory_bytes`.
    Memory,
    /// `processes`.
    Processes,
    /// `disk_bytes`.
    Disk,
    /// `log_bytes`.
    Log,
}

/// Shortest time between two looks at the memory and the processes of a command. The first look is after that time,
/// so short commands cost nothing.
pub const PROCESS_WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Shortest time between two looks at the disk space and the logs of a command.
pub const DISK_WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Longest time between two looks at the memory and the processes of a command. A command chooses how long a look takes,
/// and must not make the watch blind with it.
pub const MAX_PROCESS_WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Longest time between two looks at the disk space and the logs of a command.
pub const MAX_DISK_WATCH_INTERVAL: Duration = Duration::from_secs(10);
/// Part of the time that a look takes: after a long look the next one is later, so that the watch of a large tree takes
/// two percent of a processor, up to the longest interval.
pub const WATCH_INTERVALS_PER_LOOK: u32 = 50;

/// Time until the look after one that took `look`.
pub fn watch_interval(look: Duration, shortest: Duration, longest: Duration) -> Duration {
    look.saturating_mul(WATCH_INTERVALS_PER_LOOK)
        .clamp(shortest, longest)
}

/// Command to run. Paths are relative to the worker's directory, so that many layers fit into the 4,096 bytes that the
/// kernel takes as options of a mount.
#[derive(Debug, Serialize, Deserialize)]
pub struct LaunchRequest {
    /// Lower layers of the overlay, uppermost first. Without any there is no overlay: the command sees
    /// `upper_directory` itself.
    pub lower_directories: Vec<String>,
    /// Upper directory of the overlay.
    pub upper_directory: String,
    /// Empty directory for overlayfs's own use, on the same file system as `upper_directory`.
    pub overlay_work_directory: String,
    /// Program and arguments; at least the program.
    pub command: Vec<String>,
    /// The whole environment. The last of equal names counts.
    pub environment: Vec<(String, String)>,
    /// Absolute path of the directory that the command starts in.
    pub working_directory: String,
    /// Allows the command to create user namespaces.
    pub user_namespaces: bool,
    /// Makes the input root the root file system of the command, instead of a directory at [`INPUT_ROOT`].
    pub in_input_root: bool,
    /// File for standard output, created if it does not exist.
    pub stdout: String,
    /// File for standard error, created if it does not exist.
    pub stderr: String,
}

/// Answer to a request.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchAnswer {
    /// Outcome of the command.
    pub report: LaunchReport,
    /// True if the launcher takes another request. It exits otherwise.
    pub reusable: bool,
    /// Most space on disk in bytes that a look at the command's changes and logs found. Zero if it ended before the first.
    pub peak_disk_bytes: u64,
}

/// Outcome of a command.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaunchReport {
    /// The command ran and ended with this code: 128 plus the signal's number if a signal ended it.
    Exited(i32),
    /// The sandbox is set up, but the program cannot be executed.
    CommandNotStarted(
        /// The program's name and the system's reason.
        String,
    ),
    /// A step before the command failed.
    Failed {
        /// Name of the step.
        step: String,
        /// The system's reason.
        reason: String,
        /// Number of the system's error, if that is the reason.
        errno: Option<i32>,
    },
    /// The command used more than it may. All its processes were killed.
    BoundReached {
        /// The bound.
        bound: WatchedBound,
        /// What the command used when this was noticed.
        used: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_addresses_of_the_machine_from_others() {
        for address in [
            "127.0.0.53",
            "169.254.169.254",
            "168.63.129.16",
            "::1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_unreachable(address.parse().unwrap()), "{address}");
        }
        for address in [
            "10.0.0.1",
            "169.253.255.255",
            "192.168.1.1",
            "168.63.129.17",
            "fd00:ec3::254",
            "fec0::1",
            "64:ff9b::10.0.0.1",
            "2001:4860:4860::8888",
        ] {
            assert!(!is_unreachable(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn long_looks_delay_the_next_one_to_a_limit() {
        let next = |milliseconds| {
            let look = Duration::from_millis(milliseconds);
            watch_interval(look, DISK_WATCH_INTERVAL, MAX_DISK_WATCH_INTERVAL)
        };
        assert_eq!(next(1), DISK_WATCH_INTERVAL);
        assert_eq!(next(100), Duration::from_secs(5));
        assert_eq!(next(60_000), Duration::from_secs(10));
        assert_eq!(next(u64::MAX), Duration::from_secs(10));
    }
}
