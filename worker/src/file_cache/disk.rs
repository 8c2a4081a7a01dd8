//! Files of the cache on disk. Everything here blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bitzel_proto::Digest;
use rayon::prelude::*;
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, Mode, StatxAttributes, StatxFlags, chmod, fchmod, flistxattr, fremovexattr, futimens, statx,
};
use rustix::io::Errno;

use super::key::FileKey;
use crate::error::Error;
use crate::node_properties::DEFAULT_MTIME;
use crate::scratch::Scratch;

/// A file that is being written. It goes away unless it is published.
#[derive(Debug)]
pub(super) struct TemporaryFile {
    relative: String,
    path: std::path::PathBuf,
    pub file: File,
    published: bool,
}

impl TemporaryFile {
    pub(super) fn create(scratch: &Scratch) -> Result<Self, Error> {
        let relative = scratch.fresh("temporary");
        let path = scratch.root().join(&relative);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io(format!("create {}", path.display())))?;
        Ok(Self {
            relative,
            path,
            file,
            published: false,
        })
    }

    /// Gives the file the attributes of `key` and renames it into place.
    pub(super) fn publish(mut self, scratch: &Scratch, key: &FileKey) -> Result<(), Error> {
        let target = scratch.root().join(super::FileCache::relative_path(key));
        self.set_attributes(key)
            .and_then(|()| match fs::rename(&self.path, &target) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    target.parent().map_or(Ok(()), fs::create_dir_all)?;
                    fs::rename(&self.path, &target)
                }
                other => other,
            })
            .map_err(Error::io(format!(
                "publish {} as {}",
                self.relative,
                target.display()
            )))?;
        self.published = true;
        Ok(())
    }

    fn set_attributes(&self, key: &FileKey) -> io::Result<()> {
        let mtime = key.identity.map_or(DEFAULT_MTIME, |identity| identity.mtime);
        fchmod(&self.file, Mode::from_raw_mode(key.mode))?;
        futimens(&self.file, &mtime.timestamps())?;
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes one small blob, checked, under all its keys.
pub(super) fn write_small(
    scratch: &Scratch,
    digest: Digest,
    blob: &[u8],
    keys: &[FileKey],
) -> Result<(), Error> {
    let actual = digest.function().digest(blob);
    if actual != digest {
        return Err(bitzel_cas::Error::DigestMismatch {
            expected: digest,
            actual,
        }
        .into());
    }
    for key in keys {
        let mut file = TemporaryFile::create(scratch)?;
        file.file
            .write_all(blob)
            .map_err(Error::io(format!("write {}", file.path.display())))?;
        file.publish(scratch, key)?;
    }
    Ok(())
}

/// Makes the files `keys` with the content of the cached file `source`, without a download. The kernel copies, or
/// shares the blocks where the file system can.
pub(super) fn copy(scratch: &Scratch, source: &Path, keys: &[FileKey]) -> Result<(), Error> {
    for key in keys {
        let mut file = TemporaryFile::create(scratch)?;
        File::open(source)
            .and_then(|mut source| io::copy(&mut source, &mut file.file))
            .map_err(Error::io(format!("copy {}", source.display())))?;
        file.publish(scratch, key)?;
    }
    Ok(())
}

/// Moves a file that an Action made, and that no process can write to any more, into the cache as `key`. `false` when it
/// cannot be a cached file: it carries attributes that a download would not give it.
pub(super) fn adopt(scratch: &Scratch, path: &Path, key: &FileKey) -> Result<bool, Error> {
    let failed = || Error::io(format!("adopt {}", path.display()));
    // Attributes of read-only files can only be removed by those who may write.
    chmod(path, Mode::RUSR | Mode::WUSR).map_err(failed())?;
    if scratch.elsewhere().is_some() {
        // On another file system, most likely.
        copy(scratch, path, std::slice::from_ref(key))?;
        return Ok(true);
    }
    let file = File::open(path).map_err(Error::io(format!("adopt {}", path.display())))?;
    let found = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(failed())?;
    if found.stx_attributes.contains(StatxAttributes::ENCRYPTED) {
        // Whoever has the key, which is another Action as well, can take it away.
        return Ok(false);
    }
    let mut names = Vec::with_capacity(4096);
    match flistxattr(&file, spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => names.clear(),
        Err(Errno::RANGE) => return Ok(false),
        Err(error) => return Err(failed()(error)),
    }
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // Where overlayfs noted from which input it copied the file.
        if !name.starts_with(b"user.overlay.") {
            return Ok(false);
        }
        fremovexattr(&file, name).map_err(failed())?;
    }
    let file = TemporaryFile {
        relative: path.display().to_string(),
        path: path.to_owned(),
        file,
        published: false,
    };
    file.publish(scratch, key)?;
    Ok(true)
}

/// The keys of all files that are there whole. What is not recognised, or has another size than its name says (a
/// machine that lost power may leave that), is removed.
pub(super) fn scan(scratch: &Scratch) -> Result<Vec<FileKey>, Error> {
    let root = scratch.root().join("files");
    let failed = || Error::io(format!("read {}", root.display()));
    let directories: Vec<_> = fs::read_dir(&root)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(failed())?;
    let keys: io::Result<Vec<Vec<FileKey>>> = directories
        .par_iter()
        .map(|entry| scan_directory(&entry.path()))
        .collect();
    Ok(keys.map_err(failed())?.concat())
}

fn scan_directory(directory: &Path) -> io::Result<Vec<FileKey>> {
    let prefix = directory.file_name().unwrap_or_default().to_string_lossy();
    let mut keys = vec![];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let key = FileKey::parse(&format!("{prefix}/{}", entry.file_name().to_string_lossy()));
        match key {
            Some(key) if entry.metadata()?.len() == key.digest.size_bytes() => keys.push(key),
            _ => fs::remove_file(entry.path())?,
        }
    }
    Ok(keys)
}
