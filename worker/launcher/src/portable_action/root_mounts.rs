//! Root file system of a portable Action: parts of the engine's worker or of an image root, read-only, in a file system in
//! memory. bubblewrap makes it on workers of bitzel; a worker of another engine may not have it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use bitzel_launcher::INPUT_ROOT;
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{
    MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

use crate::failure::{Failure, InStep as _};

/// Parts of /etc that tools need, as on workers of bitzel (`worker/src/sandbox/bubblewrap.rs`).
const ETC: [&str; 13] = [
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "ssl/certs",
    "ssl/cert.pem",
    "ssl/openssl.cnf",
    "ca-certificates",
    "ca-certificates.conf",
    "pki/ca-trust",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
];
/// Parts of /etc that name resolution needs in addition.
const NETWORK_ETC: [&str; 6] = [
    "hosts",
    "nsswitch.conf",
    "services",
    "protocols",
    "gai.conf",
    "resolv.conf",
];
const ROOT_DIRECTORIES: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      bitzel:x:1000:1000:bitzel:/tmp:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nbitzel:x:1000:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1 localhost bitzel\n::1 localhost bitzel\n";
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
/// Entries of an image root that the sandbox has of its own.
const OWN_DIRECTORIES: [&str; 7] = ["dev", "etc", "proc", "tmp", "var", "work", "run"];
/// Files of /etc that the sandbox has of its own.
const OWN_ETC: [&str; 4] = ["group", "hosts", "passwd", "resolv.conf"];

/// Makes the root in this mount namespace and enters it. `scratch` is at [`INPUT_ROOT`] afterwards, and the working
/// directory. `network` brings the name servers of the engine's worker.
pub(super) fn enter(scratch: &Path, image_root: Option<&Path>, network: bool) -> Result<(), Failure> {
    let new_root = scratch.join("root");
    fs::create_dir(&new_root).in_step("create the directory of the new root")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", &new_root, "tmpfs", flags, c"mode=755").in_step("mount a file system in memory")?;
    let root = RootMounts { new_root: &new_root };
    for name in ["dev", "etc", "proc", "tmp", "var", "work", "run"] {
        fs::create_dir(new_root.join(name)).in_step(format_args!("create /{name}"))?;
    }
    match image_root {
        Some(image_root) => root.show_image(image_root, network),
        None => root.show_machine(network),
    }
    .in_step("show the root file system")?;
    symlink("../tmp", new_root.join("var/tmp")).in_step("create /var/tmp")?;
    root.show_devices().in_step("make /dev")?;
    mount_bind_recursive("/proc", new_root.join("proc")).in_step("show /proc")?;
    let work = new_root.join("work");
    // Without the new root, which is below it.
    mount_bind(scratch, &work).in_step("show the tree")?;
    mount_remount(&work, MountFlags::BIND | flags, "").in_step("show the tree")?;
    root.make_read_only().in_step("make the root read-only")?;
    chdir(&new_root).in_step("enter the new root")?;
    pivot_root(".", ".").in_step("enter the new root")?;
    unmount(".", UnmountFlags::DETACH).in_step("leave the root of the engine's worker")?;
    chdir(INPUT_ROOT).in_step(format_args!("enter {INPUT_ROOT}"))
}

struct RootMounts<'path> {
    new_root: &'path Path,
}

impl RootMounts<'_> {
    /// Shows the parts of the machine's own root that tools need.
    fn show_machine(&self, network: bool) -> io::Result<()> {
        for name in ROOT_DIRECTORIES {
            self.show(&Path::new("/").join(name), name)?;
        }
        for name in ETC {
            self.show(&Path::new("/etc").join(name), format!("etc/{name}"))?;
        }
        self.write_accounts()?;
        if network {
            for name in NETWORK_ETC {
                self.show(&Path::new("/etc").join(name), format!("etc/{name}"))?;
            }
            Ok(())
        } else {
            fs::write(self.new_root.join("etc/hosts"), HOSTS)
        }
    }

    /// Shows an image root, apart from what each sandbox has of its own.
    fn show_image(&self, image_root: &Path, network: bool) -> io::Result<()> {
        self.show_entries(image_root, "", &OWN_DIRECTORIES)?;
        self.show_entries(&image_root.join("etc"), "etc", &OWN_ETC)?;
        self.show_entries(&image_root.join("var"), "var", &["tmp"])?;
        self.show_entries(&image_root.join("run"), "run", &[])?;
        self.write_accounts()?;
        if network {
            self.show(Path::new("/etc/hosts"), "etc/hosts")?;
            return self.show(Path::new("/etc/resolv.conf"), "etc/resolv.conf");
        }
        fs::write(self.new_root.join("etc/hosts"), HOSTS)?;
        fs::write(self.new_root.join("etc/resolv.conf"), "")
    }

    fn write_accounts(&self) -> io::Result<()> {
        fs::write(self.new_root.join("etc/passwd"), PASSWD)?;
        fs::write(self.new_root.join("etc/group"), GROUP)
    }

    /// Shows the entries of a directory under the same names in `target`. Not through a symlink in its place, which would
    /// lead out of the image root.
    fn show_entries(&self, source: &Path, target: &str, own: &[&str]) -> io::Result<()> {
        if !fs::symlink_metadata(source).is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(());
        }
        for entry in fs::read_dir(source)? {
            let name = entry?.file_name();
            if own.iter().any(|own| name == OsStr::new(own)) {
                continue;
            }
            let target = Path::new(target).join(&name);
            self.show(&source.join(&name), target)?;
        }
        Ok(())
    }

    /// Shows a file or a directory of the machine. A symlink is made anew. What does not exist is left out.
    fn show(&self, source: &Path, target: impl AsRef<Path>) -> io::Result<()> {
        let target = self.new_root.join(target);
        let metadata = match fs::symlink_metadata(source) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        // As bubblewrap does: a link in /etc may lead to a directory that the sandbox lacks, such as /run.
        let metadata = if metadata.is_symlink() && source.starts_with("/etc") {
            match fs::metadata(source) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other?,
            }
        } else {
            metadata
        };
        if metadata.is_symlink() {
            return symlink(fs::read_link(source)?, target);
        }
        if metadata.is_dir() {
            fs::create_dir_all(&target)?;
        } else if metadata.is_file() {
            create_mount_point(&target)?;
        } else {
            return Ok(());
        }
        Ok(mount_bind_recursive(source, &target)?)
    }

    fn show_devices(&self) -> io::Result<()> {
        let dev = self.new_root.join("dev");
        for name in DEVICES {
            create_mount_point(&dev.join(name))?;
            mount_bind_recursive(Path::new("/dev").join(name), dev.join(name))?;
        }
        for (target, name) in DEVICE_LINKS {
            symlink(target, dev.join(name))?;
        }
        for name in ["shm", "pts"] {
            fs::create_dir(dev.join(name))?;
        }
        Ok(())
    }

    /// Makes all mounts of the new root read-only, but that of the tree.
    fn make_read_only(&self) -> io::Result<()> {
        let new_root = fs::canonicalize(self.new_root)?;
        let tree = new_root.join("work");
        for point in mount_points()? {
            if !point.starts_with(&new_root) || point.starts_with(&tree) {
                continue;
            }
            // Flags of the engine's worker are locked: without them, the kernel refuses.
            let set = match statvfs(&point) {
                Ok(status) => status.f_flag,
                // Covered by another mount, or not for this user.
                Err(_) => continue,
            };
            let mut flags = MountFlags::BIND | MountFlags::RDONLY;
            flags.set(MountFlags::NOSUID, set.contains(StatVfsMountFlags::NOSUID));
            flags.set(MountFlags::NODEV, set.contains(StatVfsMountFlags::NODEV));
            flags.set(MountFlags::NOEXEC, set.contains(StatVfsMountFlags::NOEXEC));
            flags.set(MountFlags::NOATIME, set.contains(StatVfsMountFlags::NOATIME));
            flags.set(MountFlags::RELATIME, set.contains(StatVfsMountFlags::RELATIME));
            mount_remount(&point, flags, "")?;
        }
        Ok(())
    }
}

fn create_mount_point(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(path)?.set_permissions(fs::Permissions::from_mode(0o444))
}

/// Mount points of this mount namespace.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.map(|point| PathBuf::from(unescaped(point))).collect())
}

/// A path of `mountinfo`, where blanks and some others are octal numbers.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (escape, character)| {
            path.replace(escape, character)
        })
}
