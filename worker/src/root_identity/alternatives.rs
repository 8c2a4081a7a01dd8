//! Choices between packages that provide the same file, as `update-alternatives` of Debian and `alternatives` of Fedora
//! make them: links in one directory.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Directory of the links. Sandboxes show it.
const LINKS: &str = "etc/alternatives";

/// A choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alternative {
    name: String,
    target: PathBuf,
}

impl fmt::Display for Alternative {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "alternative {} {}", self.name, self.target.display())
    }
}

/// All choices of a root, in any order. Blocks.
pub(super) fn chosen(root: &Path) -> Result<Vec<Alternative>, Error> {
    let directory = root.join(LINKS);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(vec![]);
        }
        Err(error) => return Err(Error::io_at("read", &directory)(error)),
    };
    let mut alternatives = vec![];
    for entry in entries {
        let entry = entry.map_err(Error::io_at("read", &directory))?;
        let path = entry.path();
        // The directory also has a README.
        if entry
            .file_type()
            .map_err(Error::io_at("read", &path))?
            .is_symlink()
        {
            alternatives.push(Alternative {
                name: entry.file_name().to_string_lossy().into_owned(),
                target: fs::read_link(&path).map_err(Error::io_at("read", &path))?,
            });
        }
    }
    Ok(alternatives)
}
