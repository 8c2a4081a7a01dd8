//! Launchers that wait for their next command.

use std::sync::Arc;

use bitzel_launcher::{LauncherSetup, Network, WatchedBounds};
use parking_lot::Mutex;

use super::action_network::ActionNetwork;
use super::bubblewrap::HostFileSystem;
use super::launcher::Launcher;
use super::launcher_program::LauncherProgram;
use crate::cgroup::Cgroups;
use crate::error::Error;
use crate::worker_directories::WorkerDirectories;

/// Starts launchers and keeps the idle ones. It never has more of them than commands ran at the same time.
#[derive(Debug)]
pub(super) struct LauncherPool {
    program: LauncherProgram,
    directories: Arc<WorkerDirectories>,
    host: HostFileSystem,
    bounds: WatchedBounds,
    network: ActionNetwork,
    cgroups: Option<Arc<Cgroups>>,
    idle: Mutex<Vec<Launcher>>,
}

impl LauncherPool {
    pub(super) fn new(
        program: LauncherProgram,
        directories: Arc<WorkerDirectories>,
        host: HostFileSystem,
        bounds: WatchedBounds,
        network: ActionNetwork,
        cgroups: Option<Arc<Cgroups>>,
    ) -> Self {
        Self {
            program,
            directories,
            host,
            bounds,
            network,
            cgroups,
            idle: Mutex::default(),
        }
    }

    /// Kind of network that commands with network get.
    pub(super) fn network(&self) -> ActionNetwork {
        self.network
    }

    /// Gives commands with network this machine's from now on.
    pub(super) fn use_host_network(&mut self) {
        self.network = ActionNetwork::Host;
    }

    /// Takes an idle launcher for commands with or without network, or starts one.
    pub(super) fn take(&self, network: bool) -> Result<Launcher, Error> {
        while let Some(mut launcher) = self.take_idle(network) {
            // If somebody killed it meanwhile, the next command need not fail for that.
            if launcher.is_running() {
                return Ok(launcher);
            }
        }
        let (network, name_servers) = if network {
            self.network.connect()
        } else {
            (Network::Loopback, None)
        };
        let mut files = HostFileSystem::files(&network);
        files.extend(name_servers);
        let setup = LauncherSetup {
            bubblewrap: self.host.bubblewrap_arguments(&network),
            files,
            network,
            bounds: self.bounds,
        };
        let create = |cgroups: &Arc<Cgroups>| cgroups.create().map_err(Error::io("make a control group"));
        let cgroup = self.cgroups.as_ref().map(create).transpose()?;
        let _alone = self.directories.process_start_guard();
        Launcher::start(&self.program, self.directories.cache(), &setup, cgroup)
    }

    fn take_idle(&self, network: bool) -> Option<Launcher> {
        let mut idle = self.idle.lock();
        let index = idle
            .iter()
            .rposition(|launcher| launcher.has_network() == network)?;
        Some(idle.swap_remove(index))
    }

    /// Keeps a launcher whose answer says that it can be used again.
    pub(super) fn put_back(&self, launcher: Launcher) {
        self.idle.lock().push(launcher);
    }
}
