//! Options of `bitzel build`, `bitzel graph` and `bitzel log`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::remote::RemoteArguments;
use crate::bounds::BoundSettings;

/// BitBake and its metadata.
#[derive(Debug, Args)]
pub(crate) struct MetadataArguments {
    /// Initialised BitBake build directory, with conf/bblayers.conf and conf/local.conf
    #[arg(long, value_name = "DIR", default_value = ".", env = "BUILDDIR")]
    pub(crate) build_dir: PathBuf,

    /// BitBake checkout, or any directory with lib/bb [default: the bitbake in PATH, or the installed bb package]
    #[arg(long, value_name = "DIR", env = "BITBAKEDIR")]
    pub(crate) bitbake: Option<PathBuf>,

    /// Parse and run tasks in this root file system: a name of `bitzel root list`, a digest, or host for the machine's own
    /// [default: that of the file bitzel-root in the build directory, its conf or its parent, else host]
    #[arg(long, value_name = "ROOT", env = "BITZEL_ROOT")]
    pub(crate) root: Option<String>,
}

/// Targets of a build.
#[derive(Debug, Args)]
pub(crate) struct TargetArguments {
    /// Recipes, or names that recipes provide; TARGET:do_TASK for one task, mc:CONFIG:TARGET for a multiconfig
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<String>,

    /// Task to run for each target [default: BB_DEFAULT_TASK, usually build]
    #[arg(short = 'c', long = "cmd", value_name = "TASK")]
    pub(crate) task: Option<String>,

    /// Run this task for every recipe in the targets' graph that has it; can be repeated
    #[arg(long = "runall", value_name = "TASK")]
    pub(crate) run_all: Vec<String>,

    /// Run only this task of the targets' graph and the tasks that it needs; can be repeated
    #[arg(long = "runonly", value_name = "TASK")]
    pub(crate) run_only: Vec<String>,

    /// Run the targets' tasks even if the cache has results
    #[arg(short = 'f', long)]
    pub(crate) force: bool,

    /// Run this task of the targets even if the cache has a result, and then the rest of the targets' tasks
    #[arg(short = 'C', long = "clear-stamp", value_name = "TASK")]
    pub(crate) clear_stamp: Option<String>,
}

impl TargetArguments {
    /// The targets for people, with the task if one is named.
    pub(crate) fn names(&self) -> Vec<String> {
        let with_task = |target: &String| match &self.task {
            Some(task) => format!("{target} -c {task}"),
            None => target.clone(),
        };
        self.targets.iter().map(with_task).collect()
    }
}

/// Requests that BitBake's own program answers. It runs no task.
#[derive(Debug, Args)]
pub(crate) struct BitBakeArguments {
    /// Print the variables of the configuration, or of one target, as `bitbake -e` does
    #[arg(short = 'e', long, conflicts_with_all = ["graphviz", "dump_signatures"])]
    pub(crate) environment: bool,

    /// Write the targets' graph as task-depends.dot and pn-buildlist, as `bitbake -g` does
    #[arg(short = 'g', long, conflicts_with = "dump_signatures")]
    pub(crate) graphviz: bool,

    /// Write the signatures of the targets' tasks, as `bitbake -S` does: none, or printdiff to compare with older ones
    #[arg(short = 'S', long, value_name = "HANDLER")]
    pub(crate) dump_signatures: Vec<String>,
}

/// Place where tasks that fetch sources run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FetchPlace {
    /// On the workers.
    Worker,
    /// On this machine.
    Client,
}

#[derive(Debug, Args)]
#[command(mut_arg("targets", |targets| targets.required(false).required_unless_present("environment")))]
pub(crate) struct BuildArguments {
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    #[command(flatten)]
    pub(crate) bitbake: BitBakeArguments,
    #[command(flatten)]
    pub(crate) metadata: MetadataArguments,
    #[command(flatten)]
    pub(crate) remote: RemoteArguments,

    /// After a failure, continue with all tasks that do not need the failed one
    #[arg(short = 'k', long)]
    pub(crate) keep_going: bool,

    /// Look for the results of all tasks, and say which tasks would run, but run none
    #[arg(short = 'n', long, conflicts_with = "output")]
    pub(crate) dry_run: bool,

    /// Maximum number of concurrent tasks [default: the number of processors; 200 with --remote]
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) jobs: Option<usize>,

    /// Write the targets' results to this directory: deployed files, or the outputs of a task
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,

    /// Hand the build over to the server of --remote and end; `bitzel attach` shows it, and places its output
    #[arg(long, requires = "remote", conflicts_with_all = ["dry_run", "output", "events"])]
    pub(crate) detach: bool,

    /// Run the tasks that fetch sources on the workers, or on this machine with its ssh keys and agent, passwords and
    /// proxies, as bitbake does. The results are shared either way
    #[arg(long, value_name = "PLACE", value_enum, default_value_t = FetchPlace::Worker, env = "BITZEL_FETCH")]
    pub(crate) fetch: FetchPlace,

    /// Write the events of the build to this file, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) bounds: BoundSettings,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArguments {
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    #[command(flatten)]
    pub(crate) metadata: MetadataArguments,

    /// Print the graph as JSON instead of a summary
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogArguments {
    /// Task, for example zlib:do_compile
    #[arg(value_name = "RECIPE:TASK")]
    pub(crate) task: String,
    /// Print control characters as they are: the terminal obeys escape sequences in the log
    #[arg(long)]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) metadata: MetadataArguments,
    #[command(flatten)]
    pub(crate) remote: RemoteArguments,
}
