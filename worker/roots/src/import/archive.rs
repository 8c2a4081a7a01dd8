//! Tar archives: their entries, as changes of a tree.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bitzel_cas::directory_tree::MAX_DEPTH;
use tar::EntryType;

use super::ImportedRoot;
use super::limited_reader::{HeaderBudget, LimitedReader};
use super::spool::{Spool, SpooledFiles};
use super::stream::decompressed;
use crate::error::Error;
use crate::losses::{Loss, Losses};
use crate::root_tree::{Attributes, MAX_ENTRIES, RootFileEntry, RootTree};

/// Start of names that an image layer uses for removed entries.
const WHITEOUT: &str = ".wh.";
/// Name that empties the directory it is in.
const OPAQUE: &str = ".wh..wh..opq";
/// Start of names that are reserved for other notes of union file systems.
const RESERVED: &str = ".wh..wh.";

/// Limit of an archive in bytes, without compression.
pub(super) const MAX_ARCHIVE_BYTES: u64 = 64 << 30;
/// Limit of the memory for all paths of an archive in bytes.
const MAX_PATH_BYTES: u64 = 1 << 30;
/// Estimate of the memory for each name of a path, beside its text, in bytes.
const NAME_OVERHEAD_BYTES: u64 = 48;

/// A change that an archive makes to a tree.
enum Change {
    Directory(Attributes),
    File(RootFileEntry),
    Symlink { target: String, mtime_seconds: i64 },
    Hardlink(Vec<String>),
}

/// Entries of one archive.
#[derive(Default)]
pub(super) struct ArchiveEntries {
    /// Removed entries, and directories that are emptied (true). They concern the layers below.
    whiteouts: Vec<(Vec<String>, bool)>,
    changes: Vec<(Vec<String>, Change)>,
    losses: Losses,
    /// Entries that were read.
    count: u64,
    /// Memory for their paths.
    path_bytes: u64,
}

/// A whole root in one archive.
pub(super) struct Archive {
    tree: RootTree,
    losses: Losses,
}

impl Archive {
    pub(super) fn read(path: &Path, spool: &mut Spool) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io_at("open", path))?;
        let not_an_archive = |reason: String| Error::NotARoot {
            path: path.to_owned(),
            reason: format!("it is neither a directory nor a tar archive: {reason}"),
        };
        let reader = decompressed(file).map_err(|error| not_an_archive(error.to_string()))?;
        let entries = ArchiveEntries::read(reader, false, spool)?;
        if entries.changes.is_empty() {
            return Err(not_an_archive("it has no entries".to_owned()));
        }
        let (mut tree, mut losses) = (RootTree::default(), Losses::default());
        entries.apply(&mut tree, &mut losses)?;
        Ok(Self { tree, losses })
    }

    /// True if it holds an OCI image layout, as `docker save` and `skopeo copy … oci-archive:` write it.
    pub(super) fn is_image_layout(&self) -> bool {
        ["oci-layout", "index.json"]
            .iter()
            .all(|name| self.tree.file(&[name]).is_some())
    }

    /// True if it holds an image as `docker save` before Docker 25 writes it.
    pub(super) fn is_saved_image(&self) -> bool {
        self.tree.file(&["manifest.json"]).is_some()
    }

    pub(super) fn into_tree(self) -> RootTree {
        self.tree
    }

    pub(super) fn finish(self, spool: Spool) -> Result<ImportedRoot, Error> {
        finish(&self.tree, self.losses, spool)
    }
}

/// Encodes a tree whose files are in a spool.
pub(super) fn finish(tree: &RootTree, losses: Losses, spool: Spool) -> Result<ImportedRoot, Error> {
    let root = tree.encode()?;
    let SpooledFiles { directory, mut files } = spool.into_directory();
    // Not those that a later layer replaced.
    files.retain(|digest, _| root.files.binary_search(digest).is_ok());
    Ok(ImportedRoot {
        root,
        losses,
        files,
        _spool: Some(directory),
    })
}

impl ArchiveEntries {
    /// Reads an archive. If it is an image layer, some names stand for the removal of entries of other layers.
    pub(super) fn read(reader: impl Read, is_layer: bool, spool: &mut Spool) -> Result<Self, Error> {
        let damaged = |error: std::io::Error| Error::Entry {
            entry: "next to come".to_owned(),
            reason: format!("cannot be read: {error}"),
        };
        let mut entries = Self::default();
        let headers = HeaderBudget::default();
        let mut archive = tar::Archive::new(LimitedReader::new(reader, MAX_ARCHIVE_BYTES, headers.clone()));
        let mut members = archive.entries().map_err(damaged)?;
        loop {
            headers.begin();
            let Some(entry) = members.next() else {
                return Ok(entries);
            };
            headers.end();
            let mut entry = entry.map_err(damaged)?;
            entries.count(&entry)?;
            entries.add(&mut entry, is_layer, spool)?;
            // The library would skip the rest together with the next header.
            io::copy(&mut entry, &mut io::sink()).map_err(damaged)?;
        }
    }

    /// Counts an entry. Entries gather before the tree is made, whose limits come too late.
    fn count(&mut self, entry: &tar::Entry<'_, impl Read>) -> Result<(), Error> {
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(Error::TooLarge(format!("{MAX_ENTRIES} entries")));
        }
        let link = entry.link_name_bytes();
        for path in [Some(entry.path_bytes()), link].into_iter().flatten() {
            let names = path.split(|byte| *byte == b'/').count() as u64;
            self.path_bytes += path.len() as u64 + names * NAME_OVERHEAD_BYTES;
        }
        if self.path_bytes > MAX_PATH_BYTES {
            return Err(Error::TooLarge(format!("{MAX_PATH_BYTES} bytes of paths")));
        }
        Ok(())
    }

    fn add(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        is_layer: bool,
        spool: &mut Spool,
    ) -> Result<(), Error> {
        let raw = entry.path_bytes().into_owned();
        let shown = String::from_utf8_lossy(&raw).into_owned();
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            return Ok(());
        }
        let Ok(name) = str::from_utf8(&raw) else {
            self.losses.add(Loss::NotUtf8, shown);
            return Ok(());
        };
        let path = components(name, &shown)?;
        let shown = path.join("/");
        if is_layer && self.is_whiteout(&path) {
            return Ok(());
        }
        self.refuse_unknown_extensions(entry, &shown)?;
        let refused = |reason: String| Error::Entry {
            entry: shown.clone(),
            reason,
        };
        let number = |result: std::io::Result<u64>| {
            result.map_err(|error| refused(format!("has a malformed header: {error}")))
        };
        let header = entry.header();
        let mode = header
            .mode()
            .map_err(|error| refused(format!("has a malformed mode: {error}")))?;
        let mtime_seconds = i64::try_from(number(header.mtime())?).unwrap_or(i64::MAX);
        let attributes = Attributes { mode, mtime_seconds };
        let has_owner = number(header.uid())? != 0 || number(header.gid())? != 0;
        let link = |entry: &tar::Entry<'_, _>| {
            let target = entry.link_name_bytes();
            target.map(|target| String::from_utf8(target.into_owned()))
        };
        let change = match header.entry_type() {
            EntryType::Directory => Change::Directory(attributes),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let size = entry.size();
                Change::File(RootFileEntry {
                    digest: spool.add(entry, size, &shown)?,
                    attributes,
                    inode: None,
                })
            }
            EntryType::Symlink => match link(entry) {
                Some(Ok(target)) => Change::Symlink {
                    target,
                    mtime_seconds,
                },
                Some(Err(_)) => {
                    self.losses.add(Loss::NotUtf8, shown);
                    return Ok(());
                }
                None => return Err(refused("is a symlink without a target".to_owned())),
            },
            EntryType::Link => match link(entry) {
                Some(Ok(target)) => Change::Hardlink(components(&target, &shown)?),
                Some(Err(_)) => {
                    self.losses.add(Loss::NotUtf8, shown);
                    return Ok(());
                }
                None => return Err(refused("is a hardlink without a target".to_owned())),
            },
            EntryType::Char | EntryType::Block => {
                self.losses.add(Loss::Device, shown);
                return Ok(());
            }
            EntryType::Fifo => {
                self.losses.add(Loss::NamedPipe, shown);
                return Ok(());
            }
            other => {
                return Err(refused(format!(
                    "is of the unknown type {:?}",
                    other.as_byte() as char
                )));
            }
        };
        // A hardlink repeats the owner and the mode of its target, and a symlink's mode means nothing.
        if !matches!(change, Change::Hardlink(_)) {
            if has_owner {
                self.losses.add(Loss::Owner, shown.clone());
            }
            if mode & 0o6000 != 0 && !matches!(change, Change::Symlink { .. }) {
                self.losses.add(Loss::SetId, shown.clone());
            }
        }
        self.changes.push((path, change));
        Ok(())
    }

    /// Notes extended attributes as lost. Refuses what would give other contents if it were ignored.
    fn refuse_unknown_extensions(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        shown: &str,
    ) -> Result<(), Error> {
        let refused = |reason: &str| Error::Entry {
            entry: shown.to_owned(),
            reason: reason.to_owned(),
        };
        let extensions = entry
            .pax_extensions()
            .map_err(|_| refused("has a malformed PAX header"))?;
        let mut has_attributes = false;
        for extension in extensions.into_iter().flatten() {
            let extension = extension.map_err(|_| refused("has a malformed PAX header"))?;
            let key = extension.key_bytes();
            if key.starts_with(b"GNU.sparse.") {
                return Err(refused(
                    "is sparse in a form that is not known: write the archive without --sparse",
                ));
            }
            has_attributes |= key.starts_with(b"SCHILY.xattr.") || key.starts_with(b"LIBARCHIVE.xattr.");
        }
        if has_attributes {
            self.losses.add(Loss::ExtendedAttributes, shown);
        }
        Ok(())
    }

    /// Notes a whiteout. False if the entry is none.
    fn is_whiteout(&mut self, path: &[String]) -> bool {
        let Some((name, parents)) = path.split_last() else {
            return false;
        };
        if name == OPAQUE {
            self.whiteouts.push((parents.to_vec(), true));
        } else if let Some(removed) = name.strip_prefix(WHITEOUT) {
            if !name.starts_with(RESERVED) {
                let path = parents.iter().cloned().chain([removed.to_owned()]).collect();
                self.whiteouts.push((path, false));
            }
        } else {
            return false;
        }
        true
    }

    /// Makes the changes. Whiteouts come first: they do not concern entries of their own layer.
    pub(super) fn apply(self, tree: &mut RootTree, losses: &mut Losses) -> Result<(), Error> {
        for (path, is_opaque) in self.whiteouts {
            if is_opaque {
                tree.clear(&path)?;
            } else {
                tree.remove(&path)?;
            }
        }
        for (path, change) in self.changes {
            match change {
                Change::Directory(attributes) => tree.add_directory(&path, attributes)?,
                Change::File(file) => tree.add_file(&path, file)?,
                Change::Symlink {
                    target,
                    mtime_seconds,
                } => tree.add_symlink(&path, target, mtime_seconds)?,
                Change::Hardlink(target) => tree.add_hardlink(&path, &target)?,
            }
        }
        losses.merge(self.losses);
        Ok(())
    }
}

/// Names on the way to an entry. A leading `/` counts for nothing, as with tar itself.
fn components(path: &str, shown: &str) -> Result<Vec<String>, Error> {
    let mut names = vec![];
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                return Err(Error::Entry {
                    entry: shown.to_owned(),
                    reason: "leads out of the archive with \"..\"".to_owned(),
                });
            }
            name if names.len() < MAX_DEPTH => names.push(name.to_owned()),
            _ => return Err(Error::TooLarge(format!("{MAX_DEPTH} levels of directories"))),
        }
    }
    Ok(names)
}
