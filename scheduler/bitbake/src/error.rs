//! What can go wrong before there is a graph.

use std::io;
use std::path::PathBuf;

/// Why there is no task graph.
#[derive(Debug, thiserror::Error)]
pub enum FrontEndError {
    /// The directory was never initialised for `BitBake`.
    #[error(
        "{} is not a BitBake build directory: it has no conf/bblayers.conf; initialise it (for example with \
         oe-init-build-env), or name another one with --build-dir",
        build_directory.display()
    )]
    NotABuildDirectory {
        /// The directory that was asked for.
        build_directory: PathBuf,
    },
    /// No place that was looked at holds the `bb` library.
    #[error(
        "BitBake was not found: {tried}; put a BitBake checkout's bin directory into PATH, set BITBAKEDIR, or \
         run `pip install bitbake-setup`"
    )]
    BitBakeNotFound {
        /// What was tried, for the user.
        tried: String,
    },
    /// A program that the front end runs could not be started.
    #[error("cannot run {program}: {source}; {advice}")]
    Program {
        /// The program.
        program: String,
        /// What the user can do.
        advice: &'static str,
        /// Why.
        source: io::Error,
    },
    /// `BitBake` refused: a parse error, an unknown target, a missing provider. The text is `BitBake`'s own.
    #[error("{}", messages.trim_end())]
    BitBake {
        /// Everything that `BitBake` said.
        messages: String,
    },
    /// The exporter broke its contract, which is a fault of bitzel.
    #[error("the BitBake exporter's output cannot be read: {reason}")]
    Malformed {
        /// What was wrong with it.
        reason: String,
    },
    /// Two layers ask for the same place in the sandbox.
    #[error(
        "layers {} and {} both call themselves {name:?} (BBFILE_COLLECTIONS); rename one",
        first.display(),
        second.display()
    )]
    LayerNameClash {
        /// The name.
        name: String,
        /// One layer, or the checkout around it.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl FrontEndError {
    /// Names the file that an I/O error was about.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
