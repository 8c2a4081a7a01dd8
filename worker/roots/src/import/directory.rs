//! Directories of this machine.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bitzel_proto::Digest;
use rayon::prelude::*;

use super::ImportedRoot;
use crate::error::Error;
use crate::losses::{Loss, Losses};
use crate::root_digest::ROOT_DIGEST_FUNCTION;
use crate::root_tree::{Attributes, RootFileEntry, RootTree};

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 18;

/// Reads a directory, and of other file systems that are mounted in it the mount points.
pub(super) fn import(top: &Path) -> Result<ImportedRoot, Error> {
    let metadata = fs::metadata(top).map_err(Error::io_at("read", top))?;
    let mut walk = Walk {
        device: metadata.dev(),
        tree: RootTree::default(),
        losses: Losses::default(),
        files: vec![],
        inodes: HashMap::new(),
    };
    walk.directory(top, &mut vec![], &metadata)?;
    let digests: Vec<Digest> = walk
        .files
        .par_iter()
        .map(|found| digest_of(&found.source))
        .collect::<Result<_, Error>>()?;
    let mut files = HashMap::new();
    for (digest, found) in digests.into_iter().zip(&walk.files) {
        files.entry(digest).or_insert_with(|| found.source.clone());
        let file = RootFileEntry {
            digest,
            attributes: found.attributes,
            inode: found.inode,
        };
        walk.tree.add_file(&found.path, file)?;
    }
    Ok(ImportedRoot {
        root: walk.tree.encode()?,
        losses: walk.losses,
        files,
        _spool: None,
    })
}

struct FoundFile {
    path: Vec<String>,
    source: PathBuf,
    attributes: Attributes,
    inode: Option<u64>,
}

struct Walk {
    device: u64,
    tree: RootTree,
    losses: Losses,
    files: Vec<FoundFile>,
    /// Numbers of inodes with several names.
    inodes: HashMap<u64, u64>,
}

impl Walk {
    fn directory(&mut self, source: &Path, path: &mut Vec<String>, metadata: &Metadata) -> Result<(), Error> {
        let attributes = self.note(source, path, metadata);
        self.tree.add_directory(path, attributes)?;
        if metadata.dev() != self.device {
            self.losses.add(Loss::Mount, path.join("/"));
            return Ok(());
        }
        let entries = fs::read_dir(source).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(Error::io_at("read", source))?;
        // The examples of losses are the same each time.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                let shown = Path::new(&path.join("/")).join(entry.file_name());
                self.losses.add(Loss::NotUtf8, shown.to_string_lossy());
                continue;
            };
            path.push(name);
            self.entry(&entry.path(), path)?;
            path.pop();
        }
        Ok(())
    }

    fn entry(&mut self, source: &Path, path: &mut Vec<String>) -> Result<(), Error> {
        let metadata = fs::symlink_metadata(source).map_err(Error::io_at("read", source))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.directory(source, path, &metadata)?;
        } else if kind.is_file() {
            let attributes = self.note(source, path, &metadata);
            let number = self.inodes.len() as u64;
            let inode = (metadata.nlink() > 1).then(|| *self.inodes.entry(metadata.ino()).or_insert(number));
            self.files.push(FoundFile {
                path: path.clone(),
                source: source.to_owned(),
                attributes,
                inode,
            });
        } else if kind.is_symlink() {
            let target = fs::read_link(source).map_err(Error::io_at("read", source))?;
            match target.into_os_string().into_string() {
                Ok(target) => {
                    self.note_owner(path, &metadata);
                    self.tree.add_symlink(path, target, metadata.mtime())?;
                }
                Err(_) => self.losses.add(Loss::NotUtf8, path.join("/")),
            }
        } else {
            let loss = if kind.is_fifo() {
                Loss::NamedPipe
            } else if kind.is_socket() {
                Loss::Socket
            } else {
                Loss::Device
            };
            self.losses.add(loss, path.join("/"));
        }
        Ok(())
    }

    /// Attributes of a file or directory. Notes those that are lost.
    fn note(&mut self, source: &Path, path: &[String], metadata: &Metadata) -> Attributes {
        self.note_owner(path, metadata);
        if metadata.mode() & 0o6000 != 0 {
            self.losses.add(Loss::SetId, path.join("/"));
        }
        if has_extended_attributes(source) {
            self.losses.add(Loss::ExtendedAttributes, path.join("/"));
        }
        Attributes {
            mode: metadata.mode() & 0o7777,
            mtime_seconds: metadata.mtime(),
        }
    }

    fn note_owner(&mut self, path: &[String], metadata: &Metadata) {
        if metadata.uid() != 0 || metadata.gid() != 0 {
            self.losses.add(Loss::Owner, path.join("/"));
        }
    }
}

fn has_extended_attributes(path: &Path) -> bool {
    let mut names = [0; 1];
    match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length > 0,
        // There are more than fit.
        Err(error) => error == rustix::io::Errno::RANGE,
    }
}

fn digest_of(path: &Path) -> Result<Digest, Error> {
    let failed = |error: io::Error| Error::io_at("read", path)(error);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = ROOT_DIGEST_FUNCTION.hasher();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
