//! Arguments of bubblewrap for the file system that all sandboxes share.

use std::fs;
use std::path::PathBuf;

use bitzel_launcher::{INPUT_ROOT, Network, SandboxFile};

use crate::user_access::UserAccess;
use crate::worker_directories::{CHANGES, WorkerDirectories};

/// Parts of /etc that tools need: the dynamic linker's cache, Debian's alternatives (`cc`, `awk`, `c++`), certificates.
/// Not the private keys beside those, which the worker's user may be allowed to read.
const ETC: [&str; 13] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/openssl.cnf",
];
/// Parts of /etc that name resolution needs in addition.
const NETWORK_ETC: [&str; 5] = [
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/gai.conf",
];
/// File with the name servers. In an isolated network commands have one of their own.
const RESOLV_CONF: &str = "/etc/resolv.conf";
pub(super) const GROUP: &str = "root:x:0:\nbitzel:x:1000:\nnogroup:x:65534:\n";
pub(super) const HOSTS: &str = "127.0.0.1 localhost bitzel\n::1 localhost bitzel\n";

/// Users, with the home directory of the one that commands run as.
pub(super) fn passwd(home: &str) -> String {
    format!(
        "root:x:0:0:root:/root:/bin/sh\n\
         bitzel:x:1000:1000:bitzel:{home}:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
}

/// Part of /etc that name resolution takes from the machine in an image root, beside the name servers.
const HOSTS_FILE: &str = "/etc/hosts";

/// Namespaces of bubblewrap. The launcher enters those for mounts and the host name. The others, and the lack of
/// capabilities, confine the process that holds them until then.
const NAMESPACES: [&str; 8] = [
    "--unshare-uts",
    "--unshare-pid",
    "--unshare-ipc",
    "--hostname",
    "bitzel",
    "--die-with-parent",
    "--cap-drop",
    "ALL",
];

/// Parts of this machine's file system that commands see, all of them read-only.
#[derive(Debug)]
pub(super) struct HostFileSystem {
    /// Arguments that every sandbox has.
    common: Vec<String>,
    /// Arguments for /etc with network.
    network: Vec<String>,
    /// Arguments for the worker's directory at [`INPUT_ROOT`], which launchers see there. Commands see their input root
    /// mounted over it.
    worker_directory: Vec<String>,
    /// Arguments for the user's files.
    user_files: Vec<String>,
    /// Home directory of commands.
    home: &'static str,
}

impl HostFileSystem {
    /// Looks at this machine. Blocks.
    pub(super) fn find(
        directories: &WorkerDirectories,
        host_directories: &[PathBuf],
        user_access: Option<&UserAccess>,
    ) -> Self {
        let mut common = strings(&["--ro-bind", "/usr", "/usr"]);
        for path in ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
            match fs::read_link(path) {
                Ok(target) => common.extend(strings(&["--symlink", &target.to_string_lossy(), path])),
                Err(_) => common.extend(strings(&["--ro-bind-try", path, path])),
            }
        }
        for path in ETC {
            common.extend(strings(&["--ro-bind-try", path, path]));
        }
        for path in host_directories {
            let path = path.to_string_lossy();
            common.extend(strings(&["--ro-bind", &path, &path]));
        }
        let network = NETWORK_ETC
            .iter()
            .flat_map(|path| strings(&["--ro-bind-try", path, path]))
            .collect();
        // The launcher starts in the worker's directory.
        let mut worker_directory = strings(&["--bind", ".", INPUT_ROOT]);
        if let Some(changes) = directories.separate_scratch() {
            let changes = changes.to_string_lossy();
            worker_directory.extend(strings(&["--bind", &changes, &format!("{INPUT_ROOT}/{CHANGES}")]));
        }
        Self {
            common,
            network,
            worker_directory,
            user_files: user_access
                .map(UserAccess::bubblewrap_arguments)
                .unwrap_or_default(),
            home: UserAccess::home(user_access),
        }
    }

    /// The sandbox's own files of /etc, instead of those of this machine.
    pub(super) fn files(&self, network: &Network) -> Vec<SandboxFile> {
        let file = |path: &str, content: &str| SandboxFile {
            path: path.to_owned(),
            content: content.to_owned(),
        };
        let mut files = vec![file("/etc/passwd", &passwd(self.home)), file("/etc/group", GROUP)];
        if *network == Network::Loopback {
            // The launcher is in a network of its own.
            files.push(file("/etc/hosts", HOSTS));
        }
        files
    }

    /// Arguments for the file system that all commands with this kind of `network` share. They see it
    /// read-only; file systems that they can write to are mounted over `/work`, `/tmp`, `/dev/shm`, `/dev/pts` and
    /// `/proc` for each of them.
    pub(super) fn bubblewrap_arguments(&self, network: &Network) -> Vec<String> {
        let mut arguments = strings(&NAMESPACES);
        arguments.extend_from_slice(&self.common);
        if *network != Network::Loopback {
            arguments.extend_from_slice(&self.network);
        }
        if *network == Network::Host {
            arguments.extend(strings(&["--ro-bind-try", RESOLV_CONF, RESOLV_CONF]));
        }
        arguments.extend(strings(&["--ro-bind", "/proc", "/proc"]));
        arguments.extend(strings(&["--dev", "/dev", "--remount-ro", "/dev"]));
        arguments.extend(strings(&["--dir", "/tmp", "--dir", "/run", "--dir", "/var"]));
        arguments.extend(strings(&["--symlink", "../tmp", "/var/tmp"]));
        arguments.extend_from_slice(&self.user_files);
        arguments.extend_from_slice(&self.worker_directory);
        // The rest of the root is a file system in memory: a write there would be lost without a message.
        arguments.extend(strings(&["--remount-ro", "/"]));
        arguments
    }

    /// As [`bubblewrap_arguments`](Self::bubblewrap_arguments), in the image root that is mounted at `image_root`, relative
    /// to the worker's directory. Of this machine commands see the devices, `/proc`, and with `network` where its name
    /// servers are. The image root has all mount points ([`super::mount_points`]).
    pub(super) fn image_root_arguments(&self, network: &Network, image_root: &str) -> Vec<String> {
        let mut arguments = strings(&NAMESPACES);
        arguments.extend(strings(&["--ro-bind", image_root, "/"]));
        if *network != Network::Loopback {
            arguments.extend(strings(&["--ro-bind-try", HOSTS_FILE, HOSTS_FILE]));
        }
        if *network == Network::Host {
            arguments.extend(strings(&["--ro-bind-try", RESOLV_CONF, RESOLV_CONF]));
        }
        arguments.extend(strings(&["--ro-bind", "/proc", "/proc"]));
        arguments.extend(strings(&["--dev", "/dev", "--remount-ro", "/dev"]));
        arguments.extend_from_slice(&self.user_files);
        arguments.extend_from_slice(&self.worker_directory);
        arguments
    }
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&argument| argument.to_owned()).collect()
}
