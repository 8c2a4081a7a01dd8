//! Tools that commands find in a root file system.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::Error;
use crate::sandbox::DEFAULT_PATH;

/// Tools whose choice decides results: several packages provide them (`awk`, `cc` and `sh` are links that an
/// administrator can change), or `/usr/local` has another one than the distribution. `ldd` belongs to the libc and
/// prints its version.
const NAMES: [&str; 14] = [
    "ar", "as", "awk", "c++", "cc", "g++", "gcc", "ld", "ldd", "make", "perl", "python3", "sh", "tar",
];

/// Directories of the distribution's packages, and those of one machine below them.
const PACKAGED: [&str; 4] = ["/usr", "/bin", "/sbin", "/lib"];
const NOT_PACKAGED: &str = "/usr/local";

/// Longest time that a tool takes for its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Lines of a version text that count: musl's ldd has the version in the second one.
const VERSION_LINES: usize = 2;

/// A tool, as a command finds it in PATH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tool {
    name: &'static str,
    /// Path without symlinks.
    path: PathBuf,
    /// Version, as the tool prints it. `None` if its package has the version.
    version: Option<String>,
}

impl Tool {
    /// True if the tool named its version.
    pub(super) fn has_version(&self) -> bool {
        self.version.is_some()
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "tool {} {}", self.name, self.path.display())?;
        match &self.version {
            Some(version) => write!(formatter, " {version:?}"),
            None => Ok(()),
        }
    }
}

/// Finds the tools of this machine. `has_packages` is true if the packages of the machine are known: then only tools that
/// belong to none of them are asked for their version. Blocks.
pub(super) fn find(has_packages: bool) -> Result<Vec<Tool>, Error> {
    let mut tools = vec![];
    for name in NAMES {
        let paths = DEFAULT_PATH
            .split(':')
            .map(|directory| Path::new(directory).join(name));
        let is_program = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
        let Some(found) = paths.into_iter().find(is_program) else {
            continue;
        };
        let path = found.canonicalize().map_err(Error::io_at("resolve", &found))?;
        let version = if !has_packages || !is_packaged(&path) {
            version(&found, VERSION_TIMEOUT)?
        } else {
            None
        };
        tools.push(Tool { name, path, version });
    }
    Ok(tools)
}

fn is_packaged(path: &Path) -> bool {
    PACKAGED.iter().any(|directory| path.starts_with(directory)) && !path.starts_with(NOT_PACKAGED)
}

/// The first lines that a tool prints for `--version`; `None` if it prints nothing. A tool that cannot be asked is an
/// error: without its version the identity would be that of another root.
fn version(tool: &Path, timeout: Duration) -> Result<Option<String>, Error> {
    let child = Command::new(tool)
        .arg("--version")
        .env_clear()
        .envs([("PATH", DEFAULT_PATH), ("LC_ALL", "C")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io_at("run", tool))?;
    let output = wait_with_output(child, timeout)
        .map_err(Error::io_at("wait for the answer to `--version` of", tool))?;
    let printed = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    let text = String::from_utf8_lossy(&printed);
    let lines: Vec<&str> = text.lines().map(str::trim).take(VERSION_LINES).collect();
    Ok((!lines.is_empty()).then(|| lines.join("; ")))
}

/// Waits for the end of a process and its output. Kills it after the timeout.
fn wait_with_output(child: Child, timeout: Duration) -> io::Result<Output> {
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let (sender, receiver) = mpsc::channel();
    // Not joined: a process that the tool has started may hold the pipes open for longer.
    thread::spawn(move || sender.send(child.wait_with_output()));
    receiver.recv_timeout(timeout).unwrap_or_else(|_| {
        // It may have ended meanwhile.
        let _ = pidfd_send_signal(&process, Signal::KILL);
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it does not end within {timeout:?}"),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_only_tools_without_a_package() {
        assert!(is_packaged(Path::new("/usr/bin/x86_64-linux-gnu-gcc-12")));
        assert!(!is_packaged(Path::new("/usr/local/bin/gcc")));
        assert!(!is_packaged(Path::new("/opt/gcc/bin/gcc")));
        let tool = |tools: Vec<Tool>, name| tools.into_iter().find(|tool| tool.name == name).unwrap();
        let find = |has_packages| find(has_packages).unwrap();
        let python = tool(find(false), "python3");
        assert!(python.version.unwrap().starts_with("Python 3."));
        assert!(tool(find(false), "ldd").has_version());
        assert!(
            !tool(find(true), "ldd").has_version(),
            "its package has the version"
        );
    }

    /// An executable script. A shell writes it: while this process has a file open for writing, a process that another
    /// test starts may hold it open too, and then the file cannot be executed.
    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("tool");
        let status = Command::new("sh")
            .args(["-c", "printf '%s' \"$1\" > \"$0\"; chmod +x \"$0\""])
            .arg(&path)
            .arg(text)
            .status();
        assert!(status.unwrap().success());
        path
    }

    #[test]
    fn a_tool_that_cannot_be_asked_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let timeout = Duration::from_secs(2);
        let version = |text| version(&script(directory.path(), text), timeout);
        assert_eq!(version("#!/bin/sh\necho 1.0").unwrap().as_deref(), Some("1.0"));
        assert_eq!(version("#!/bin/sh\n").unwrap(), None);
        let error = version("#!/nonexistent/interpreter\n").unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        let error = version("#!/bin/sh\nexec sleep 1000").unwrap_err();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::TimedOut),
            "{error}"
        );
    }
}
