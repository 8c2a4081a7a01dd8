//! Where bitzel keeps things on this machine.

use std::path::PathBuf;

use directories::ProjectDirs;

use crate::command_error::CommandError;

/// The cache directory and its parts. Everything in it can be made again.
#[derive(Debug, Clone)]
pub(crate) struct Directories {
    cache: PathBuf,
    scratch: Option<PathBuf>,
}

impl Directories {
    /// The directory that was asked for, else `bitzel` in the XDG cache directory; `scratch` is as it was asked for.
    pub(crate) fn find(asked_for: Option<PathBuf>, scratch: Option<PathBuf>) -> Result<Self, CommandError> {
        let cache = match asked_for {
            Some(directory) => std::path::absolute(directory)?,
            None => ProjectDirs::from("", "", "bitzel")
                .map(|directories| directories.cache_dir().to_owned())
                .ok_or_else(|| {
                    CommandError::new("there is no home directory").hint("give --cache-dir, or set HOME")
                })?,
        };
        std::fs::create_dir_all(&cache).map_err(|error| {
            CommandError::from(error).hint(format!(
                "{} must be a directory that you can write",
                cache.display()
            ))
        })?;
        Ok(Self { cache, scratch })
    }

    /// Exports of the front end.
    pub(crate) fn exports(&self) -> PathBuf {
        self.cache.join("exports")
    }

    /// Store and action cache of the server.
    pub(crate) fn server(&self) -> PathBuf {
        self.cache.join("server")
    }

    /// File cache and running Actions of the worker.
    pub(crate) fn worker(&self) -> PathBuf {
        self.cache.join("worker")
    }

    /// Where running Actions write, if not in the directory of the worker.
    pub(crate) fn scratch(&self) -> Option<PathBuf> {
        self.scratch.clone()
    }

    /// What was built last, by build directory.
    pub(crate) fn builds(&self) -> PathBuf {
        self.cache.join("builds")
    }
}
