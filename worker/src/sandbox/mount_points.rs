//! Mount points and own files of sandboxes in image roots.
//!
//! An image root may lack them, or have symlinks in their place that lead out of it. So this layer lies above each image
//! root: what is a directory here is one in the sandbox, whatever the image has under that name.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, utimensat};

use super::bubblewrap::{GROUP, HOSTS, passwd};
use crate::error::Error;
use crate::node_properties::DEFAULT_MTIME;
use crate::worker_directories::{MOUNT_POINTS, WorkerDirectories};

const DIRECTORIES: [&str; 7] = ["dev", "etc", "proc", "run", "tmp", "var", "work"];

/// Creates the layer. It is removed with all others when the next worker opens the directories. Blocks.
pub(super) fn create(directories: &WorkerDirectories, home: &str) -> Result<(), Error> {
    let layer = directories.cache().join(MOUNT_POINTS);
    create_in(&layer, home).map_err(Error::io_at("create", &layer))
}

fn create_in(layer: &Path, home: &str) -> io::Result<()> {
    fs::create_dir(layer)?;
    for name in DIRECTORIES {
        fs::create_dir(layer.join(name))?;
    }
    let passwd = passwd(home);
    let files = [
        ("etc/group", GROUP),
        ("etc/hosts", HOSTS),
        ("etc/passwd", passwd.as_str()),
        ("etc/resolv.conf", ""),
    ];
    for (name, content) in files {
        fs::write(layer.join(name), content)?;
        finish(&layer.join(name), 0o644)?;
    }
    symlink("../tmp", layer.join("var/tmp"))?;
    for name in DIRECTORIES {
        finish(&layer.join(name), 0o755)?;
    }
    finish(layer, 0o755)
}

/// Sets mode and time, so that they are the same on every worker.
fn finish(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    utimensat(CWD, path, &DEFAULT_MTIME.timestamps(), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}
