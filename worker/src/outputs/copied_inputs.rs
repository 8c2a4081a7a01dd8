//! Makes of a tree that started as a copy of its input what overlayfs would have made of it: an upper directory.

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

use super::merged_tree::{OPAQUE, failed};
use super::opening::digest_of_open;
use crate::error::Error;
use crate::file_cache::FileKey;
use crate::input_root::DEFAULT_DIRECTORY_MODE;
use crate::node_properties::{DEFAULT_MTIME, mtime_of};
use crate::scratch::open_directory;

/// Leaves in `upper` only what a command changed, if `tree`, whose nodes have no properties, was copied there before:
/// removes what is as it was, and puts a whiteout where something is gone. Blocks.
pub fn leave_changes(
    tree: &DirectoryTree,
    upper: &Path,
    cancellation: &CancellationToken,
) -> Result<(), Error> {
    let before = stat(upper).map_err(failed(upper))?;
    let root = open_directory(CWD, upper).map_err(failed(upper))?;
    let inputs = CopiedInputs { tree, cancellation };
    inputs
        .leave_changes(root.as_fd(), &before, upper, tree.root)
        .map(drop)
}

struct CopiedInputs<'run> {
    tree: &'run DirectoryTree,
    cancellation: &'run CancellationToken,
}

/// A name in a directory that was copied.
struct Entry<'run> {
    parent: BorrowedFd<'run>,
    name: &'run str,
    path: PathBuf,
}

impl CopiedInputs<'_> {
    /// Does it for one directory, and says whether its own mode and modification time are as they were. `before` is
    /// what it was before it was opened, which may have taken another mode.
    fn leave_changes(
        &self,
        opened: BorrowedFd<'_>,
        before: &Stat,
        path: &Path,
        digest: Digest,
    ) -> Result<bool, Error> {
        let directory = self.tree.directories.get(&digest);
        let directory = directory.ok_or_else(|| Error::MissingBlobs(vec![digest]))?;
        let is_untouched =
            before.st_mode & 0o7777 == DEFAULT_DIRECTORY_MODE && mtime_of(before) == DEFAULT_MTIME;
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
        let restored = |result: rustix::io::Result<()>| {
            result.map_err(Error::io(format!("set mode and time of {}", path.display())))
        };
        restored(fchmod(opened, Mode::RWXU))?;
        // One that the command made, as nothing else was there to see it, would hide what is removed here.
        let _ = fremovexattr(opened, OPAQUE);
        for node in &directory.files {
            let entry = entry(&node.name);
            if let Some(found) = entry.find()?
                && self.is_untouched_file(&entry, node, &found, digest)?
            {
                entry.remove(AtFlags::empty())?;
            }
        }
        for node in &directory.symlinks {
            let entry = entry(&node.name);
            if let Some(found) = entry.find()?
                && is_untouched_symlink(&entry, node, &found)?
            {
                entry.remove(AtFlags::empty())?;
            }
        }
        for node in &directory.directories {
            let entry = entry(&node.name);
            let Some(found) = entry.find()? else { continue };
            if !FileType::from_raw_mode(found.st_mode).is_dir() {
                continue;
            }
            let child = Digest::from_wire_field(digest.function(), node.digest.as_ref())
                .map_err(Error::digest("DirectoryNode.digest"))?;
            let opened = open_directory(opened, entry.name).map_err(failed(&entry.path))?;
            if self.leave_changes(opened.as_fd(), &found, &entry.path, child)? {
                entry.remove(AtFlags::REMOVEDIR)?;
            }
        }
        // What was done here is none of the command's changes.
        restored(fchmod(opened, Mode::from_raw_mode(before.st_mode)))?;
        let mut times = mtime_of(before).timestamps();
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
        // With a second name it is one file with that, as overlayfs has it when it copied the file for the link.
        if !FileType::from_raw_mode(found.st_mode).is_file()
            || found.st_nlink != 1
            || found.st_mode & 0o7777 != key.mode
            || mtime_of(found) != DEFAULT_MTIME
            || size != digest.size_bytes()
        {
            return Ok(false);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(entry.parent, entry.name, flags, Mode::empty()).map_err(failed(&entry.path))?;
        let now = digest_of_open(
            digest.function(),
            opened.into(),
            &entry.path,
            size,
            self.cancellation,
        )?;
        Ok(now == digest)
    }
}

impl Entry<'_> {
    /// What is there. Where nothing is, a whiteout says so from now on.
    fn find(&self) -> Result<Option<Stat>, Error> {
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
                .map_err(Error::io(format!("mark {} as removed", self.path.display())))?;
                Ok(None)
            }
            Err(error) => Err(failed(&self.path)(error)),
        }
    }

    /// Removes it, unless it is a directory that the command put something into.
    fn remove(&self, flags: AtFlags) -> Result<(), Error> {
        match unlinkat(self.parent, self.name, flags) {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(error) => Err(Error::io(format!("remove {}", self.path.display()))(error)),
        }
    }
}

fn is_untouched_symlink(entry: &Entry<'_>, node: &SymlinkNode, found: &Stat) -> Result<bool, Error> {
    if !FileType::from_raw_mode(found.st_mode).is_symlink()
        || found.st_nlink != 1
        || mtime_of(found) != DEFAULT_MTIME
    {
        return Ok(false);
    }
    let target = readlinkat(entry.parent, entry.name, vec![]).map_err(failed(&entry.path))?;
    Ok(target.as_bytes() == node.target.as_bytes())
}
