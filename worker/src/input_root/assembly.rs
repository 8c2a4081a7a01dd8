//! Assembly of a directory tree from cached files, by hardlinks or copies. Everything here blocks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use bitzel_cas::DirectoryTree;
use bitzel_proto::Digest;
use bitzel_proto::reapi::{Directory, FileNode};
use parking_lot::Mutex;
use rayon::prelude::*;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, fchmod, fstat, futimens, linkat, mkdirat, open, openat, renameat, symlinkat,
    utimensat,
};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::layer_selection::LayerKey;
use crate::error::Error;
use crate::file_cache::FileKey;
use crate::input_tree::{child_digest, directory_of, subdirectories};
use crate::node_properties::{DEFAULT_MTIME, Mtime, mtime, unix_mode};
use crate::recursion;
use crate::relative_path::join;
use crate::worker_directories::WorkerDirectories;

/// Mode of directories whose node sets none.
pub(crate) const DEFAULT_DIRECTORY_MODE: u32 = 0o755;
/// Number of files of one directory that one task links.
const FILES_PER_TASK: usize = 256;
/// Lock held while a cached file gets a new inode. Two concurrent renewals would each put one in place, and a link to
/// the first would fail when the second replaces it.
static INODE_RENEWAL: Mutex<()> = Mutex::new(());

/// The way in which cached files become files of a tree.
#[derive(Debug, Clone, Copy)]
enum Placement {
    /// By hardlink, for lower layers, to which nothing writes.
    Link,
    /// By copy, for a tree to which a command writes.
    Copy,
}

/// Plan of an assembly: the whole tree, with or without its layers, or one layer with the path to it.
#[derive(Debug)]
pub(super) struct Assembly {
    tree: Arc<DirectoryTree>,
    /// Start of the assembled subtree. Above it a layer has only directories, which the skeleton covers.
    start: LayerKey,
    /// Subtrees that are left out.
    omitted: BTreeSet<LayerKey>,
    placement: Placement,
}

struct AssemblyRun<'run> {
    assembly: &'run Assembly,
    directories: &'run WorkerDirectories,
    /// The directory `files` of the cache.
    files: OwnedFd,
    cancellation: &'run CancellationToken,
}

impl Assembly {
    /// The tree without `layers`. The directories that lead to layers are part of it: it is the uppermost lower layer and
    /// gives them their modes and times.
    pub(super) fn skeleton(tree: &Arc<DirectoryTree>, layers: Vec<LayerKey>) -> Self {
        Self {
            omitted: layers.into_iter().collect(),
            ..Self::layer(Arc::clone(tree), LayerKey::root(tree))
        }
    }

    /// The whole tree, as copies.
    pub(super) fn copy(tree: &Arc<DirectoryTree>) -> Self {
        Self {
            placement: Placement::Copy,
            ..Self::skeleton(tree, vec![])
        }
    }

    /// One subtree at its path.
    pub(super) fn layer(tree: Arc<DirectoryTree>, start: LayerKey) -> Self {
        Self {
            tree,
            start,
            omitted: BTreeSet::new(),
            placement: Placement::Link,
        }
    }

    /// The keys of all files of the assembly, and the number of its directories and symlinks. Ends early with
    /// [`Error::Cancelled`].
    pub(super) fn contents(&self, cancellation: &CancellationToken) -> Result<(Vec<FileKey>, u64), Error> {
        let (mut keys, mut entries) = (vec![], 0);
        let mut pending = vec![self.start.clone()];
        while let Some(key) = pending.pop() {
            if self.omitted.contains(&key) {
                continue;
            }
            if cancellation.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let directory = directory_of(&self.tree, key.digest)?;
            entries += 1 + directory.symlinks.len() as u64;
            for node in &directory.files {
                let path = join(&key.path, &node.name);
                keys.push(FileKey::of_node(key.digest.function(), node, &path)?);
            }
            for (name, digest) in subdirectories(&self.tree, key.digest)? {
                let path = join(&key.path, &name);
                pending.push(LayerKey { path, digest });
            }
        }
        Ok((keys, entries))
    }

    /// Assembles in the directory `top`, which is created if it does not exist. All files have to stay in the cache
    /// meanwhile. Ends early with [`Error::Cancelled`].
    pub(super) fn run(
        &self,
        directories: &WorkerDirectories,
        top: &Path,
        cancellation: &CancellationToken,
    ) -> Result<(), Error> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        fs::create_dir_all(top.join(&self.start.path)).map_err(Error::io_at("create", top))?;
        let files = open(
            directories.cache().join("files"),
            flags | OFlags::PATH,
            Mode::empty(),
        )
        .map_err(Error::io("open the file cache"))?;
        let start =
            open(top.join(&self.start.path), flags, Mode::empty()).map_err(Error::io_at("open", top))?;
        let run = AssemblyRun {
            assembly: self,
            directories,
            files,
            cancellation,
        };
        run.directory(&start, &self.start)
    }
}

impl AssemblyRun<'_> {
    fn directory(&self, target: &OwnedFd, key: &LayerKey) -> Result<(), Error> {
        self.check_cancellation()?;
        let tree = &self.assembly.tree;
        let directory = directory_of(tree, key.digest)?;
        directory.files.par_chunks(FILES_PER_TASK).try_for_each(|nodes| {
            self.check_cancellation()?;
            nodes
                .iter()
                .try_for_each(|node| self.file(target, node, &join(&key.path, &node.name), key.digest))
        })?;
        for (number, node) in directory.symlinks.iter().enumerate() {
            if number % FILES_PER_TASK == 0 {
                self.check_cancellation()?;
            }
            let failed = |error| Error::io(format!("link {}", join(&key.path, &node.name)))(error);
            symlinkat(node.target.as_str(), target, node.name.as_str()).map_err(failed)?;
            let time = mtime(node.node_properties.as_ref()).unwrap_or(DEFAULT_MTIME);
            utimensat(
                target,
                node.name.as_str(),
                &time.timestamps(),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(failed)?;
        }
        directory.directories.par_iter().try_for_each(|node| {
            let digest = child_digest(key.digest.function(), node)?;
            let child = LayerKey {
                path: join(&key.path, &node.name),
                digest,
            };
            if self.assembly.omitted.contains(&child) {
                return Ok(());
            }
            let failed = |error| Error::io(format!("create {}", child.path))(error);
            mkdirat(target, node.name.as_str(), Mode::RWXU).map_err(failed)?;
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = openat(target, node.name.as_str(), flags, Mode::empty()).map_err(failed)?;
            recursion::descend(|| self.directory(&opened, &child))
        })?;
        // Last, because everything above changes the modification time and may need write permission.
        set_attributes(target, directory)
            .map_err(|error| Error::io(format!("set mode and time of {}", key.path))(error))
    }

    fn check_cancellation(&self) -> Result<(), Error> {
        if self.cancellation.is_cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    fn file(&self, target: &OwnedFd, node: &FileNode, path: &str, parent: Digest) -> Result<(), Error> {
        let key = FileKey::of_node(parent.function(), node, path)?;
        let source = key.to_string();
        let (placed, operation) = match self.assembly.placement {
            Placement::Link => (self.link(&source, target, &node.name), "link"),
            Placement::Copy => (self.copy(&source, target, &node.name), "copy"),
        };
        placed.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::LostFile(key),
            _ => Error::io(format!("{operation} files/{source} to {path}"))(error),
        })
    }

    fn link(&self, source: &str, target: &OwnedFd, name: &str) -> io::Result<()> {
        let link = || linkat(&self.files, source, target, name, AtFlags::empty());
        match link() {
            Err(Errno::MLINK) => {
                let _renewal = INODE_RENEWAL.lock();
                match link() {
                    Err(Errno::MLINK) => self.renew(source).and_then(|()| Ok(link()?)),
                    other => Ok(other?),
                }
            }
            other => Ok(other?),
        }
    }

    fn copy(&self, source: &str, target: &OwnedFd, name: &str) -> io::Result<()> {
        let old = openat(
            &self.files,
            source,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let _guard = self.directories.executable_write_guard();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let new = openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
        copy_file(&mut old.into(), &mut new.into())
    }

    /// Gives a cached file a new inode, because the old one has as many links as the file system allows (65,000 on ext4).
    /// Earlier links keep the old one. The caller holds [`INODE_RENEWAL`].
    fn renew(&self, source: &str) -> io::Result<()> {
        let old_path = self.directories.cache().join("files").join(source);
        let path = self
            .directories
            .cache()
            .join(self.directories.fresh_path("temporary"));
        let mut old = match File::open(&old_path) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                // Its mode does not let the worker read it. The Action fetches it again.
                fs::remove_file(&old_path)?;
                return Err(ErrorKind::NotFound.into());
            }
            other => other?,
        };
        copy_file(&mut old, &mut File::create_new(&path)?)?;
        renameat(CWD, &path, CWD, &old_path)?;
        Ok(())
    }
}

/// Copies content, mode and modification time.
fn copy_file(old: &mut File, new: &mut File) -> io::Result<()> {
    let metadata = fstat(&*old)?;
    io::copy(old, new)?;
    fchmod(&*new, Mode::from_raw_mode(metadata.st_mode))?;
    futimens(&*new, &Mtime::of_file(&metadata).timestamps())?;
    Ok(())
}

/// Sets the mode and the modification time of a directory to those of its node.
pub(crate) fn set_attributes(target: impl AsFd, directory: &Directory) -> io::Result<()> {
    let properties = directory.node_properties.as_ref();
    let mode = unix_mode(properties).unwrap_or(DEFAULT_DIRECTORY_MODE);
    fchmod(&target, Mode::from_raw_mode(mode))?;
    futimens(&target, &mtime(properties).unwrap_or(DEFAULT_MTIME).timestamps())?;
    Ok(())
}
