//! Image roots: root file systems out of the content-addressable store, in which Actions run that name one
//! (decision 0047).
//!
//! An image root is a Directory tree like an input root. A worker fetches it once through its file cache and assembles it
//! as one layer of hardlinks, which all Actions share. Launchers mount it as `/` of the sandbox, read-only.

use bitzel_proto::Digest;

use crate::input_root::LayerLease;

/// Assembled image root. It stays in place while this exists.
#[derive(Debug)]
pub struct ImageRoot {
    digest: Digest,
    layer: LayerLease,
}

impl ImageRoot {
    pub(crate) fn new(digest: Digest, layer: LayerLease) -> Self {
        Self { digest, layer }
    }

    /// Digest of the Directory.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Directory of the assembled tree, relative to the cache directory.
    pub(crate) fn relative_path(&self) -> &str {
        self.layer.relative_path()
    }
}
