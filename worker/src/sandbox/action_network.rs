//! Network of Actions with `network=on`: this machine's, or an isolated one.

use std::fs;

use bitzel_cas::notice::NOTICE;
use bitzel_launcher::{IsolatedNetwork, Network, SandboxFile};

use super::advice::in_path;
use super::name_servers::NameServers;

/// Program that connects an isolated network.
const PASTA: &str = "pasta";
/// File with the name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Advice for machines without an isolated network.
pub(super) const ADVICE: &str = "install the package `passt` (Debian 12, Ubuntu 23.04, Fedora 36 or later) and let this \
                                 user open /dev/net/tun, or choose --action-network=host";

/// Kind of network that Actions with `network=on` get on this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ActionNetwork {
    Isolated,
    Host,
}

impl ActionNetwork {
    /// Network of a launcher, and the file with the name servers that commands use in it. `None` stands for this machine's
    /// own file. Blocks.
    pub(super) fn connect(self) -> (Network, Option<SandboxFile>) {
        if self == Self::Host {
            return (Network::Host, None);
        }
        // Each time: the machine may be in another network since the last one.
        let name_servers = NameServers::of_host(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
        let network = IsolatedNetwork {
            program: PASTA.to_owned(),
            name_server_forwards: name_servers.forwards().collect(),
        };
        let file = SandboxFile {
            path: RESOLV_CONF.to_owned(),
            content: name_servers.file,
        };
        (Network::Isolated(network), Some(file))
    }
}

/// True if the program that connects isolated networks is in `PATH`.
pub(super) fn is_installed() -> bool {
    in_path(PASTA)
}

/// Reason why there is no isolated network on a machine without the program.
pub(super) fn not_installed() -> String {
    format!("`{PASTA}` is not in PATH")
}

/// Tells people, also those who run a build, that Actions reach more than they may expect.
pub(super) fn warn_about_host_network(reason: &str) {
    tracing::warn!(
        target: NOTICE,
        "Actions with network=on, such as do_fetch, use the network of this machine, with its loopback and link-local \
         addresses: {reason}; to isolate them, {ADVICE} to accept this"
    );
}
