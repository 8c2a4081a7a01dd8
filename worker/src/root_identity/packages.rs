//! Installed packages of a root file system, from the databases of package managers.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::Error;

mod apk;
mod dpkg;
mod pacman;
mod rpm;

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    /// Package manager that lists it.
    manager: &'static str,
    name: String,
    version: String,
    architecture: String,
}

impl fmt::Display for Package {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            manager,
            name,
            version,
            architecture,
        } = self;
        write!(formatter, "package {manager} {name} {version} {architecture}")
    }
}

/// Packages that the databases of a root list, in any order. A root may have databases of several package managers, of
/// which one is in use and the others are empty. Blocks.
pub(super) fn installed(root: &Path) -> Result<Vec<Package>, Error> {
    let mut packages = dpkg::installed(root)?;
    packages.extend(apk::installed(root)?);
    packages.extend(pacman::installed(root)?);
    // On distributions of other package managers, a database of rpm is left over from its use as a tool, also when rpm
    // itself is gone.
    if packages.is_empty() {
        packages = rpm::installed(root)?;
    }
    Ok(packages)
}

/// Text of a database. `None` if it does not exist.
fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read(path) {
        // Names and versions are ASCII. Descriptions may be anything.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::io_at("read", path)(error)),
    }
}
