//! Copy of the tree of a portable Action, with the attributes of the request.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use bitzel_launcher::portable::{Attributes, DirectoryAttributes, Time};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, futimens, utimensat};

use crate::failure::{Failure, InStep as _};

/// The modification time of nodes that set none: 2000-01-01, as on workers of bitzel.
const DEFAULT_MTIME: Time = (946_684_800, 0);
const DEFAULT_DIRECTORY_MODE: u32 = 0o755;
/// Name of the scratch space in the directory of the Action, or in the directory of temporary files.
const SCRATCH: &str = "bitzel-scratch";
/// Mode and time by which a file system is tried out.
const TRIED_ATTRIBUTES: (u32, Time) = (0o604, (1_000_000_000, 0));

/// Directory of the launcher that the command's tree and logs lie in.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Creates it beside the tree, or, if the engine's file system there keeps neither modes nor times, in `/tmp`.
    pub(super) fn create() -> Result<Self, Failure> {
        let here = PathBuf::from(SCRATCH);
        if fs::create_dir(&here).is_ok() {
            if keeps_attributes(&here).unwrap_or(false) {
                return Ok(Self(here));
            }
            let _ = fs::remove_dir_all(&here);
        }
        let temporary = std::env::temp_dir().join(format!("{SCRATCH}-{}", std::process::id()));
        let step = format_args!("create {}", temporary.display());
        fs::create_dir(&temporary).in_step(step)?;
        if keeps_attributes(&temporary).in_step(step)? {
            return Ok(Self(temporary));
        }
        let _ = fs::remove_dir_all(&temporary);
        Err(Failure::new(
            step,
            "neither the directory of the Action nor that of temporary files keeps modes and times of files",
        ))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it. Engines remove their own directories, so an error concerns nobody.
    pub(super) fn remove(self) {
        let _ = fs::remove_dir_all(self.0);
    }
}

/// True if files in a directory keep their modes and times.
fn keeps_attributes(directory: &Path) -> io::Result<bool> {
    let path = directory.join("tried");
    let (mode, mtime) = TRIED_ATTRIBUTES;
    let file = File::create_new(&path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    futimens(&file, &timestamps(mtime))?;
    let metadata = fs::symlink_metadata(&path)?;
    fs::remove_file(&path)?;
    Ok(metadata.mode() & 0o7777 == mode && metadata.mtime() == mtime.0)
}

/// Copies the tree `source` to `target`, which does not exist.
pub(super) fn stage(
    directories: &[DirectoryAttributes],
    source: &Path,
    target: &Path,
) -> Result<(), Failure> {
    let attributes = directories
        .iter()
        .map(|directory| (directory.path.as_str(), directory));
    let mut staging = Staging {
        source,
        target,
        attributes: attributes.collect(),
        first_of_group: HashMap::new(),
    };
    staging.directory("")
}

struct Staging<'request> {
    source: &'request Path,
    target: &'request Path,
    attributes: HashMap<&'request str, &'request DirectoryAttributes>,
    /// The first copied file of each hardlink group.
    first_of_group: HashMap<&'request str, PathBuf>,
}

impl<'request> Staging<'request> {
    fn directory(&mut self, path: &str) -> Result<(), Failure> {
        let step = |what: &str, path: &str| format!("{what} {path:?} of the input root");
        let (source, target) = (self.source.join(path), self.target.join(path));
        fs::create_dir(&target).in_step(step("copy", path))?;
        let attributes = self.attributes.get(path).copied();
        let files: HashMap<&str, &'request Attributes> = attributes
            .iter()
            .flat_map(|directory| &directory.files)
            .map(|(name, attributes)| (name.as_str(), attributes))
            .collect();
        let symlinks: HashMap<&str, Time> = attributes
            .iter()
            .flat_map(|directory| &directory.symlinks)
            .map(|(name, mtime)| (name.as_str(), *mtime))
            .collect();
        for entry in fs::read_dir(&source).in_step(step("read", path))? {
            let entry = entry.in_step(step("read", path))?;
            let Ok(name) = entry.file_name().into_string() else {
                return Err(Failure::new(step("read", path), "a name is not UTF-8"));
            };
            let child = join(path, &name);
            let kind = entry.file_type().in_step(step("read", &child))?;
            if kind.is_dir() {
                self.directory(&child)?;
                continue;
            }
            let to = self.target.join(&child);
            if kind.is_symlink() {
                let mtime = symlinks.get(name.as_str()).copied().unwrap_or(DEFAULT_MTIME);
                copy_symlink(&entry.path(), &to, mtime).in_step(step("copy", &child))?;
                continue;
            }
            let attributes = files.get(name.as_str()).copied();
            self.file(&entry.path(), &to, attributes)
                .in_step(step("copy", &child))?;
        }
        let attributes = attributes.map(|directory| &directory.attributes);
        let mode = attributes.and_then(|attributes| attributes.mode);
        let mtime = attributes.and_then(|attributes| attributes.mtime);
        // Last, because everything above changes the modification time and may need write permission.
        set_attributes(
            &File::open(&target).in_step(step("open", path))?,
            mode.unwrap_or(DEFAULT_DIRECTORY_MODE),
            mtime.unwrap_or(DEFAULT_MTIME),
        )
        .in_step(step("set mode and time of", path))
    }

    fn file(&mut self, from: &Path, to: &Path, attributes: Option<&'request Attributes>) -> io::Result<()> {
        let group = attributes.and_then(|attributes| attributes.group.as_deref());
        if let Some(first) = group.and_then(|group| self.first_of_group.get(group)) {
            return fs::hard_link(first, to);
        }
        let mut source = File::open(from)?;
        let mut target = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(to)?;
        let is_executable = source.metadata()?.mode() & 0o100 != 0;
        // The kernel copies, and shares the blocks where the file system can.
        io::copy(&mut source, &mut target)?;
        let default = if is_executable { 0o555 } else { 0o444 };
        let mode = attributes.and_then(|attributes| attributes.mode);
        let mtime = attributes.and_then(|attributes| attributes.mtime);
        set_attributes(&target, mode.unwrap_or(default), mtime.unwrap_or(DEFAULT_MTIME))?;
        if let Some(group) = group {
            self.first_of_group.insert(group, to.to_owned());
        }
        Ok(())
    }
}

fn set_attributes(file: &File, mode: u32, mtime: Time) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    Ok(futimens(file, &timestamps(mtime))?)
}

fn copy_symlink(from: &Path, to: &Path, mtime: Time) -> io::Result<()> {
    symlink(fs::read_link(from)?, to)?;
    Ok(utimensat(CWD, to, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn timestamps((seconds, nanos): Time) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Creates the parents of outputs that do not exist, as the specification requires.
pub(super) fn create_output_parents(tree: &Path, outputs: &[String]) -> io::Result<()> {
    for output in outputs {
        if let Some(parent) = Path::new(output).parent() {
            fs::create_dir_all(tree.join(parent))?;
        }
    }
    Ok(())
}

/// State of a node. No command can set the time of the last change of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    changed: (i64, i64),
    pub(super) mode: u32,
}

/// Stamps of all nodes of a tree, by path relative to it.
pub(super) type Snapshot = HashMap<String, Stamp>;

pub(super) fn stamp(metadata: &fs::Metadata) -> Stamp {
    Stamp {
        inode: metadata.ino(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        mode: metadata.mode(),
    }
}

/// Stamps of all nodes below a directory, and of itself.
pub(super) fn snapshot(tree: &Path) -> io::Result<Snapshot> {
    let mut stamps = HashMap::from([(String::new(), stamp(&fs::symlink_metadata(tree)?))]);
    let mut pending = vec![String::new()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(tree.join(&path))? {
            let entry = entry?;
            let child = join(&path, &entry.file_name().to_string_lossy());
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                pending.push(child.clone());
            }
            stamps.insert(child, stamp(&metadata));
        }
    }
    Ok(stamps)
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}
