//! Removal of directory trees that commands leave, with any modes and of any depth.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, chmod, fchmod, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use crate::error::Error;

/// Depth to which a removal descends. Deeper directories are moved up first: a command can nest far more directories
/// than a thread has stack for, or a process file descriptors.
const MAX_DEPTH: usize = 32;

/// Removes a file or a directory tree that a command may have left with any modes. Succeeds if nothing is there.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    remove_tree(path).map_err(Error::io_at("remove", path))
}

/// Removes a file or a directory tree.
///
/// The owner of a directory without permissions (overlayfs's own `work/work` has mode 000) can empty it only after a
/// change of its mode. Symlinks are not followed, including those that appear meanwhile.
fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            _ => open_directory(CWD, path)?,
        },
        Err(error) => return Err(error.into()),
    };
    let mut removal = Removal {
        top: top.as_fd(),
        moved: 0,
    };
    loop {
        let before = removal.moved;
        removal.empty(top.as_fd(), 0)?;
        match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) if removal.moved > before => {}
            Err(error) => return Err(error.into()),
        }
    }
}

struct Removal<'top> {
    top: BorrowedFd<'top>,
    /// Number of directories that were moved up into `top`.
    moved: u64,
}

impl Removal<'_> {
    /// Empties `directory`, which lies `depth` below the top: removes its entries or moves them into the top.
    fn empty(&mut self, directory: BorrowedFd<'_>, depth: usize) -> rustix::io::Result<()> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            let is_directory = match entry.file_type() {
                FileType::Directory => true,
                // Some file systems do not tell.
                FileType::Unknown => unlink(directory, name, AtFlags::empty()) == Err(Errno::ISDIR),
                _ => false,
            };
            if !is_directory {
                unlink(directory, name, AtFlags::empty())?;
                continue;
            }
            match unlink(directory, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                other => {
                    other?;
                    continue;
                }
            }
            let child = open_directory(directory, name)?;
            if depth < MAX_DEPTH {
                self.empty(child.as_fd(), depth + 1)?;
                unlink(directory, name, AtFlags::REMOVEDIR)?;
            } else {
                // A move writes to the entry `..` of the directory.
                fchmod(&child, Mode::RWXU)?;
                self.move_up(directory, name)?;
            }
        }
        Ok(())
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        loop {
            self.moved += 1;
            let target = format!("moved-{}", self.moved);
            let moved = with_permission(directory, || {
                renameat_with(directory, name, self.top, target.as_str(), RenameFlags::NOREPLACE)
            });
            if moved != Err(Errno::EXIST) {
                return moved;
            }
        }
    }
}

fn unlink(directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> rustix::io::Result<()> {
    match with_permission(directory, || unlinkat(directory, name, flags)) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Runs `action`, which changes `directory`. If permission is denied, grants it to the owner and runs `action` again.
fn with_permission(
    directory: BorrowedFd<'_>,
    action: impl Fn() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match action() {
        Err(Errno::ACCESS) => {
            fchmod(directory, Mode::RWXU)?;
            action()
        }
        other => other,
    }
}

/// Opens a directory, whatever mode a command gave it. Does not follow a symlink.
pub(crate) fn open_directory(
    parent: impl AsFd,
    name: impl rustix::path::Arg + Copy,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let found = openat(&parent, name, flags | OFlags::PATH, Mode::empty())?;
            // chmod(2) takes no descriptor of this kind, and with the name it would follow a symlink.
            chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU)?;
            openat(&parent, name, flags, Mode::empty())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::mkdirat;

    use super::*;

    /// Creates `levels` nested directories and returns the deepest one.
    fn nested(top: &Path, levels: usize) -> OwnedFd {
        let mut directory = open_directory(CWD, top).unwrap();
        for _ in 0..levels {
            mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = open_directory(&directory, "d").unwrap();
        }
        directory
    }

    #[test]
    fn removes_a_tree_of_any_depth_names_and_modes() {
        let temporary = tempfile::tempdir().unwrap();
        let (tree, outside) = (temporary.path().join("tree"), temporary.path().join("outside"));
        fs::create_dir_all(tree.join("moved-1/x")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        fs::create_dir_all(tree.join("closed/a/b")).unwrap();
        for path in ["closed/a", "closed"] {
            fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o000)).unwrap();
        }
        let last = nested(&tree, 10_000);
        fchmod(&last, Mode::empty()).unwrap();
        drop(last);
        remove_tree(&tree).unwrap();
        let left: Vec<_> = fs::read_dir(temporary.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["outside"]);
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn removes_a_symlink_but_not_its_target() {
        let temporary = tempfile::tempdir().unwrap();
        let (link, target) = (temporary.path().join("link"), temporary.path().join("target"));
        fs::write(&target, "kept").unwrap();
        symlink(&target, &link).unwrap();
        remove_tree(&link).unwrap();
        assert!(link.symlink_metadata().is_err());
        assert_eq!(fs::read(&target).unwrap(), b"kept");
        remove_tree(&target).unwrap();
        assert!(!target.exists());
    }
}
