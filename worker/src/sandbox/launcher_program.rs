//! Program of the sandbox launcher, embedded in this one.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

/// The executable that `build.rs` builds.
pub const EXECUTABLE: &[u8] = include_bytes!(env!("BITZEL_LAUNCHER"));

/// The launcher's executable as a file in memory. So the worker is one file to install, no mount option of its
/// directories matters, and nobody can change what runs.
#[derive(Debug)]
pub(super) struct LauncherProgram(File);

impl LauncherProgram {
    /// Makes the file. It is sealed, and processes do not inherit it.
    pub(super) fn create() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = match memfd_create("bitzel-launcher", flags | MemfdFlags::EXEC) {
            // Linux before 6.3 does not know the flag: all files in memory are executable.
            Err(Errno::INVAL) => memfd_create("bitzel-launcher", flags),
            other => other,
        }?;
        let mut file = File::from(file);
        file.write_all(EXECUTABLE)?;
        fcntl_add_seals(
            &file,
            SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
        )?;
        Ok(Self(file))
    }

    /// Path that a process which this one starts can execute, before it has executed anything else.
    pub(super) fn path(&self) -> OsString {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
