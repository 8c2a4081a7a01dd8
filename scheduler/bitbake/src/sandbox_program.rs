//! Program in a sandbox that is started after the export, when the export cache is no longer locked.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;

use tokio::process::{Child, Command};

/// Program in a sandbox: a call of bubblewrap with an environment that has nothing but `PATH`.
#[derive(Debug, Clone)]
pub(crate) struct SandboxProgram {
    program: OsString,
    arguments: Vec<OsString>,
    path: Option<OsString>,
}

impl SandboxProgram {
    /// Copies a command.
    pub(crate) fn new(command: &Command) -> Self {
        let command = command.as_std();
        let path = command.get_envs().find(|(name, _)| *name == "PATH");
        Self {
            program: command.get_program().to_owned(),
            arguments: command.get_args().map(ToOwned::to_owned).collect(),
            path: path.and_then(|(_, value)| value).map(ToOwned::to_owned),
        }
    }

    /// Starts the program with one more argument. Its standard input and output are pipes. It ends with its handle.
    pub(crate) fn start(&self, argument: &str) -> io::Result<Child> {
        Command::new(&self.program)
            .args(&self.arguments)
            .arg(argument)
            .env_clear()
            .envs(self.path.as_ref().map(|path| ("PATH", path)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }
}
