//! Errors of the work with root file systems.

use std::io;
use std::path::{Path, PathBuf};

use bitzel_proto::{Digest, InvalidDirectory};

/// The reason why a root file system cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a directory, nor an archive, nor an image layout.
    #[error("{} is not a root file system: {reason}", .path.display())]
    NotARoot {
        /// What was given.
        path: PathBuf,
        /// What is missing or unknown.
        reason: String,
    },
    /// An entry of an archive cannot be a part of a root file system.
    #[error("entry {entry:?} of the archive {reason}")]
    Entry {
        /// Path in the archive.
        entry: String,
        /// The rule that it violates.
        reason: String,
    },
    /// A root file system is larger than the limits.
    #[error("the root file system has more than {0}")]
    TooLarge(String),
    /// An image layout violates its specification, or has what bitzel does not know.
    #[error("the image layout cannot be used: {0}")]
    Image(String),
    /// A part of an image does not have the digest by which it is named.
    #[error("{what} has the digest {found}, not {expected}: the image is damaged")]
    WrongDigest {
        /// Blob or layer.
        what: String,
        /// The digest by which it is named.
        expected: String,
        /// The digest that it has.
        found: String,
    },
    /// The tree cannot be expressed in the Remote Execution API.
    #[error("directory {path:?} cannot be a Directory")]
    Directory {
        /// Path in the root file system.
        path: String,
        /// The defect.
        #[source]
        source: InvalidDirectory,
    },
    /// The tree in the store is not a valid root file system.
    #[error("the root {0} is damaged on this machine; remove it with `bitzel root remove`, and use it again")]
    DamagedCheckout(Digest),
    /// The name or the digest of a root is malformed.
    #[error("{text:?} is not the {what}")]
    Malformed {
        /// The text.
        text: String,
        /// The expected form.
        what: &'static str,
    },
    /// A file of bitzel about roots cannot be read.
    #[error("{} cannot be understood: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },
    /// No root of this name, or with this digest, is known on this machine.
    #[error("there is no root {0} on this machine")]
    Unknown(String),
    /// The store refused or failed.
    #[error("the store failed")]
    Store(#[from] bitzel_cas::Error),
    /// Input or output on this machine failed.
    #[error("{context}")]
    Io {
        /// The operation, with the path.
        context: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: an error of the operation `verb` on `path`.
    pub(crate) fn io_at<E: Into<io::Error>>(verb: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            context: format!("cannot {verb} {}", path.display()),
            source: source.into(),
        }
    }
}
