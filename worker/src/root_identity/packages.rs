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

/// Packages that the databases of a root list, in any order. A root may have databases of several package managers: each
/// counts, because a few packages of dpkg in a root of rpm must not hide the others. Blocks.
pub(super) fn installed(root: &Path) -> Result<Vec<Package>, Error> {
    installed_by(root, Path::new("rpm"))
}

/// The same, with the packages that the program `rpm` lists.
fn installed_by(root: &Path, rpm: &Path) -> Result<Vec<Package>, Error> {
    let mut packages = dpkg::installed(root)?;
    packages.extend(apk::installed(root)?);
    packages.extend(pacman::installed(root)?);
    match rpm::installed(root, rpm) {
        Ok(listed) => packages.extend(listed),
        // On distributions of other package managers, a database of rpm is left over from its use as a tool, also when
        // rpm itself is gone.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound && !packages.is_empty() => {}
        Err(error) => return Err(error),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn one_package_of_dpkg_does_not_hide_those_of_rpm() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let status = "Package: alien\nStatus: install ok installed\nVersion: 8\nArchitecture: all\n";
        write(&path("var/lib/dpkg/status"), status);
        write(&path("usr/lib/sysimage/rpm/rpmdb.sqlite"), "");
        let list = |rpm: &str| installed_by(root.path(), Path::new(rpm));
        // As a package, its arguments have the form of an answer.
        let listed = list("echo").unwrap();
        let managers: Vec<_> = listed.iter().map(|package| package.manager).collect();
        assert_eq!(managers, ["dpkg", "rpm"]);
        // A database that cannot be read could hide a difference.
        assert!(list("false").is_err());
        assert_eq!(list("/nonexistent/rpm").unwrap().len(), 1);
        fs::remove_file(path("var/lib/dpkg/status")).unwrap();
        assert!(list("/nonexistent/rpm").is_err(), "nothing else lists packages");
    }
}
