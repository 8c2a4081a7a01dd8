//! Errors of the front end.

use std::io;
use std::path::PathBuf;

/// Error of an export.
#[derive(Debug, thiserror::Error)]
pub enum FrontEndError {
    /// The directory is not initialised for `BitBake`.
    #[error(
        "{} is not a BitBake build directory: it has no conf/bblayers.conf; initialise it (for example with \
         oe-init-build-env), or name another one with --build-dir",
        build_directory.display()
    )]
    NotABuildDirectory {
        /// The directory.
        build_directory: PathBuf,
    },
    /// The `bb` library was not found.
    #[error(
        "BitBake was not found: {tried}; put a BitBake checkout's bin directory into PATH, set BITBAKEDIR, or \
         run `pip install bitbake-setup`"
    )]
    BitBakeNotFound {
        /// The places that were searched, for the user.
        tried: String,
    },
    /// The package `bb` is there without `BitBake`'s programs.
    #[error(
        "{} belongs to no checkout of BitBake: there is no bin/bitbake beside it; name a checkout with --bitbake",
        library.display()
    )]
    NoBitBakeProgram {
        /// The directory that holds the package.
        library: PathBuf,
    },
    /// A program of the front end could not be started.
    #[error("cannot run {program}: {source}; {advice}")]
    Program {
        /// The program.
        program: String,
        /// The next step of the user.
        advice: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// `BitBake` reported an error: a parse error, an unknown target, a missing provider. The text is `BitBake`'s own.
    #[error("{}", messages.trim_end())]
    BitBake {
        /// All messages of `BitBake`.
        messages: String,
    },
    /// The exporter's output is malformed, which is a fault of bitzel.
    #[error("the BitBake exporter's output cannot be read: {reason}")]
    Malformed {
        /// The defect.
        reason: String,
    },
    /// Two layers need the same path in the sandbox.
    #[error(
        "layers {} and {} have the same name {name:?} (BBFILE_COLLECTIONS); rename one",
        first.display(),
        second.display()
    )]
    LayerNameClash {
        /// The name.
        name: String,
        /// One layer, or its checkout.
        first: PathBuf,
        /// The other layer, or its checkout.
        second: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl FrontEndError {
    /// For `map_err`: failed input or output on the file `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.into(),
            source,
        }
    }
}
