//! Removes what commands leave, whatever it is: any modes, and directories below each other without end.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, chmod, fchmod, openat, renameat_with, unlinkat,
};
use rustix::io::{Errno, Result};

/// How far down a removal goes. A command can make far more directories below each other than a thread has stack, or
/// a process file descriptors, for; what is deeper is moved up first.
const DEPTH: usize = 32;

/// Removes a file or a directory tree that a command may have left with any modes. Nothing there is a success.
///
/// A directory without permissions (overlay's own `work/work` has mode 000) can be emptied by its owner only after a
/// change of its mode. Symlinks are not followed, not even ones that appear meanwhile.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
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
    /// Directories that were moved up into `top`.
    moved: u64,
}

impl Removal<'_> {
    /// Removes all that is in `directory`, `depth` below the top, or moves it into the top.
    fn empty(&mut self, directory: BorrowedFd<'_>, depth: usize) -> Result<()> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            let is_directory = match entry.file_type() {
                FileType::Directory => true,
                // Some file systems do not say.
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
            if depth < DEPTH {
                self.empty(child.as_fd(), depth + 1)?;
                unlink(directory, name, AtFlags::REMOVEDIR)?;
            } else {
                // Who moves a directory changes its entry `..`.
                fchmod(&child, Mode::RWXU)?;
                self.move_up(directory, name)?;
            }
        }
        Ok(())
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<()> {
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

fn unlink(directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<()> {
    match with_permission(directory, || unlinkat(directory, name, flags)) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Runs `action`, which changes `directory`; if that is not allowed, once more after allowing it.
fn with_permission(directory: BorrowedFd<'_>, action: impl Fn() -> Result<()>) -> Result<()> {
    match action() {
        Err(Errno::ACCESS) => {
            fchmod(directory, Mode::RWXU)?;
            action()
        }
        other => other,
    }
}

/// Opens a directory, whatever mode a command gave it; not through a symlink.
pub(crate) fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg + Copy) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let found = openat(&parent, name, flags | OFlags::PATH, Mode::empty())?;
            // chmod(2) has no way to take such a descriptor, and with the name it would follow a symlink.
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

    /// Makes `levels` directories below each other, and gives the last one.
    fn nested(top: &Path, levels: usize) -> OwnedFd {
        let mut directory = open_directory(CWD, top).unwrap();
        for _ in 0..levels {
            mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = open_directory(&directory, "d").unwrap();
        }
        directory
    }

    #[test]
    fn a_tree_deeper_than_a_stack_and_with_any_names_and_modes_is_removed() {
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
    fn files_and_symlinks_are_removed_themselves() {
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
