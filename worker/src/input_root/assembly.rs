//! Makes a directory tree out of cached files, by hardlinks or copies. Everything here blocks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use bitzel_proto::Digest;
use bitzel_proto::reapi::{Directory, FileNode};
use parking_lot::Mutex;
use rayon::prelude::*;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, fchmod, fstat, futimens, linkat, mkdirat, open, openat, renameat, symlinkat,
    utimensat,
};
use rustix::io::Errno;

use super::directory_of;
use super::layer_selection::{LayerKey, children, join};
use crate::error::Error;
use crate::file_cache::FileKey;
use crate::node_properties::{DEFAULT_MTIME, mtime, mtime_of, unix_mode};
use crate::recursion;
use crate::scratch::Scratch;
use bitzel_cas::DirectoryTree;

/// Mode of directories whose node gives none.
pub(crate) const DEFAULT_DIRECTORY_MODE: u32 = 0o755;
/// Files of one directory that one task links.
const FILES_AT_ONCE: usize = 256;
/// Held while a cached file gets a new inode. Two at once would each put one in place, and whoever has just looked up
/// the first would find it without a name when the second replaces it.
static RENEWAL: Mutex<()> = Mutex::new(());

/// How files get from the cache into a tree.
#[derive(Debug, Clone, Copy)]
enum Placing {
    /// For lower layers, which nothing writes to.
    Link,
    /// For a tree that a command writes to.
    Copy,
}

/// What to assemble: the whole tree, with or without its layers, or one layer with the path to it.
#[derive(Debug)]
pub(super) struct Assembly {
    tree: Arc<DirectoryTree>,
    /// Where the tree starts; for a layer, everything above are directories that the skeleton covers.
    start: LayerKey,
    /// Subtrees to leave out.
    omitted: BTreeSet<LayerKey>,
    placing: Placing,
}

struct Linking<'run> {
    assembly: &'run Assembly,
    scratch: &'run Scratch,
    files: OwnedFd,
}

impl Assembly {
    /// The tree without `layers`. The directories that lead to layers are part of it: as the uppermost, it gives them
    /// their modes and times.
    pub(super) fn skeleton(tree: &Arc<DirectoryTree>, layers: Vec<LayerKey>) -> Self {
        Self {
            omitted: layers.into_iter().collect(),
            ..Self::layer(Arc::clone(tree), LayerKey::root(tree))
        }
    }

    /// The whole tree, of copies.
    pub(super) fn copy(tree: &Arc<DirectoryTree>) -> Self {
        Self {
            placing: Placing::Copy,
            ..Self::skeleton(tree, vec![])
        }
    }

    /// One subtree at its path.
    pub(super) fn layer(tree: Arc<DirectoryTree>, start: LayerKey) -> Self {
        Self {
            tree,
            start,
            omitted: BTreeSet::new(),
            placing: Placing::Link,
        }
    }

    /// The keys of all files to link.
    pub(super) fn file_keys(&self) -> Result<Vec<FileKey>, Error> {
        let mut keys = vec![];
        let mut pending = vec![self.start.clone()];
        while let Some(key) = pending.pop() {
            if self.omitted.contains(&key) {
                continue;
            }
            for node in &directory_of(&self.tree, key.digest)?.files {
                let path = join(&key.path, &node.name);
                keys.push(FileKey::of_node(key.digest.function(), node, &path)?);
            }
            for (name, digest) in children(&self.tree, key.digest)? {
                let path = join(&key.path, &name);
                pending.push(LayerKey { path, digest });
            }
        }
        Ok(keys)
    }

    /// Assembles in the directory `top`, which is made if it does not exist. All files are in the cache and stay there
    /// meanwhile.
    pub(super) fn run(&self, scratch: &Scratch, top: &Path) -> Result<(), Error> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let context = |what: &str| format!("{what} {}", top.display());
        fs::create_dir_all(top.join(&self.start.path)).map_err(Error::io(context("create")))?;
        let files = open(scratch.root().join("files"), flags | OFlags::PATH, Mode::empty())
            .map_err(Error::io("open the file cache"))?;
        let start =
            open(top.join(&self.start.path), flags, Mode::empty()).map_err(Error::io(context("open")))?;
        let linking = Linking {
            assembly: self,
            scratch,
            files,
        };
        linking.directory(&start, &self.start)
    }
}

impl Linking<'_> {
    fn directory(&self, target: &OwnedFd, key: &LayerKey) -> Result<(), Error> {
        let tree = &self.assembly.tree;
        let directory = directory_of(tree, key.digest)?;
        let function = key.digest.function();
        directory.files.par_chunks(FILES_AT_ONCE).try_for_each(|nodes| {
            nodes
                .iter()
                .try_for_each(|node| self.file(target, node, &join(&key.path, &node.name), key.digest))
        })?;
        for node in &directory.symlinks {
            let failed = || Error::io(format!("link {}", join(&key.path, &node.name)));
            symlinkat(node.target.as_str(), target, node.name.as_str()).map_err(failed())?;
            let time = mtime(node.node_properties.as_ref()).unwrap_or(DEFAULT_MTIME);
            utimensat(
                target,
                node.name.as_str(),
                &time.timestamps(),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(failed())?;
        }
        directory.directories.par_iter().try_for_each(|node| {
            let digest = Digest::from_wire_field(function, node.digest.as_ref())
                .map_err(Error::digest("DirectoryNode.digest"))?;
            let child = LayerKey {
                path: join(&key.path, &node.name),
                digest,
            };
            if self.assembly.omitted.contains(&child) {
                return Ok(());
            }
            let failed = || Error::io(format!("create {}", child.path));
            mkdirat(target, node.name.as_str(), Mode::RWXU).map_err(failed())?;
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = openat(target, node.name.as_str(), flags, Mode::empty()).map_err(failed())?;
            recursion::level(|| self.directory(&opened, &child))
        })?;
        // Last, because everything above changes the modification time and may need to write.
        restore(target, directory).map_err(Error::io(format!("set mode and time of {}", key.path)))
    }

    fn file(&self, target: &OwnedFd, node: &FileNode, path: &str, parent: Digest) -> Result<(), Error> {
        let key = FileKey::of_node(parent.function(), node, path)?;
        let source = key.to_string();
        match self.assembly.placing {
            Placing::Link => self
                .link(&source, target, &node.name)
                .map_err(Error::io(format!("link {path} to files/{source}"))),
            Placing::Copy => self
                .copy(&source, target, &node.name)
                .map_err(Error::io(format!("copy files/{source} to {path}"))),
        }
    }

    fn link(&self, source: &str, target: &OwnedFd, name: &str) -> io::Result<()> {
        let link = || linkat(&self.files, source, target, name, AtFlags::empty());
        match link() {
            Err(Errno::MLINK) => {
                let _one = RENEWAL.lock();
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
        let _open = self.scratch.writing_programs();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let new = openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
        copy_file(&mut old.into(), &mut new.into())
    }

    /// Gives a cached file a new inode, with [`RENEWAL`] held, because the old one has as many links as the file system
    /// allows (65,000 on ext4). Links made before keep the old one.
    fn renew(&self, source: &str) -> io::Result<()> {
        let old_path = self.scratch.root().join("files").join(source);
        let path = self.scratch.root().join(self.scratch.fresh("temporary"));
        copy_file(&mut File::open(&old_path)?, &mut File::create_new(&path)?)?;
        renameat(CWD, &path, CWD, &old_path)?;
        Ok(())
    }
}

/// Copies content, mode and modification time.
fn copy_file(old: &mut File, new: &mut File) -> io::Result<()> {
    let metadata = fstat(&*old)?;
    io::copy(old, new)?;
    fchmod(&*new, Mode::from_raw_mode(metadata.st_mode))?;
    futimens(&*new, &mtime_of(&metadata).timestamps())?;
    Ok(())
}

/// Gives a directory the mode and the modification time of its node.
pub(crate) fn restore(target: impl AsFd, directory: &Directory) -> io::Result<()> {
    let properties = directory.node_properties.as_ref();
    let mode = unix_mode(properties).unwrap_or(DEFAULT_DIRECTORY_MODE);
    fchmod(&target, Mode::from_raw_mode(mode))?;
    futimens(&target, &mtime(properties).unwrap_or(DEFAULT_MTIME).timestamps())?;
    Ok(())
}
