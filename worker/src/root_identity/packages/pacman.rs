//! Database of pacman (Arch): a directory for each package, with a file of `%FIELD%` lines that values follow.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::{Package, read};
use crate::error::Error;

/// Path of the database.
const LOCAL: &str = "var/lib/pacman/local";

pub(super) fn installed(root: &Path) -> Result<Vec<Package>, Error> {
    let directory = root.join(LOCAL);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(Error::io_at("read", &directory)(error)),
    };
    let mut packages = vec![];
    for entry in entries {
        let entry = entry.map_err(Error::io_at("read", &directory))?;
        // The directory also has the file ALPM_DB_VERSION.
        if let Some(text) = read(&entry.path().join("desc"))? {
            packages.extend(parse(&text));
        }
    }
    Ok(packages)
}

fn parse(text: &str) -> Option<Package> {
    let value = |field| {
        let mut lines = text.lines();
        lines.find(|line| *line == field)?;
        lines.next().map(str::to_owned)
    };
    Some(Package {
        manager: "pacman",
        name: value("%NAME%")?,
        version: value("%VERSION%")?,
        architecture: value("%ARCH%").unwrap_or_default(),
    })
}
