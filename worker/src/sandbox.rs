//! Sandboxes: each command runs in namespaces of its own.

use std::path::PathBuf;
use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;
use bitzel_launcher::{INPUT_ROOT, LaunchReport, LaunchRequest, WatchedBound, WatchedBounds};
use bitzel_proto::worker::ResourceUsage;

use crate::bounds::{ActionNetworkSetting, BOUNDS_LOG, Bound, BoundReached, Bounds, size};
use crate::cgroup::Cgroups;
use crate::error::Error;
use crate::image_root::ImageRoot;
use crate::user_access::UserAccess;
use crate::worker_directories::{ActionDirectory, WorkerDirectories};

mod action_network;
mod advice;
mod bubblewrap;
mod launcher;
mod launcher_pool;
mod launcher_program;
mod mount_points;
mod name_servers;
mod usage_meter;

use action_network::ActionNetwork;
use bubblewrap::HostFileSystem;
use launcher::failed;
use launcher_pool::LauncherPool;
pub use launcher_program::EXECUTABLE as LAUNCHER_EXECUTABLE;
use launcher_program::LauncherProgram;

pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_HOME: &str = "/tmp";

/// Runs commands in sandboxes.
#[derive(Debug)]
pub struct Sandbox {
    directories: Arc<WorkerDirectories>,
    launchers: LauncherPool,
    bounds: Bounds,
}

/// A command and what it has access to.
#[derive(Debug, Clone, Default)]
pub struct SandboxedCommand {
    /// Lower layers of the tree at /work, uppermost first, relative to the worker's directory. Without any the tree is
    /// the Action's directory `upper` itself.
    pub lower: Vec<String>,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// Environment. `PATH` and `HOME` are added if it does not set them, and nothing else but `PWD`.
    pub environment: Vec<(String, String)>,
    /// Directory that it starts in, relative to the tree.
    pub working_directory: String,
    /// Gives it a network: this machine's or an isolated one, as the worker has.
    pub network: bool,
    /// Allows it to create user namespaces.
    pub user_namespaces: bool,
    /// Root file system that it runs in. `None` for that of this machine.
    pub image_root: Option<Arc<ImageRoot>>,
    /// Makes the tree its root file system, instead of a directory at /work. It has the directories of
    /// [`MOUNTED_IN_INPUT_ROOT`](bitzel_launcher::MOUNTED_IN_INPUT_ROOT).
    pub in_input_root: bool,
}

impl Sandbox {
    /// Prepares sandboxes and runs `true` in one. [`Error::SandboxUnavailable`] names what this machine lacks; there is
    /// no way to run commands without isolation.
    pub async fn open(
        directories: Arc<WorkerDirectories>,
        host_directories: &[PathBuf],
        user_access: Option<UserAccess>,
        bounds: Bounds,
    ) -> Result<Self, Error> {
        let (launchers, means) = {
            let (directories, host_directories) = (Arc::clone(&directories), host_directories.to_vec());
            let bounds = bounds.clone();
            run_blocking(move || {
                let host = HostFileSystem::find(&directories, &host_directories, user_access.as_ref());
                mount_points::create(&directories, UserAccess::home(user_access.as_ref()))?;
                let cgroups = Cgroups::open(&bounds);
                let watched = watched_bounds(&bounds, cgroups.as_deref().ok());
                let means = means(&bounds, &cgroups);
                let program = LauncherProgram::create().map_err(|error| {
                    unavailable(format!("create the sandbox launcher's file in memory: {error}"))
                })?;
                let network = match bounds.network {
                    ActionNetworkSetting::Host => ActionNetwork::Host,
                    _ => ActionNetwork::Isolated,
                };
                let pool = LauncherPool::new(program, directories, host, watched, network, cgroups.ok());
                Ok::<_, Error>((pool, means))
            })
            .await?
        };
        let mut sandbox = Self {
            directories,
            launchers,
            bounds,
        };
        if let Some(reason) = sandbox.obstacle(false).await? {
            return Err(run_blocking(|| unavailable(reason)).await);
        }
        tracing::info!(target: BOUNDS_LOG, "{means}");
        sandbox.check_network().await?;
        Ok(sandbox)
    }

    /// Finds out if this machine can isolate the network of Actions. If not, they use this machine's, unless that is
    /// forbidden.
    async fn check_network(&mut self) -> Result<(), Error> {
        if self.launchers.network() == ActionNetwork::Isolated {
            let obstacle = if run_blocking(action_network::is_installed).await {
                self.obstacle(true).await?
            } else {
                Some(action_network::not_installed())
            };
            if let Some(reason) = obstacle {
                if self.bounds.network == ActionNetworkSetting::Isolated {
                    return Err(Error::SandboxUnavailable {
                        reason: format!("the network of Actions cannot be isolated: {reason}"),
                        advice: action_network::ADVICE.to_owned(),
                    });
                }
                self.launchers.use_host_network();
                action_network::warn_about_host_network(&reason);
            }
        }
        tracing::info!(target: BOUNDS_LOG, "{}", self.network());
        Ok(())
    }

    /// One sentence about the network of Actions, for people.
    pub fn network(&self) -> &'static str {
        match self.launchers.network() {
            ActionNetwork::Isolated => {
                "Actions with network=on have an isolated network, by pasta: they reach neither loopback of this machine \
                 nor link-local addresses"
            }
            ActionNetwork::Host => {
                "Actions with network=on use the network of this machine, with its loopback and link-local addresses"
            }
        }
    }

    /// Runs `true` in a sandbox with or without network, and returns the reason if that fails.
    async fn obstacle(&self, network: bool) -> Result<Option<String>, Error> {
        let directories = Arc::clone(&self.directories);
        let directory = run_blocking(move || ActionDirectory::create(&directories)).await?;
        let command = SandboxedCommand {
            lower: vec![directory.relative("lower")],
            arguments: vec!["true".into()],
            network,
            ..SandboxedCommand::default()
        };
        let reason = match self.run(&command, &directory).await {
            Ok(0) => None,
            Ok(code) => Some(format!("`true` ended with code {code} in a sandbox")),
            Err(Error::Sandbox(reason) | Error::Exhausted(reason) | Error::CommandNotStarted(reason)) => {
                Some(reason)
            }
            Err(error) => return Err(error),
        };
        run_blocking(move || directory.remove()).await?;
        Ok(reason)
    }

    /// Runs a command on an overlay in `directory` and returns its exit code: 128 plus the signal's number if a signal
    /// ended it. Standard output and error go to the files `stdout` and `stderr` of the directory, changes of the tree
    /// to the directory `upper`.
    ///
    /// Dropping the future kills all of the command's processes, without waiting for their end; see
    /// [`Sandbox::run_until`].
    async fn run(&self, command: &SandboxedCommand, directory: &ActionDirectory) -> Result<i32, Error> {
        self.run_until(
            command,
            directory,
            std::future::pending(),
            &mut ResourceUsage::default(),
        )
        .await?
        .ok_or(Error::Cancelled)
    }

    /// Like a plain run, but stops early when `stop` is ready: it kills all processes of the sandbox and returns `None`
    /// when the last of them has ended. `usage` gets what the command used.
    pub async fn run_until(
        &self,
        command: &SandboxedCommand,
        directory: &ActionDirectory,
        stop: impl Future<Output = ()>,
        usage: &mut ResourceUsage,
    ) -> Result<Option<i32>, Error> {
        let request = LaunchRequest {
            lower_directories: command.lower.clone(),
            upper_directory: directory.relative("upper"),
            overlay_work_directory: directory.relative("work"),
            command: command.arguments.clone(),
            environment: command.whole_environment(),
            working_directory: command.absolute_working_directory(),
            user_namespaces: command.user_namespaces,
            in_input_root: command.in_input_root,
            stdout: directory.relative("stdout"),
            stderr: directory.relative("stderr"),
        };
        let mut launcher = self
            .launchers
            .take(command.network, command.image_root.as_ref())?;
        let before = launcher.events();
        let mut meter = launcher.meter();
        let watch = async {
            match &mut meter {
                Some(meter) => meter.watch().await,
                None => std::future::pending().await,
            }
        };
        let answer = tokio::select! {
            answer = launcher.launch(&request) => answer,
            never = watch => match never {},
            () = stop => {
                launcher.end().await?;
                return Ok(None);
            }
        };
        if let Some(meter) = &meter {
            *usage = meter.usage();
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(reason) => {
                let killed = launcher.events().cause_of_failure(before, &self.bounds);
                launcher.end().await?;
                // Nothing in a sandbox can end a launcher. The machine may have run out of memory.
                return Err(killed.unwrap_or(Error::Exhausted(reason)));
            }
        };
        usage.disk_bytes = answer.peak_disk_bytes;
        let cause = launcher.events().cause_of_failure(before, &self.bounds);
        let surplus = if answer.reusable {
            self.launchers.put_back(launcher)
        } else {
            Some(launcher)
        };
        if let Some(launcher) = surplus {
            launcher.end().await?;
        }
        match answer.report {
            // A command that succeeds has coped with it.
            LaunchReport::Exited(code) => match cause.filter(|_| code != 0) {
                Some(error) => Err(error),
                None => Ok(Some(code)),
            },
            LaunchReport::BoundReached { bound, used } => {
                Err(Error::BoundReached(self.reached_in_watch(bound, used)))
            }
            LaunchReport::CommandNotStarted(reason) => Err(Error::CommandNotStarted(reason)),
            LaunchReport::Failed { step, reason, errno } => Err(failed(&step, &reason, errno)),
        }
    }

    /// Ends the idle launchers of image roots, so that their layers can be evicted. False if there are none.
    pub async fn release_image_roots(&self) -> Result<bool, Error> {
        let launchers = self.launchers.take_idle_of_image_roots();
        let released = !launchers.is_empty();
        for launcher in launchers {
            launcher.end().await?;
        }
        Ok(released)
    }

    fn reached_in_watch(&self, bound: WatchedBound, used: u64) -> BoundReached {
        let (bound, allowed) = match bound {
            WatchedBound::Memory => (Bound::Memory, self.bounds.memory_bytes),
            WatchedBound::Processes => (Bound::Processes, self.bounds.processes),
            WatchedBound::Disk => (Bound::Disk, self.bounds.disk_bytes),
            WatchedBound::Log => (Bound::LogBytes, self.bounds.log_bytes),
        };
        let used = Some(used);
        BoundReached { bound, used, allowed }
    }
}

/// The bounds that launchers watch: those that no control group enforces.
fn watched_bounds(bounds: &Bounds, cgroups: Option<&Cgroups>) -> WatchedBounds {
    let enforced = cgroups.map(Cgroups::controllers).unwrap_or_default();
    WatchedBounds {
        memory_bytes: (!enforced.memory).then_some(bounds.memory_bytes),
        processes: (!enforced.pids).then_some(bounds.processes),
        disk_bytes: Some(bounds.disk_bytes),
        log_bytes: Some(bounds.log_bytes),
    }
}

/// One line about the bounds of Actions and their means, for the log.
fn means(bounds: &Bounds, cgroups: &Result<Arc<Cgroups>, String>) -> String {
    let enforced = cgroups.as_deref().map(Cgroups::controllers).unwrap_or_default();
    let by = |is_enforced| if is_enforced { "cgroup" } else { "watch" };
    let place = match cgroups {
        Ok(cgroups) => {
            let shared = match (enforced.cpu, enforced.io) {
                (true, true) => "processors and disks",
                (true, false) => "processors, not disks,",
                (false, true) => "disks, not processors,",
                (false, false) => "neither processors nor disks",
            };
            let directory = cgroups.directory().display();
            format!("the cgroups are in {directory} and share {shared} among Actions by weight")
        }
        Err(reason) => format!("no cgroup: {reason}"),
    };
    format!(
        "bounds of each Action: memory {} by {}, processes {} by {}, disk {} and logs {} by watch, input entries {}, \
         inputs {}, output entries {}, outputs {}, time for inputs {}, time in all {}; {place}",
        size(bounds.memory_bytes),
        by(enforced.memory),
        bounds.processes,
        by(enforced.pids),
        size(bounds.disk_bytes),
        size(bounds.log_bytes),
        bounds.input_entries,
        size(bounds.input_bytes),
        bounds.output_entries,
        size(bounds.output_bytes),
        humantime::format_duration(bounds.input_time),
        humantime::format_duration(bounds.total_time),
    )
}

/// An error with advice for this machine. Blocks.
fn unavailable(reason: String) -> Error {
    Error::SandboxUnavailable {
        advice: advice::advice(),
        reason,
    }
}

impl SandboxedCommand {
    fn absolute_working_directory(&self) -> String {
        match (self.in_input_root, self.working_directory.as_str()) {
            (true, relative) => format!("/{relative}"),
            (false, "") => INPUT_ROOT.to_owned(),
            (false, relative) => format!("{INPUT_ROOT}/{relative}"),
        }
    }

    fn whole_environment(&self) -> Vec<(String, String)> {
        let variable = |name: &str, value: String| (name.to_owned(), value);
        let mut environment = vec![
            variable("PATH", DEFAULT_PATH.to_owned()),
            variable("HOME", DEFAULT_HOME.to_owned()),
        ];
        environment.extend_from_slice(&self.environment);
        environment.push(variable("PWD", self.absolute_working_directory()));
        environment
    }
}
