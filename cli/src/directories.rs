//! Directories of bitzel on this machine.

use std::path::PathBuf;

use bitzel_roots::RootRegistry;
use directories::ProjectDirs;

use crate::arguments::DirectoryArguments;
use crate::command_error::CommandError;

/// The cache directory and its parts. Everything in it can be recreated.
#[derive(Debug, Clone)]
pub(crate) struct Directories {
    cache: PathBuf,
    scratch: Option<PathBuf>,
}

impl Directories {
    /// Finds the cache directory, by default `bitzel` in the XDG cache directory, and creates it if it does not exist.
    pub(crate) fn find(arguments: DirectoryArguments) -> Result<Self, CommandError> {
        let cache = match arguments.cache_dir {
            Some(directory) => std::path::absolute(directory)?,
            None => ProjectDirs::from("", "", "bitzel")
                .map(|directories| directories.cache_dir().to_owned())
                .ok_or_else(|| {
                    CommandError::new("there is no home directory").hint("give --cache-dir, or set HOME")
                })?,
        };
        std::fs::create_dir_all(&cache).map_err(|error| {
            CommandError::from(error)
                .context(format!("cannot use the cache directory {}", cache.display()))
                .hint("give a directory that you can write to with --cache-dir")
        })?;
        Ok(Self {
            cache,
            scratch: arguments.scratch_dir,
        })
    }

    /// Exported graphs of the front end.
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

    /// File cache and running Actions of fetch tasks on this machine.
    pub(crate) fn fetches(&self) -> PathBuf {
        self.cache.join("fetches")
    }

    /// Directory that running Actions write to. Default: that of the worker.
    pub(crate) fn scratch(&self) -> Option<PathBuf> {
        self.scratch.clone()
    }

    /// Root file systems that this machine knows, and their checkouts.
    pub(crate) fn roots(&self) -> RootRegistry {
        RootRegistry::new(self.cache.join("roots"))
    }

    /// Graph of the last build, by build directory.
    pub(crate) fn builds(&self) -> PathBuf {
        self.cache.join("builds")
    }
}
