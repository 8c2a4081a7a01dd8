//! Configuration of the front end, and the events that it reports.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bitzel_proto::DigestFunction;

use super::error::FrontEndError;

/// Fixed time that replaces the current time wherever a build would use it, unless the user sets another one.
///
/// `BitBake`'s own default for metadata without `SOURCE_DATE_EPOCH_FALLBACK` is arbitrary too; this one is the same in
/// every build.
pub const DEFAULT_SOURCE_DATE_EPOCH: u64 = 1_520_598_896;

/// Event of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontEndEvent<'a> {
    /// A new phase began: "configuration", "parsing", "run-queue", "recipes", "graph", "components", "writing",
    /// or "cached" when nothing has to be done.
    Phase(&'a str),
    /// A line that `BitBake` printed without failing: a warning.
    Message(&'a str),
}

/// Receiver of the events.
pub type FrontEndObserver = Arc<dyn Fn(FrontEndEvent<'_>) + Send + Sync>;

/// Root file system in which `BitBake` parses: its Python, its programs, its `/etc`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrontEndRoot {
    /// Identity. Graphs and `BitBake`'s own caches of one root are not used in another one, because metadata asks for
    /// versions of programs while it is parsed.
    pub identity: String,
    /// Directory with the file system of an image root. `None` for the root of this machine.
    pub directory: Option<PathBuf>,
}

/// Directories, programs and environment of the front end.
#[derive(Clone)]
pub struct FrontEndConfig {
    /// The initialised `BitBake` build directory.
    pub build_directory: PathBuf,
    /// `BitBake` as the user named it: a checkout, or a directory that holds the package `bb`.
    pub bitbake: Option<PathBuf>,
    /// Directory of graphs, data store snapshots and `BitBake`'s own caches. May be deleted at any time.
    pub cache_directory: PathBuf,
    /// The program bubblewrap.
    pub bubblewrap: PathBuf,
    /// The root file system.
    pub root: FrontEndRoot,
    /// The Python that reads the configuration on the client. In the sandbox, and in an image root, it is always
    /// `/usr/bin/python3`.
    pub python: PathBuf,
    /// The user's environment. `BitBake` gets the variables that `BB_ENV_PASSTHROUGH` and
    /// `BB_ENV_PASSTHROUGH_ADDITIONS` list.
    pub environment: BTreeMap<String, String>,
    /// The digest function of the metadata tree.
    pub digest_function: DigestFunction,
    /// Seconds since the epoch; see [`DEFAULT_SOURCE_DATE_EPOCH`].
    pub source_date_epoch: u64,
    /// Receiver of the events.
    pub observer: FrontEndObserver,
}

impl FrontEndConfig {
    /// Creates a configuration with the usual programs and an empty environment.
    pub fn new(build_directory: PathBuf, cache_directory: PathBuf) -> Self {
        Self {
            build_directory,
            bitbake: None,
            cache_directory,
            bubblewrap: PathBuf::from("bwrap"),
            root: FrontEndRoot::default(),
            python: PathBuf::from("/usr/bin/python3"),
            environment: BTreeMap::new(),
            digest_function: DigestFunction::Sha256,
            source_date_epoch: DEFAULT_SOURCE_DATE_EPOCH,
            observer: Arc::new(|_| {}),
        }
    }

    /// The build directory without symbolic links, if it is initialised.
    pub(crate) fn canonical_build_directory(&self) -> Result<PathBuf, FrontEndError> {
        let build_directory = self.build_directory.clone();
        if !build_directory.join("conf/bblayers.conf").is_file() {
            return Err(FrontEndError::NotABuildDirectory { build_directory });
        }
        build_directory
            .canonicalize()
            .map_err(FrontEndError::io(&build_directory))
    }
}
