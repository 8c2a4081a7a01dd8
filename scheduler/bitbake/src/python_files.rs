//! The front end's Python files, which are embedded in bitzel's program file.

use std::fs;
use std::path::{Path, PathBuf};

use bitzel_proto::DigestFunction;
use include_dir::{Dir, include_dir};

use super::error::FrontEndError;

static PYTHON: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/python");

/// Python files on disk, in a directory that is named by their digest.
#[derive(Debug, Clone)]
pub(crate) struct PythonFiles {
    pub(crate) directory: PathBuf,
    /// Digest of all files: another version of bitzel never uses the cache of this one's exporter.
    pub(crate) digest: String,
}

impl PythonFiles {
    /// Writes the files below `cache`, unless they exist.
    pub(crate) fn install(cache: &Path) -> Result<Self, FrontEndError> {
        let mut files = Vec::new();
        list_sources(&PYTHON, &mut files);
        files.sort_by_key(|(path, _)| *path);
        let mut hasher = DigestFunction::Sha256.hasher();
        for (path, contents) in &files {
            hasher.update(format!("{} {}\n", path.display(), contents.len()).as_bytes());
            hasher.update(contents);
        }
        let digest = hasher.finish().hash_hex();
        let directory = cache.join("python").join(&digest);
        if !directory.exists() {
            // Written under another name first: a killed bitzel leaves no incomplete directory.
            let temporary = cache
                .join("python")
                .join(format!("{digest}.{}", std::process::id()));
            for (path, contents) in files {
                let path = temporary.join(path);
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).map_err(FrontEndError::io(parent))?;
                }
                fs::write(&path, contents).map_err(FrontEndError::io(&path))?;
            }
            if fs::rename(&temporary, &directory).is_err() {
                // Another bitzel has installed them at the same time.
                fs::remove_dir_all(&temporary).map_err(FrontEndError::io(&temporary))?;
            }
        }
        Ok(Self { directory, digest })
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.directory.join(relative)
    }
}

/// Lists the source files of an embedded directory.
fn list_sources(directory: &'static Dir<'static>, files: &mut Vec<(&'static Path, &'static [u8])>) {
    for file in directory.files() {
        // Only sources: a Python cache directory of the build tree is not part of the program.
        if file.path().extension().is_some_and(|extension| extension == "py")
            && !file.path().starts_with("tests")
        {
            files.push((file.path(), file.contents()));
        }
    }
    for child in directory.dirs() {
        list_sources(child, files);
    }
}
