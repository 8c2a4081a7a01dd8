//! Roots that this machine knows: records of imports, and names.
//!
//! ```text
//! records/<hash>-<size>.json   source and size of a root
//! names/<name>                 the digest that the name stands for
//! checkouts/<hash>-<size>/     see [`crate::Checkout`]
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bitzel_proto::Digest;
use serde::{Deserialize, Serialize};

use crate::checkout::Checkout;
use crate::error::Error;
use crate::losses::Losses;
use crate::root_digest::{file_name, parse_file_name, parse_root_digest};

/// Longest name of a root.
const MAX_NAME_LENGTH: usize = 100;

/// Name of a root on this machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootName(String);

impl RootName {
    /// The name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RootName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_allowed = |character: char| character.is_ascii_alphanumeric() || "-._+".contains(character);
        if text.is_empty()
            || text.len() > MAX_NAME_LENGTH
            || text.starts_with(['.', '-'])
            || !text.chars().all(is_allowed)
        {
            return Err(Error::Malformed {
                text: text.to_owned(),
                what: "name of a root: it has to have 1 to 100 letters, digits and characters of \"-._+\", and to start with \
                       a letter or digit",
            });
        }
        Ok(Self(text.to_owned()))
    }
}

/// A root as an import found it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RootRecord {
    /// Origin, for people.
    pub source: String,
    /// Number of files.
    pub files: u64,
    /// Number of directories.
    pub directories: u64,
    /// Number of symlinks.
    pub symlinks: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Parts that the tree does not have.
    pub losses: Losses,
}

/// A root of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownRoot {
    /// Its names, sorted.
    pub names: Vec<RootName>,
    /// `None` if it was fetched and not imported here.
    pub record: Option<RootRecord>,
}

/// The roots of one cache directory.
#[derive(Debug, Clone)]
pub struct RootRegistry {
    directory: PathBuf,
}

impl RootRegistry {
    /// The registry in `directory`, which need not exist.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Directory of the checkouts.
    pub fn checkouts(&self) -> PathBuf {
        self.directory.join("checkouts")
    }

    /// Directory for the contents of archives while they are read. Blocks.
    pub fn temporary(&self) -> Result<PathBuf, Error> {
        fs::create_dir_all(&self.directory).map_err(Error::io_at("create", &self.directory))?;
        Ok(self.directory.clone())
    }

    /// Records a root. Blocks.
    pub fn record(&self, digest: Digest, record: &RootRecord) -> Result<(), Error> {
        let path = self.record_path(digest);
        let text = serde_json::to_vec_pretty(record).map_err(|error| malformed(&path, &error))?;
        replace(&path, &text)
    }

    /// Gives a root a name. An earlier root of that name loses it. Blocks.
    pub fn name(&self, name: &RootName, digest: Digest) -> Result<(), Error> {
        replace(&self.name_path(name), digest.to_string().as_bytes())
    }

    /// The record of a root, if there is one. Blocks.
    pub fn find(&self, digest: Digest) -> Result<Option<RootRecord>, Error> {
        let path = self.record_path(digest);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| malformed(&path, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io_at("read", &path)(error)),
        }
    }

    /// The digest of a root that is given by its name or its digest. Blocks.
    pub fn resolve(&self, text: &str) -> Result<Digest, Error> {
        if let Some(digest) = parse_root_digest(text) {
            return Ok(digest);
        }
        let path = self.name_path(&text.parse()?);
        match fs::read_to_string(&path) {
            Ok(digest) => parse_root_digest(digest.trim()).ok_or_else(|| Error::File {
                path,
                reason: "it does not hold a digest".to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Unknown(format!("{text:?}"))),
            Err(error) => Err(Error::io_at("read", &path)(error)),
        }
    }

    /// All roots with their names, sorted by digest. Blocks.
    pub fn list(&self) -> Result<BTreeMap<Digest, KnownRoot>, Error> {
        let mut roots: BTreeMap<Digest, KnownRoot> = BTreeMap::new();
        for name in entries(&self.directory.join("records"))? {
            if let Some(digest) = name.strip_suffix(".json").and_then(parse_file_name) {
                roots.entry(digest).or_default().record = self.find(digest)?;
            }
        }
        for name in entries(&self.checkouts())? {
            if let Some(digest) = parse_file_name(&name) {
                roots.entry(digest).or_default();
            }
        }
        for name in entries(&self.directory.join("names"))? {
            // Not a temporary file of a process that was killed.
            if let Ok(name) = name.parse::<RootName>() {
                let digest = self.resolve(name.as_str())?;
                roots.entry(digest).or_default().names.push(name);
            }
        }
        for root in roots.values_mut() {
            root.names.sort();
        }
        Ok(roots)
    }

    /// Forgets a root: its names, its record and its checkout. Blobs stay in the stores until they are evicted. Blocks.
    pub fn remove(&self, digest: Digest) -> Result<(), Error> {
        let Some(root) = self.list()?.remove(&digest) else {
            return Err(Error::Unknown(digest.to_string()));
        };
        for name in root.names {
            remove_file(&self.name_path(&name))?;
        }
        Checkout::remove(&self.checkouts(), digest)?;
        remove_file(&self.record_path(digest))
    }

    fn record_path(&self, digest: Digest) -> PathBuf {
        self.directory
            .join("records")
            .join(format!("{}.json", file_name(digest)))
    }

    fn name_path(&self, name: &RootName) -> PathBuf {
        self.directory.join("names").join(&name.0)
    }
}

fn malformed(path: &Path, error: &serde_json::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// Names in a directory, none if it does not exist.
fn entries(directory: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(Error::io_at("read", directory))?,
    };
    let mut names = vec![];
    for entry in entries {
        let entry = entry.map_err(Error::io_at("read", directory))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

/// Replaces a file atomically, and creates its directory.
fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).map_err(Error::io_at("create", directory))?;
    let written = tempfile::NamedTempFile::new_in(directory).and_then(|mut file| {
        file.write_all(content)?;
        file.persist(path)?;
        Ok(())
    });
    written.map_err(Error::io_at("write", path))
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io_at("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
