//! The file by which a team chooses the root of its builds, checked in beside the layers.

use std::io;
use std::path::Path;

use bitzel_proto::Digest;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::root_digest::parse_root_digest;

/// Name of the file.
pub const ROOT_FILE_NAME: &str = "bitzel-root";
/// Directories in which it is looked for, relative to the build directory.
const PLACES: [&str; 3] = ["conf", ".", ".."];

/// Content of the file, as TOML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootFile {
    /// Digest of the root: `HASH/SIZE`.
    pub digest: String,
    /// The way to get the root if it is not in the store, for people.
    #[serde(default)]
    pub source: String,
}

impl RootFile {
    /// Reads the file of a build directory: in its `conf`, in itself, or beside it. `None` if there is none. Blocks.
    pub fn find(build_directory: &Path) -> Result<Option<Self>, Error> {
        for place in PLACES {
            let path = build_directory.join(place).join(ROOT_FILE_NAME);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io_at("read", &path)(error)),
            };
            let wrong = |reason: String| Error::File {
                path: path.clone(),
                reason,
            };
            let file: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
            if file.digest().is_none() {
                return Err(wrong(format!("{:?} is not a digest HASH/SIZE", file.digest)));
            }
            return Ok(Some(file));
        }
        Ok(None)
    }

    /// The digest of the root.
    pub fn digest(&self) -> Option<Digest> {
        parse_root_digest(&self.digest)
    }

    /// The file as a text.
    pub fn to_text(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }
}
