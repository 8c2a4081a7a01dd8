//! Imports of root file systems: from a directory, a tar archive, or an OCI image layout.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bitzel_cas::{BlobSource, BlobStore, UploadSummary, upload_missing};
use bitzel_proto::Digest;
use tempfile::TempDir;

use crate::error::Error;
use crate::losses::Losses;
use crate::root_tree::EncodedRoot;

mod archive;
mod directory;
mod image;
mod limited_reader;
mod spool;
mod stream;

use archive::Archive;
use spool::Spool;

/// A root file system that was read. Its files lie where they were, or in a temporary directory.
#[derive(Debug)]
pub struct ImportedRoot {
    /// The tree.
    pub root: EncodedRoot,
    /// The parts that the tree does not have.
    pub losses: Losses,
    /// Files with the contents.
    files: HashMap<Digest, PathBuf>,
    _spool: Option<TempDir>,
}

impl ImportedRoot {
    /// Uploads what the store lacks.
    pub async fn upload(&self, store: &dyn BlobStore) -> Result<UploadSummary, Error> {
        let directories = self.root.directories.iter();
        let directories = directories.map(|(digest, bytes)| (*digest, BlobSource::Bytes(bytes.clone())));
        let files = self
            .files
            .iter()
            .map(|(digest, path)| (*digest, BlobSource::File(path.clone())));
        Ok(upload_missing(store, directories.chain(files)).await?)
    }
}

/// Reads the root file system at `path`: a directory, an OCI image layout, or an archive of either. `temporary` is a
/// directory for the contents of archives. Blocks.
pub fn import(path: &Path, temporary: &Path) -> Result<ImportedRoot, Error> {
    let metadata = std::fs::metadata(path).map_err(Error::io_at("read", path))?;
    if metadata.is_dir() {
        if path.join("oci-layout").is_file() && path.join("index.json").is_file() {
            let spool = Spool::create(temporary)?;
            return image::import(&image::Layout::Directory(path), spool);
        }
        return directory::import(path);
    }
    if !metadata.is_file() {
        return Err(Error::NotARoot {
            path: path.to_owned(),
            reason: "give a directory, a tar archive or an OCI image layout".to_owned(),
        });
    }
    let mut spool = Spool::create(temporary)?;
    let archive = Archive::read(path, &mut spool)?;
    let is_layout = archive.is_image_layout();
    if is_layout || archive.is_saved_image() {
        let layout = archive.into_tree();
        let blobs = spool.into_directory();
        let spool = Spool::create(temporary)?;
        let layout = image::Layout::Archive {
            tree: &layout,
            blobs: &blobs,
        };
        return if is_layout {
            image::import(&layout, spool)
        } else {
            image::import_saved(&layout, spool)
        };
    }
    archive.finish(spool)
}

#[cfg(test)]
mod tests;
