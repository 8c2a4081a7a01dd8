//! Sandbox of the exporter.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::{Exporter, root};
use crate::environment;
use crate::error::FrontEndError;
use crate::layers::{ExternalSource, LayerGroup};

impl Exporter<'_> {
    /// Creates the call of bubblewrap for the export. The network stays, because metadata may ask upstream for revisions
    /// while it is parsed.
    ///
    /// Metadata can write to `output`, and to the caches that belong to this build directory, root and layers. Nothing else
    /// believes those.
    pub(super) fn sandbox(
        &self,
        output: &Path,
        groups: &[LayerGroup],
        external: &[ExternalSource],
    ) -> Result<Command, FrontEndError> {
        let mut command = self.metadata_sandbox(groups, external)?;
        let mut bind = |kind: &str, source: &Path, sandbox_path: &str| {
            command.arg(kind).arg(source).arg(format!("/work/{sandbox_path}"));
        };
        bind("--bind", &self.cache.bitbake_cache(), "build/cache");
        bind("--bind", &self.cache.recipes(), "recipes");
        bind("--bind", output, "out");
        bind("--ro-bind", &self.cache.snapshots(), "known");
        command.args(["--dir", "/work/downloads", "--dir", "/work/build/tmp"]);
        command.args(["--chdir", "/work/build"]);
        command.args(["/usr/bin/python3", "/work/exporter/export.py"]);
        command.arg("/work/out/request.json");
        Ok(command)
    }

    /// Creates the call of bubblewrap, up to the program, of a process that needs the metadata at the paths of tasks, with the
    /// environment that `BitBake` gets.
    pub(super) fn metadata_sandbox(
        &self,
        groups: &[LayerGroup],
        external: &[ExternalSource],
    ) -> Result<Command, FrontEndError> {
        let mut command = self.base_sandbox(groups, external)?;
        for (name, value) in environment::passed_through(&self.config.environment) {
            command.args(["--setenv", &name, &value]);
        }
        Ok(command)
    }

    /// Creates the call of bubblewrap for a program that reads the layers, `BitBake` and the configuration, and writes
    /// nothing.
    pub(super) fn base_sandbox(
        &self,
        groups: &[LayerGroup],
        external: &[ExternalSource],
    ) -> Result<Command, FrontEndError> {
        let mut command = Command::new(&self.config.bubblewrap);
        command.args(["--unshare-user", "--uid", "1000", "--gid", "1000"]);
        command.args([
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--hostname",
            "bitzel",
        ]);
        command.args(["--die-with-parent", "--new-session"]);
        if let Some(root) = &self.config.root.directory {
            root::bind_image(&mut command, root)?;
        } else {
            command.args(["--ro-bind", "/usr", "/usr"]);
            for name in ["bin", "lib", "lib64", "sbin"] {
                command.args(["--symlink", &format!("usr/{name}"), &format!("/{name}")]);
            }
            command.args(["--ro-bind", "/etc", "/etc"]);
        }
        command.args(["--proc", "/proc", "--dev", "/dev"]);
        command.args(["--tmpfs", "/tmp", "--tmpfs", "/work"]);
        for group in groups {
            for (directory, sandbox_path) in group.directories() {
                command
                    .arg("--ro-bind")
                    .arg(directory)
                    .arg(format!("/work/{sandbox_path}"));
                hide_version_control(&mut command, directory, &sandbox_path);
            }
        }
        for source in external {
            command
                .arg("--ro-bind")
                .arg(&source.path)
                .arg(format!("/work/{}", source.sandbox_path));
            hide_version_control(&mut command, &source.path, &source.sandbox_path);
        }
        let mut bind = |kind: &str, source: &Path, sandbox_path: &str| {
            command.arg(kind).arg(source).arg(format!("/work/{sandbox_path}"));
        };
        for (path, name) in self.modules {
            bind("--ro-bind", path, &format!("bitbake/lib/{name}"));
        }
        bind("--ro-bind", &self.cache.configuration(), "build/conf");
        bind("--ro-bind", &self.python.path("exporter"), "exporter");
        bind("--ro-bind", &self.python.path("runner"), "bitzel");
        command.arg("--clearenv");
        let fixed = [
            ("HOME", "/tmp"),
            ("LANG", "C.UTF-8"),
            ("LC_ALL", "C.UTF-8"),
            ("LOGNAME", "bitzel"),
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("SHELL", "/bin/sh"),
            ("USER", "bitzel"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            // Gives sets of strings one order on every machine, also where metadata does not sort.
            ("PYTHONHASHSEED", "0"),
            (
                "PYTHONPATH",
                "/work/bitbake/lib:/work/exporter:/work/bitzel:/work/bitzel/shims",
            ),
        ];
        for (name, value) in fixed {
            command.args(["--setenv", name, value]);
        }
        // Of the user's environment, bwrap needs only the PATH in which it is found.
        command
            .env_clear()
            .envs(self.config.environment.get_key_value("PATH"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }
}

/// Hides a checkout's history: metadata that records its own revision would give another graph for each commit and
/// each kind of checkout.
fn hide_version_control(command: &mut Command, directory: &Path, sandbox_path: &str) {
    let git = directory.join(".git");
    let hidden = format!("/work/{sandbox_path}/.git");
    if git.is_dir() {
        command.args(["--tmpfs", &hidden]);
    } else if git.exists() {
        command.args(["--ro-bind", "/dev/null", &hidden]);
    }
}
