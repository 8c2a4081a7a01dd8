//! Launchers that wait for their next command.

use std::sync::Arc;

use bitzel_launcher::{ImageRootMount, LauncherSetup, Network, WatchedBounds};
use parking_lot::Mutex;

use super::action_network::ActionNetwork;
use super::bubblewrap::HostFileSystem;
use super::launcher::Launcher;
use super::launcher_program::LauncherProgram;
use crate::cgroup::Cgroups;
use crate::error::Error;
use crate::image_root::ImageRoot;
use crate::worker_directories::{IMAGE_ROOT, MOUNT_POINTS, WorkerDirectories};

/// Limit of the idle launchers of image roots: those of roots that no build uses any more must not add up.
const MAX_IDLE_OF_IMAGE_ROOTS: usize = 64;

/// Starts launchers and keeps the idle ones: a launcher belongs to one root file system. Of those of this machine's root it
/// never has more than commands ran at the same time.
#[derive(Debug)]
pub(super) struct LauncherPool {
    program: LauncherProgram,
    directories: Arc<WorkerDirectories>,
    host: HostFileSystem,
    bounds: WatchedBounds,
    network: ActionNetwork,
    cgroups: Option<Arc<Cgroups>>,
    /// Those that were put back last come last.
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

    /// Takes an idle launcher for commands with or without network in a root file system, or starts one.
    pub(super) fn take(&self, network: bool, image_root: Option<&Arc<ImageRoot>>) -> Result<Launcher, Error> {
        while let Some(mut launcher) = self.take_idle(network, image_root) {
            // If somebody killed it meanwhile, the next command need not fail for that.
            if launcher.is_running() {
                return Ok(launcher);
            }
        }
        let setup = self.setup(network, image_root);
        let create = |cgroups: &Arc<Cgroups>| cgroups.create().map_err(Error::io("make a control group"));
        let cgroup = self.cgroups.as_ref().map(create).transpose()?;
        let _alone = self.directories.process_start_guard();
        Launcher::start(
            &self.program,
            self.directories.cache(),
            &setup,
            image_root.cloned(),
            cgroup,
        )
    }

    fn setup(&self, network: bool, image_root: Option<&Arc<ImageRoot>>) -> LauncherSetup {
        let (network, name_servers) = if network {
            self.network.connect()
        } else {
            (Network::Loopback, None)
        };
        let (bubblewrap, mut files, image_root) = match image_root {
            None => (
                self.host.bubblewrap_arguments(&network),
                self.host.files(&network),
                None,
            ),
            Some(root) => {
                let mount = ImageRootMount {
                    lower_directories: vec![MOUNT_POINTS.to_owned(), root.relative_path().to_owned()],
                    // Not the layer itself: an input root with the same digest shares that.
                    mount_point: IMAGE_ROOT.to_owned(),
                };
                // The sandbox's own files are a part of the mount points.
                (
                    self.host.image_root_arguments(&network, &mount.mount_point),
                    vec![],
                    Some(mount),
                )
            }
        };
        files.extend(name_servers);
        LauncherSetup {
            bubblewrap,
            files,
            image_root,
            network,
            bounds: self.bounds,
        }
    }

    fn take_idle(&self, network: bool, image_root: Option<&Arc<ImageRoot>>) -> Option<Launcher> {
        let mut idle = self.idle.lock();
        let index = idle
            .iter()
            .rposition(|launcher| launcher.serves(network, image_root))?;
        Some(idle.remove(index))
    }

    /// Keeps a launcher whose answer says that it can be used again. Returns one that is too many, for the caller to end.
    pub(super) fn put_back(&self, launcher: Launcher) -> Option<Launcher> {
        let mut idle = self.idle.lock();
        idle.push(launcher);
        let of_image_roots = idle.iter().filter(|launcher| launcher.has_image_root());
        if of_image_roots.count() <= MAX_IDLE_OF_IMAGE_ROOTS {
            return None;
        }
        let oldest = idle.iter().position(Launcher::has_image_root)?;
        Some(idle.remove(oldest))
    }

    /// Takes all idle launchers of image roots, for the caller to end.
    pub(super) fn take_idle_of_image_roots(&self) -> Vec<Launcher> {
        let mut idle = self.idle.lock();
        idle.extract_if(.., |launcher| launcher.has_image_root())
            .collect()
    }
}
