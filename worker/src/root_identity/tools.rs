//! Tools that commands find in a root file system.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
pub(super) fn find(has_packages: bool) -> Vec<Tool> {
    let found = NAMES.into_iter().filter_map(|name| {
        let found = DEFAULT_PATH
            .split(':')
            .map(|directory| Path::new(directory).join(name));
        let found = found.into_iter().find(|path| path.is_file())?;
        let path = found.canonicalize().ok()?;
        let version = (!has_packages || !is_packaged(&path))
            .then(|| version(&found))
            .flatten();
        Some(Tool { name, path, version })
    });
    found.collect()
}

fn is_packaged(path: &Path) -> bool {
    PACKAGED.iter().any(|directory| path.starts_with(directory)) && !path.starts_with(NOT_PACKAGED)
}

/// The first lines that a tool prints for `--version`.
fn version(tool: &Path) -> Option<String> {
    let output = Command::new(tool)
        .arg("--version")
        .env_clear()
        .envs([("PATH", DEFAULT_PATH), ("LC_ALL", "C")])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let printed = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    let text = String::from_utf8_lossy(&printed);
    let lines: Vec<&str> = text.lines().map(str::trim).take(VERSION_LINES).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
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
        let python = tool(find(false), "python3");
        assert!(python.version.unwrap().starts_with("Python 3."));
        assert!(tool(find(false), "ldd").has_version());
        assert!(
            !tool(find(true), "ldd").has_version(),
            "its package has the version"
        );
    }
}
