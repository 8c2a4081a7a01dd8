//! Derives an overlay-style upper directory by comparing a copied input tree with its input.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use bitzel_cas::DirectoryTree;
use bitzel_proto::Digest;
use bitzel_proto::reapi::{FileNode, SymlinkNode};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, UTIME_OMIT, fchmod, fremovexattr, futimens, mknodat, openat,
    readlinkat, stat, statat, unlinkat,
};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::file_digest::hash_open_file;
use super::merged_tree::OPAQUE_ATTRIBUTE;
use crate::error::Error;
use crate::file_cache::FileKey;
use crate::input_root::DEFAULT_DIRECTORY_MODE;
use crate::input_tree::{child_digest, directory_of};
use crate::node_properties::{DEFAULT_MTIME, Mtime};
use crate::worker_directories::open_directory;

/// Reduces `upper` to the changes of a command. Blocks.
///
/// `tree`, whose nodes have no properties, was copied to `upper` before the command started. Removes unchanged entries and
/// marks deleted ones by whiteouts.
pub fn derive_upper_directory(
    tree: &DirectoryTree,
    upper: &Path,
    cancellation: &CancellationToken,
) -> Result<(), Error> {
    let before = stat(upper).map_err(Error::io_at("read", upper))?;
    let root = open_directory(CWD, upper).map_err(Error::io_at("read", upper))?;
    let inputs = CopiedInputs { tree, cancellation };
    inputs
        .reduce_directory(root.as_fd(), &before, upper, tree.root)
        .map(drop)
}

struct CopiedInputs<'run> {
    tree: &'run DirectoryTree,
    cancellation: &'run CancellationToken,
}

/// An entry of a copied directory.
struct Entry<'run> {
    parent: BorrowedFd<'run>,
    name: &'run str,
    path: PathBuf,
}

impl CopiedInputs<'_> {
    /// Reduces one directory to its changes. True if its own mode and modification time are unchanged. `before` is its status
    /// before it was opened, because opening it may have changed its mode.
    fn reduce_directory(
        &self,
        opened: BorrowedFd<'_>,
        before: &Stat,
        path: &Path,
        digest: Digest,
    ) -> Result<bool, Error> {
        let directory = directory_of(self.tree, digest)?;
        let is_untouched =
            before.st_mode & 0o7777 == DEFAULT_DIRECTORY_MODE && Mtime::of_file(before) == DEFAULT_MTIME;
        let has_entries = !(directory.files.is_empty()
            && directory.symlinks.is_empty()
            && directory.directories.is_empty());
        if is_untouched && !has_entries {
            return Ok(true);
        }
        let entry = |name| Entry {
            parent: opened,
            name,
            path: path.join(name),
        };
        let restored =
            |result: rustix::io::Result<()>| result.map_err(Error::io_at("set mode and time of", path));
        restored(fchmod(opened, Mode::RWXU))?;
        // Without an overlay nothing kept the command from setting it. It would hide the entries that are removed here.
        let _ = fremovexattr(opened, OPAQUE_ATTRIBUTE);
        for node in &directory.files {
            let entry = entry(&node.name);
            if let Some(found) = entry.find_or_mark_removed()?
                && self.is_untouched_file(&entry, node, &found, digest)?
            {
                entry.remove(AtFlags::empty())?;
            }
        }
        for node in &directory.symlinks {
            let entry = entry(&node.name);
            if let Some(found) = entry.find_or_mark_removed()?
                && is_untouched_symlink(&entry, node, &found)?
            {
                entry.remove(AtFlags::empty())?;
            }
        }
        for node in &directory.directories {
            let entry = entry(&node.name);
            let Some(found) = entry.find_or_mark_removed()? else {
                continue;
            };
            if !FileType::from_raw_mode(found.st_mode).is_dir() {
                continue;
            }
            let child = child_digest(digest.function(), node)?;
            let opened = open_directory(opened, entry.name).map_err(Error::io_at("read", &entry.path))?;
            if self.reduce_directory(opened.as_fd(), &found, &entry.path, child)? {
                entry.remove(AtFlags::REMOVEDIR)?;
            }
        }
        // The removals here are not changes of the command.
        restored(fchmod(opened, Mode::from_raw_mode(before.st_mode)))?;
        let mut times = Mtime::of_file(before).timestamps();
        times.last_access.tv_nsec = UTIME_OMIT;
        restored(futimens(opened, &times))?;
        Ok(is_untouched)
    }

    fn is_untouched_file(
        &self,
        entry: &Entry<'_>,
        node: &FileNode,
        found: &Stat,
        parent: Digest,
    ) -> Result<bool, Error> {
        let key = FileKey::of_node(parent.function(), node, entry.name)?;
        let (digest, size) = (key.digest, u64::try_from(found.st_size).unwrap_or(u64::MAX));
        // A file with a second name is a change: overlayfs copies it up for the link, too.
        if !FileType::from_raw_mode(found.st_mode).is_file()
            || found.st_nlink != 1
            || found.st_mode & 0o7777 != key.mode
            || Mtime::of_file(found) != DEFAULT_MTIME
            || size != digest.size_bytes()
        {
            return Ok(false);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(entry.parent, entry.name, flags, Mode::empty())
            .map_err(Error::io_at("read", &entry.path))?;
        let actual = hash_open_file(
            digest.function(),
            opened.into(),
            &entry.path,
            size,
            self.cancellation,
        )?;
        Ok(actual == digest)
    }
}

impl Entry<'_> {
    /// The status of the entry. If the entry is gone, creates a whiteout in its place.
    fn find_or_mark_removed(&self) -> Result<Option<Stat>, Error> {
        match statat(self.parent, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => {
                mknodat(
                    self.parent,
                    self.name,
                    FileType::CharacterDevice,
                    Mode::empty(),
                    0,
                )
                .map_err(|error| Error::io(format!("mark {} as removed", self.path.display()))(error))?;
                Ok(None)
            }
            Err(error) => Err(Error::io_at("read", &self.path)(error)),
        }
    }

    /// Removes the entry, unless it is a directory with entries of the command.
    fn remove(&self, flags: AtFlags) -> Result<(), Error> {
        match unlinkat(self.parent, self.name, flags) {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(error) => Err(Error::io_at("remove", &self.path)(error)),
        }
    }
}

fn is_untouched_symlink(entry: &Entry<'_>, node: &SymlinkNode, found: &Stat) -> Result<bool, Error> {
    if !FileType::from_raw_mode(found.st_mode).is_symlink()
        || found.st_nlink != 1
        || Mtime::of_file(found) != DEFAULT_MTIME
    {
        return Ok(false);
    }
    let target = readlinkat(entry.parent, entry.name, vec![]).map_err(Error::io_at("read", &entry.path))?;
    Ok(target.as_bytes() == node.target.as_bytes())
}
