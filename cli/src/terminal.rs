//! Executions of tasks that open a terminal (`-c devshell`, `-c menuconfig`): on this machine, in the terminal of the user.
//!
//! A task gets the input root that any worker would give it, as a directory of its own that is mounted at `/work`. Its
//! result belongs to nobody else: nothing is recorded. Files that it has changed in the recipe's private trees are copied
//! to the build directory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Component, Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_cas::BlobStore;
use bitzel_cas::blob_store::read_whole;
use bitzel_cas::blocking::run_blocking;
use bitzel_graph::output::place_tree;
use bitzel_graph::plan::private_tree::private_directories;
use bitzel_graph::plan::task_action::may_use_network;
use bitzel_graph::plan::task_index::TaskIndex;
use bitzel_graph::walk::{ExecutionRequest, Executions};
use bitzel_proto::Digest;
use bitzel_proto::google;
use bitzel_proto::reapi::{Action, ActionResult, Command, ExecuteResponse};
use prost::Message;
use tokio::process;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tonic::{Code, Status};

use crate::command_error::CommandError;
use crate::visible_text::visible;

mod changed_files;

use changed_files::FileStates;

/// Variable that tells the runner the type of the terminal (see runner/terminal.py).
const TERMINAL_TYPE: &str = "BITZEL_TERMINAL";
/// Type of a terminal that does not name its own.
const DEFAULT_TERMINAL_TYPE: &str = "dumb";
/// Directory in the build directory for changed files, with one directory for each recipe.
const CHANGES_DIRECTORY: &str = "bitzel-changes";

/// A task that opens a terminal.
#[derive(Debug)]
struct InteractiveTask {
    package_name: String,
    network: bool,
    /// Relative to /work.
    work_directory: String,
    log_directory: String,
    private_directories: Vec<String>,
}

/// Executes interactive tasks in this process's terminal, one at a time, and all others by other executions.
pub(crate) struct TerminalExecutions {
    others: Arc<dyn Executions>,
    store: Arc<dyn BlobStore>,
    build_directory: PathBuf,
    /// By the names that people see.
    interactive: BTreeMap<String, InteractiveTask>,
    terminal: Mutex<()>,
}

/// True if a task of the graph opens a terminal.
pub(crate) fn has_interactive_tasks(index: &TaskIndex) -> bool {
    index.tasks().any(|task| index.task(task).interactive)
}

/// Fails unless this process has a terminal.
pub(crate) fn check_terminal() -> Result<(), CommandError> {
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        return Ok(());
    }
    Err(
        CommandError::new("this task opens a terminal, and standard input or output is none")
            .hint("run the command in a terminal, without a pipe"),
    )
}

impl TerminalExecutions {
    /// Creates executions for the graph of `index`.
    pub(crate) fn new(
        index: &TaskIndex,
        others: Arc<dyn Executions>,
        store: Arc<dyn BlobStore>,
        build_directory: &Path,
    ) -> Self {
        let interactive = index.tasks().filter(|task| index.task(*task).interactive);
        let interactive = interactive.map(|task| {
            let recipe = index.recipe(task);
            let task_of_terminal = InteractiveTask {
                package_name: recipe.package_name.clone(),
                network: may_use_network(index.task(task)),
                work_directory: recipe.work_directory.clone(),
                log_directory: recipe.log_directory.clone(),
                private_directories: private_directories(recipe).map(str::to_owned).collect(),
            };
            (index.display_name(task), task_of_terminal)
        });
        Self {
            interactive: interactive.collect(),
            others,
            store,
            build_directory: build_directory.to_owned(),
            terminal: Mutex::default(),
        }
    }

    /// Runs a task in the terminal and returns its exit code.
    async fn run(&self, name: &str, task: &InteractiveTask, action: Digest) -> Result<i32, CommandError> {
        let action: Action = self.message(action).await?;
        let digest = |wire| Digest::from_wire_field(action_function(), wire);
        let command: Command = self.message(digest(action.command_digest.as_ref())?).await?;
        let root = digest(action.input_root_digest.as_ref())?;
        let destination = self.changes_directory(&task.package_name)?;
        let place = tempfile::Builder::new().prefix("bitzel-terminal-").tempdir()?;
        let work = place.path().join("work");
        place_tree(&*self.store, name, root, &work).await?;
        let (root, trees) = (work.clone(), task.private_directories.clone());
        run_blocking(move || changed_files::make_writable(&root, &trees)).await?;
        let before = self.states(task, &work).await?;
        let mut hang_ups = signal(SignalKind::hangup())?;
        let status = tokio::select! {
            status = run_in_terminal(&command, task, &work) => status?,
            _ = hang_ups.recv() => return Err(CommandError::new("the terminal was closed")),
        };
        let after = self.states(task, &work).await?;
        let prefix = task.work_directory.clone();
        let changes = run_blocking(move || after.copy_changes(&before, &prefix, &destination)).await?;
        let mut out = io::stdout().lock();
        for change in changes {
            writeln!(out, "{}", visible(&change))?;
        }
        Ok(status.code().unwrap_or(1))
    }

    /// Directory for the changed files of a recipe, whose name the metadata has chosen.
    fn changes_directory(&self, package_name: &str) -> Result<PathBuf, CommandError> {
        let mut components = Path::new(package_name).components();
        if let (Some(Component::Normal(name)), None) = (components.next(), components.next()) {
            return Ok(self.build_directory.join(CHANGES_DIRECTORY).join(name));
        }
        let shown = visible(package_name);
        Err(CommandError::new(format!(
            "the recipe's name {shown:?} is no file name, so its changed files have no place"
        )))
    }

    async fn message<M: Message + Default>(&self, digest: Digest) -> Result<M, CommandError> {
        Ok(M::decode(read_whole(&*self.store, digest).await?)?)
    }

    async fn states(&self, task: &InteractiveTask, work: &Path) -> io::Result<FileStates> {
        let excluded = vec![work.join(&task.log_directory)];
        let trees = task.private_directories.clone();
        let work = work.to_owned();
        run_blocking(move || FileStates::read(&work, &trees, &excluded)).await
    }
}

/// Digest function of the graph's Actions.
fn action_function() -> bitzel_proto::DigestFunction {
    bitzel_graph::plan::tree::DIGEST_FUNCTION
}

/// Runs a Command on the tree at `work`. The program `script` gives it a terminal of its own and passes everything
/// through: a task that had the user's own could type commands into it.
async fn run_in_terminal(
    command: &Command,
    task: &InteractiveTask,
    work: &Path,
) -> Result<ExitStatus, CommandError> {
    let terminal_type = std::env::var("TERM").unwrap_or_else(|_| DEFAULT_TERMINAL_TYPE.to_owned());
    let mut sandbox: Vec<OsString> = ["bwrap", "--unshare-user", "--uid", "1000", "--gid", "1000"]
        .into_iter()
        .chain([
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--hostname",
            "bitzel",
        ])
        .chain((!task.network).then_some("--unshare-net"))
        .chain(["--die-with-parent", "--ro-bind", "/usr", "/usr"])
        .chain(["--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"])
        .chain([
            "--symlink",
            "usr/lib64",
            "/lib64",
            "--symlink",
            "usr/sbin",
            "/sbin",
        ])
        .chain([
            "--ro-bind",
            "/etc",
            "/etc",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
        ])
        .map(OsString::from)
        .collect();
    sandbox.extend(["--bind".into(), work.into(), "/work".into()]);
    sandbox.extend(["--chdir", "/work", "--clearenv"].map(OsString::from));
    let variables = command.environment_variables.iter();
    let variables = variables.map(|variable| (variable.name.as_str(), variable.value.as_str()));
    for (name, value) in variables.chain([(TERMINAL_TYPE, terminal_type.as_str())]) {
        sandbox.extend(["--setenv", name, value].map(OsString::from));
    }
    sandbox.push("--".into());
    sandbox.extend(command.arguments.iter().map(OsString::from));
    let mut line = OsString::from("exec");
    for argument in &sandbox {
        line.push(" ");
        line.push(quoted(argument));
    }
    process::Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(line)
        .arg("/dev/null")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::inherit())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| {
            CommandError::from(error)
                .context("cannot run `script`")
                .hint("install util-linux (Debian: apt install bsdutils; Fedora: util-linux-script)")
        })
}

/// Argument for a shell.
fn quoted(argument: &OsString) -> OsString {
    let text = argument.to_string_lossy().replace('\'', r"'\''");
    format!("'{text}'").into()
}

#[async_trait]
impl Executions for TerminalExecutions {
    async fn execute(&self, request: ExecutionRequest<'_>) -> Result<ExecuteResponse, Status> {
        let Some(task) = self.interactive.get(request.task) else {
            return self.others.execute(request).await;
        };
        let _turn = self.terminal.lock().await;
        let exit_code = self
            .run(request.task, task, request.action)
            .await
            .map_err(|error| Status::new(Code::FailedPrecondition, error.to_string()))?;
        Ok(ExecuteResponse {
            result: Some(ActionResult {
                exit_code,
                ..ActionResult::default()
            }),
            status: Some(google::rpc::Status::default()),
            ..ExecuteResponse::default()
        })
    }
}
