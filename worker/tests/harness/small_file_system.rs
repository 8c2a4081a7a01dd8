//! File systems that are soon full.

use std::ffi::CString;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A directory on a file system in memory of its own, in a mount that is removed at the end.
pub struct SmallFileSystem(tempfile::TempDir);

impl SmallFileSystem {
    /// Mounts a file system with a limit, such as `size=16M`. `None` if this user may not mount.
    pub fn mount(limit: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = CString::new(format!("{limit},mode=700")).unwrap();
        mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), &*options).ok()?;
        Some(Self(directory))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}
