//! Directory of data store snapshots.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use bitzel_proto::DigestFunction;

use super::cache_eviction::mark_used;
use super::error::FrontEndError;
use super::exporter::open_regular;

/// Length of a SHA-256 in hex.
const NAME_LENGTH: usize = 64;
/// Size of the pieces in which a file is copied, in bytes.
const PIECE_BYTES: usize = 1 << 16;

/// Directory of data store snapshots and of compiled Python: files that are named by their SHA-256. All build directories
/// share it, so that a file enters it only when its content was hashed.
#[derive(Debug, Clone)]
pub struct SnapshotDirectory {
    directory: PathBuf,
}

impl SnapshotDirectory {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The directory, in which each snapshot is named by its SHA-256 in hex.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Path of the snapshot with this SHA-256.
    pub fn path(&self, sha256: &str) -> PathBuf {
        self.directory.join(sha256)
    }

    /// Copies a file that a sandbox has written, unless there is one with this SHA-256. A name that is no SHA-256, or not
    /// that of the content, is an error: metadata may have chosen it. Blocks.
    pub(crate) fn adopt(&self, sha256: &str, written: &Path) -> Result<(), FrontEndError> {
        let is_name = sha256.len() == NAME_LENGTH
            && sha256
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_name {
            return Err(FrontEndError::Malformed {
                reason: format!("{sha256:?} is not the name of a snapshot"),
            });
        }
        if mark_used(&self.path(sha256)) {
            return Ok(());
        }
        if self.copy(sha256, written).map_err(FrontEndError::io(written))? {
            Ok(())
        } else {
            Err(FrontEndError::Malformed {
                reason: format!("the content of the snapshot {sha256} has another digest"),
            })
        }
    }

    /// Copies a file. Returns false, and leaves nothing, if its content has another SHA-256.
    fn copy(&self, sha256: &str, written: &Path) -> io::Result<bool> {
        let mut source = open_regular(written)?;
        let mut target = tempfile::Builder::new().tempfile_in(&self.directory)?;
        let mut hasher = DigestFunction::Sha256.hasher();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = source.read(&mut piece)?;
            if length == 0 {
                break;
            }
            hasher.update(&piece[..length]);
            target.write_all(&piece[..length])?;
        }
        if hasher.finish().hash_hex() != sha256 {
            return Ok(false);
        }
        target.persist(self.path(sha256))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// SHA-256 of "content".
    const NAME: &str = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";

    #[test]
    fn adopts_a_file_under_its_digest_only() {
        let [snapshots, sandbox] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let directory = SnapshotDirectory::new(snapshots.path().to_owned());
        let written = sandbox.path().join("file");
        fs::write(&written, "other").unwrap();
        let error = directory.adopt(NAME, &written).unwrap_err();
        assert!(error.to_string().contains("has another digest"), "{error}");
        assert_eq!(fs::read_dir(snapshots.path()).unwrap().count(), 0);
        fs::write(&written, "content").unwrap();
        directory.adopt(NAME, &written).unwrap();
        assert_eq!(fs::read_to_string(directory.path(NAME)).unwrap(), "content");
        // One that exists is not read again.
        fs::remove_file(&written).unwrap();
        directory.adopt(NAME, &written).unwrap();
    }

    #[test]
    fn refuses_names_that_lead_to_other_files() {
        let [snapshots, sandbox] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let directory = SnapshotDirectory::new(snapshots.path().to_owned());
        let secret = sandbox.path().join("secret");
        fs::write(&secret, "content").unwrap();
        let upper_case = NAME.to_uppercase();
        for name in [secret.to_str().unwrap(), "../secret", "", &upper_case] {
            let error = directory.adopt(name, &secret).unwrap_err();
            assert!(
                error.to_string().contains("not the name of a snapshot"),
                "{error}"
            );
        }
        let link = sandbox.path().join("link");
        symlink(&secret, &link).unwrap();
        directory.adopt(NAME, &link).unwrap_err();
        assert!(!directory.path(NAME).exists());
    }
}
