//! The Python half of the front end, which is part of bitzel's program file.

use std::fs;
use std::path::{Path, PathBuf};

use bitzel_proto::DigestFunction;
use include_dir::{Dir, include_dir};

use super::error::FrontEndError;

static PYTHON: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/python");

/// The Python files on disk, in a directory named after their contents.
#[derive(Debug, Clone)]
pub(crate) struct PythonFiles {
    pub(crate) directory: PathBuf,
    /// Over all files: another bitzel never uses what this one's exporter cached.
    pub(crate) digest: String,
}

impl PythonFiles {
    /// Puts the files below `cache`, unless they are there.
    pub(crate) fn install(cache: &Path) -> Result<Self, FrontEndError> {
        let mut files = Vec::new();
        collect(&PYTHON, &mut files);
        files.sort_by_key(|(path, _)| *path);
        let mut hasher = DigestFunction::Sha256.hasher();
        for (path, contents) in &files {
            hasher.update(format!("{} {}\n", path.display(), contents.len()).as_bytes());
            hasher.update(contents);
        }
        let digest = hasher.finish().hash_hex();
        let directory = cache.join("python").join(&digest);
        if !directory.exists() {
            // Made under another name first: a killed bitzel leaves no half of it behind.
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
                // Another bitzel was faster.
                fs::remove_dir_all(&temporary).map_err(FrontEndError::io(&temporary))?;
            }
        }
        Ok(Self { directory, digest })
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.directory.join(relative)
    }
}

fn collect(directory: &'static Dir<'static>, files: &mut Vec<(&'static Path, &'static [u8])>) {
    for file in directory.files() {
        // Sources only: a Python cache directory of the build tree is not part of the program.
        if file.path().extension().is_some_and(|extension| extension == "py")
            && !file.path().starts_with("tests")
        {
            files.push((file.path(), file.contents()));
        }
    }
    for child in directory.dirs() {
        collect(child, files);
    }
}
