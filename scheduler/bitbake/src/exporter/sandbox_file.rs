//! Files that a sandbox has written, which metadata may have changed.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use crate::error::FrontEndError;

/// Maximum size in bytes of a file that is read whole. A graph of 5,000 tasks takes some megabytes.
const MAX_BYTES: u64 = 1 << 30;

/// Opens a regular file. Metadata may have put a symlink, a named pipe or a device in its place.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not a regular file",
        ))
    }
}

/// Reads JSON.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, FrontEndError> {
    let file = open_regular(path).map_err(FrontEndError::io(path))?;
    let mut bytes = vec![];
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(FrontEndError::io(path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(FrontEndError::Malformed {
            reason: format!("{} is larger than {MAX_BYTES} bytes", path.display()),
        });
    }
    serde_json::from_slice(&bytes).map_err(super::malformed)
}
