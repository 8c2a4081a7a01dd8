//! Root file systems of the front end's processes.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::error::FrontEndError;

/// Parts of an image root that a sandbox does not take from it: it has its own, or `etc` is taken in parts.
const OWN: [&str; 7] = ["dev", "etc", "proc", "run", "sys", "tmp", "work"];
/// Parts of /etc that say where this network is. They come from this machine.
const NETWORK_ETC: [&str; 2] = ["hosts", "resolv.conf"];
/// Parts of an image root that programs need to run.
const SYSTEM: [&str; 7] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr"];
/// Parts of this machine that a process in an image root has no use for, beside those that it takes from the image.
const NOT_SHOWN: [&str; 7] = ["boot", "dev", "etc", "lost+found", "proc", "run", "sys"];

/// Directories below the user's home that hold keys, and sockets of their agents.
const SECRETS: [&str; 7] = [
    ".aws",
    ".azure",
    ".config/gcloud",
    ".docker",
    ".gnupg",
    ".kube",
    ".ssh",
];

/// Shows an image root as `/`: each of its parts by itself, so that mount points can be made beside them.
pub(super) fn bind_image(command: &mut Command, root: &Path) -> Result<(), FrontEndError> {
    bind_entries(command, root, Path::new("/"), |name| !OWN.contains(&name))?;
    bind_etc(command, root)
}

/// Shows the programs of an image root, and everything else of this machine where it is.
pub(super) fn bind_programs(command: &mut Command, root: &Path) -> Result<(), FrontEndError> {
    bind_entries(command, root, Path::new("/"), |name| SYSTEM.contains(&name))?;
    bind_etc(command, root)?;
    bind_entries(command, Path::new("/"), Path::new("/"), |name| {
        !SYSTEM.contains(&name) && !NOT_SHOWN.contains(&name)
    })
}

/// Hides what the configuration of a build directory never needs: well-known directories with keys, and the sockets and
/// files in /tmp, unless the build directory is there.
pub(super) fn hide_secrets(command: &mut Command, build_directory: &Path, home: Option<&str>) {
    let temporary = Path::new("/tmp");
    let is_below = |path: &Path| path.starts_with(temporary);
    let real = fs::canonicalize(build_directory);
    if !is_below(build_directory) && !real.is_ok_and(|path| is_below(&path)) {
        command.arg("--tmpfs").arg(temporary);
    }
    let Some(home) = home.and_then(|home| fs::canonicalize(home).ok()) else {
        return;
    };
    // Other directories are not this machine's here, see `bind_programs`.
    let is_shown = |home: &Path| {
        let top = home.iter().nth(1).and_then(|name| name.to_str());
        top.is_some_and(|top| !SYSTEM.contains(&top) && !NOT_SHOWN.contains(&top))
    };
    for path in SECRETS.map(|name| home.join(name)) {
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if is_directory && is_shown(&home) {
            command.arg("--tmpfs").arg(path);
        }
    }
}

fn bind_etc(command: &mut Command, root: &Path) -> Result<(), FrontEndError> {
    command.args(["--dir", "/etc"]);
    let etc = root.join("etc");
    // A symlink would lead to the /etc of this machine.
    if fs::symlink_metadata(&etc).is_ok_and(|metadata| metadata.is_dir()) {
        bind_entries(command, &etc, Path::new("/etc"), |name| {
            !NETWORK_ETC.contains(&name)
        })?;
    }
    for name in NETWORK_ETC {
        let path = format!("/etc/{name}");
        command.args(["--ro-bind-try", &path, &path]);
    }
    Ok(())
}

/// Shows those entries of a directory at `target` that are wanted. Symlinks are made again and not followed.
fn bind_entries(
    command: &mut Command,
    source: &Path,
    target: &Path,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<(), FrontEndError> {
    let mut entries: Vec<(OsString, PathBuf)> = vec![];
    for entry in fs::read_dir(source).map_err(FrontEndError::io(source))? {
        let entry = entry.map_err(FrontEndError::io(source))?;
        entries.push((entry.file_name(), entry.path()));
    }
    entries.sort();
    for (name, path) in entries {
        if !name.to_str().is_some_and(&is_wanted) {
            continue;
        }
        match fs::read_link(&path) {
            Ok(link) => command.arg("--symlink").arg(link),
            Err(_) => command.arg("--ro-bind").arg(path),
        };
        command.arg(target.join(name));
    }
    Ok(())
}
