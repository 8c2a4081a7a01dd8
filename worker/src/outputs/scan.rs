//! Finds and hashes what the command changed below its outputs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bitzel_proto::reapi::{FileNode, NodeProperties, SymlinkNode};
use bitzel_proto::{Digest, DigestFunction};
use rayon::prelude::*;
use rustix::fs::{Dir, OFlags};
use tokio_util::sync::CancellationToken;

use super::merged_tree::{MergedNode, MergedTree, check_depth, failed};
use super::opening::{digest_and_pass_on, open_plain};
use crate::error::Error;
use crate::file_cache::{CopyWriter, FileCache, FileKey, OutputCopy};
use crate::node_properties::{Mtime, WantedProperties};
use crate::recursion;
use bitzel_cas::BlobSource;

/// Bytes of all outputs of one Action: far more than any build makes, and some minutes to hash.
const MAX_OUTPUT_BYTES: u64 = 1 << 40;

/// From this size on, a file that was copied is removed at once, mostly before it is written to disk.
const LARGE: u64 = 1 << 20;

/// A node of an output.
#[derive(Debug)]
pub(super) enum ScannedNode {
    File(ScannedFile),
    Symlink(ScannedSymlink),
    Directory(ScannedDirectory),
}

/// A file: input as it was, or changed.
#[derive(Debug)]
pub(super) enum ScannedFile {
    Input(FileNode),
    /// Index into [`HashedFiles`].
    Changed(usize),
}

/// A symlink with its properties.
#[derive(Debug)]
pub(super) struct ScannedSymlink {
    pub target: String,
    pub attributes: Option<Attributes>,
    pub node_properties: Option<NodeProperties>,
}

impl ScannedSymlink {
    /// Those of the input, or the wanted ones of a changed symlink. Every symlink has mode 0777: it says nothing.
    pub(super) fn properties(&self, wanted: WantedProperties) -> Option<NodeProperties> {
        let wanted = WantedProperties {
            mtime: wanted.mtime,
            ..WantedProperties::default()
        };
        match self.attributes {
            Some(attributes) => wanted.node_properties(attributes.mode, attributes.mtime, None),
            None => self.node_properties.clone(),
        }
    }
}

/// A directory: input as it was with all that is below, or changed.
#[derive(Debug)]
pub(super) enum ScannedDirectory {
    Input(Digest),
    Changed {
        entries: BTreeMap<String, ScannedNode>,
        attributes: Attributes,
    },
}

/// Mode and time of a changed node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub mode: u32,
    pub mtime: Mtime,
}

impl Attributes {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            mode: metadata.mode() & 0o7777,
            mtime: Mtime {
                seconds: metadata.mtime(),
                nanos: metadata.mtime_nsec().try_into().unwrap_or(0),
            },
        }
    }
}

#[derive(Debug)]
struct ChangedFile {
    /// Relative to the input root.
    path: String,
    on_disk: PathBuf,
    attributes: Attributes,
    size: u64,
    /// Device and inode, if the file has several names.
    inode: Option<(u64, u64)>,
}

impl ChangedFile {
    /// Hashes it, and copies it if there is a `cache` for that.
    fn hash(
        &self,
        function: DigestFunction,
        cache: Option<&FileCache>,
        cancellation: &CancellationToken,
    ) -> Result<(Digest, Option<OutputCopy>), Error> {
        let mut copy = cache.and_then(|cache| cache.copy_writer(self.size));
        let write = |bytes: &[u8]| {
            if let Some(copy) = &mut copy {
                copy.write(bytes);
            }
        };
        let digest = digest_and_pass_on(function, &self.on_disk, self.size, cancellation, write)?;
        Ok((digest, copy.and_then(CopyWriter::finish)))
    }
}

/// Walks outputs and notes the files to hash.
#[derive(Debug)]
pub(super) struct Scanner<'scan, 'tree> {
    merged: &'scan MergedTree<'tree>,
    changed: Vec<ChangedFile>,
}

impl<'scan, 'tree> Scanner<'scan, 'tree> {
    pub(super) fn new(merged: &'scan MergedTree<'tree>) -> Self {
        Self {
            merged,
            changed: vec![],
        }
    }

    /// The node at a path with all that is below; `None` when nothing is there.
    pub(super) fn scan(&mut self, components: &[String]) -> Result<Option<ScannedNode>, Error> {
        let node = self.merged.lookup(components)?;
        node.map(|node| self.node(components.join("/"), node)).transpose()
    }

    fn node(&mut self, path: String, node: MergedNode<'tree>) -> Result<ScannedNode, Error> {
        let (metadata, beneath) = match node {
            MergedNode::InputFile(file) => return Ok(ScannedNode::File(ScannedFile::Input(file.clone()))),
            MergedNode::InputSymlink(symlink) => return Ok(input_symlink(symlink)),
            MergedNode::InputDirectory(digest) => {
                return Ok(ScannedNode::Directory(ScannedDirectory::Input(digest)));
            }
            MergedNode::Upper { metadata, beneath } => (metadata, beneath),
        };
        let attributes = Attributes::of(&metadata);
        let on_disk = self.merged.upper_path(&path);
        let kind = metadata.file_type();
        if kind.is_dir() {
            let entries = self.entries(&path, &on_disk, beneath)?;
            return Ok(ScannedNode::Directory(ScannedDirectory::Changed {
                entries,
                attributes,
            }));
        }
        if kind.is_symlink() {
            let target = fs::read_link(&on_disk).map_err(failed(&on_disk))?;
            let target = target
                .into_os_string()
                .into_string()
                .map_err(|target| Error::InvalidOutput {
                    path,
                    reason: format!(
                        "is a symlink whose target {} is not UTF-8",
                        target.to_string_lossy()
                    ),
                })?;
            return Ok(ScannedNode::Symlink(ScannedSymlink {
                target,
                attributes: Some(attributes),
                node_properties: None,
            }));
        }
        if !kind.is_file() {
            let what = if kind.is_fifo() {
                "a named pipe"
            } else if kind.is_socket() {
                "a socket"
            } else {
                "a device"
            };
            return Err(Error::InvalidOutput {
                path,
                reason: format!("is {what}; only files, directories and symlinks can be outputs"),
            });
        }
        self.changed.push(ChangedFile {
            path,
            on_disk,
            attributes,
            size: metadata.len(),
            inode: (metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino())),
        });
        Ok(ScannedNode::File(ScannedFile::Changed(self.changed.len() - 1)))
    }

    /// The entries of a directory of the upper side, merged with those of the input directory beneath it.
    fn entries(
        &mut self,
        path: &str,
        on_disk: &Path,
        beneath: Option<Digest>,
    ) -> Result<BTreeMap<String, ScannedNode>, Error> {
        let mut entries = BTreeMap::new();
        if let Some(digest) = beneath {
            let directory = self.merged.directory(digest)?;
            for file in &directory.files {
                let node = ScannedNode::File(ScannedFile::Input(file.clone()));
                entries.insert(file.name.clone(), node);
            }
            for symlink in &directory.symlinks {
                entries.insert(symlink.name.clone(), input_symlink(symlink));
            }
            for child in &directory.directories {
                let digest = Digest::from_wire_field(digest.function(), child.digest.as_ref())
                    .map_err(Error::digest("DirectoryNode.digest"))?;
                let node = ScannedNode::Directory(ScannedDirectory::Input(digest));
                entries.insert(child.name.clone(), node);
            }
        }
        for name in names(on_disk)? {
            let name = name.into_string().map_err(|name| Error::InvalidOutput {
                path: join(path, &name.to_string_lossy()),
                reason: "has a name that is not UTF-8".into(),
            })?;
            let child_on_disk = on_disk.join(&name);
            check_depth(&join(path, &name), &child_on_disk)?;
            let metadata = fs::symlink_metadata(&child_on_disk).map_err(failed(&child_on_disk))?;
            match self.merged.upper_node(&child_on_disk, metadata, beneath, &name)? {
                None => {
                    entries.remove(&name);
                }
                Some(node) => {
                    let node = recursion::level(|| self.node(join(path, &name), node))?;
                    entries.insert(name, node);
                }
            }
        }
        Ok(entries)
    }

    /// Hashes all changed files that were found, and copies them for `cache` on the way.
    pub(super) fn hash(
        self,
        function: DigestFunction,
        properties: WantedProperties,
        cache: Option<&FileCache>,
        cancellation: &CancellationToken,
    ) -> Result<HashedFiles, Error> {
        // One hash for each inode.
        let mut first_of_inode: HashMap<(u64, u64), usize> = HashMap::new();
        let mut groups: HashMap<(u64, u64), Vec<usize>> = HashMap::new();
        let mut to_hash = vec![];
        for (index, file) in self.changed.iter().enumerate() {
            let Some(inode) = file.inode else {
                to_hash.push(index);
                continue;
            };
            groups.entry(inode).or_default().push(index);
            if first_of_inode.insert(inode, index).is_none() {
                to_hash.push(index);
            }
        }
        let (mut bytes, mut room) = (0_u64, cache.map_or(0, FileCache::room_for_copies));
        let mut copied = HashSet::new();
        for index in &to_hash {
            let file = &self.changed[*index];
            bytes = bytes.saturating_add(file.size);
            check_size(&file.path, bytes)?;
            // The empty file is made without a download as well.
            if (1..=room).contains(&file.size) {
                room -= file.size;
                copied.insert(*index);
            }
        }
        let hashed: HashMap<usize, (Digest, Option<OutputCopy>)> = to_hash
            .into_par_iter()
            .map(|index| {
                let file = &self.changed[index];
                let cache = cache.filter(|_| copied.contains(&index));
                Ok((index, file.hash(function, cache, cancellation)?))
            })
            .collect::<Result<_, Error>>()?;
        let (digests, mut copies): (HashMap<usize, Digest>, HashMap<usize, Option<OutputCopy>>) = hashed
            .into_iter()
            .map(|(index, (digest, copy))| ((index, digest), (index, copy)))
            .unzip();
        // Only now: a file that two outputs have in common was hashed for each.
        for (index, _) in copies.iter().filter(|(_, copy)| copy.is_some()) {
            let file = &self.changed[*index];
            if file.size >= LARGE && file.inode.is_none() {
                // It goes with the Action otherwise.
                let _ = fs::remove_file(&file.on_disk);
            }
        }
        let mut group_names: HashMap<(u64, u64), (usize, String)> = HashMap::new();
        for (inode, members) in groups {
            let mut paths: Vec<&String> = members.iter().map(|index| &self.changed[*index].path).collect();
            paths.sort_unstable();
            paths.dedup();
            let hashed = members
                .iter()
                .copied()
                .find(|index| digests.contains_key(index))
                .unwrap_or(members[0]);
            let name = if paths.len() > 1 {
                paths[0].clone()
            } else {
                String::new()
            };
            group_names.insert(inode, (hashed, name));
        }
        let files = self.changed.into_iter().enumerate().map(|(index, file)| {
            let group = file.inode.and_then(|inode| group_names.get(&inode));
            let digest = digests[&group.map_or(index, |(hashed, _)| *hashed)];
            let name = group
                .map(|(_, name)| name.as_str())
                .filter(|name| !name.is_empty());
            HashedFile {
                node: FileNode {
                    name: String::new(),
                    digest: Some(digest.to_wire()),
                    is_executable: file.attributes.mode & 0o100 != 0,
                    node_properties: properties.node_properties(
                        file.attributes.mode,
                        file.attributes.mtime,
                        name,
                    ),
                },
                digest,
                path: file.path,
                on_disk: file.on_disk,
                copy: copies.remove(&index).flatten(),
            }
        });
        Ok(HashedFiles {
            files: files.collect(),
        })
    }
}

/// A changed file, hashed.
#[derive(Debug)]
struct HashedFile {
    /// Relative to the input root.
    path: String,
    node: FileNode,
    digest: Digest,
    on_disk: PathBuf,
    /// Of several names of one file, one has it.
    copy: Option<OutputCopy>,
}

/// All changed files, hashed.
#[derive(Debug)]
pub(super) struct HashedFiles {
    files: Vec<HashedFile>,
}

impl HashedFiles {
    /// The node of a file under the name that it has in its directory.
    pub(super) fn file_node(&self, name: String, file: &ScannedFile) -> FileNode {
        let node = match file {
            ScannedFile::Input(node) => node,
            ScannedFile::Changed(index) => &self.files[*index].node,
        };
        FileNode { name, ..node.clone() }
    }

    /// The files to upload, from where nobody changes them, if there is such a copy.
    pub(super) fn blobs(&self) -> Vec<(Digest, BlobSource)> {
        let copies = self
            .files
            .iter()
            .filter_map(|file| Some((file.digest, file.copy.as_ref()?.path())));
        let copies: HashMap<Digest, &Path> = copies.collect();
        let source = |file: &HashedFile| {
            copies
                .get(&file.digest)
                .copied()
                .unwrap_or(&file.on_disk)
                .to_owned()
        };
        let blobs = self
            .files
            .iter()
            .map(|file| (file.digest, BlobSource::File(source(file))));
        blobs.collect()
    }

    /// The copies, and what they are in the file cache.
    pub(super) fn into_copies(self, function: DigestFunction) -> Result<Vec<(FileKey, OutputCopy)>, Error> {
        let copies = self.files.into_iter().filter_map(|file| {
            let key = FileKey::of_node(function, &file.node, &file.path);
            file.copy.map(|copy| key.map(|key| (key, copy)))
        });
        copies.collect()
    }
}

fn input_symlink(symlink: &SymlinkNode) -> ScannedNode {
    ScannedNode::Symlink(ScannedSymlink {
        target: symlink.target.clone(),
        attributes: None,
        node_properties: symlink.node_properties.clone(),
    })
}

/// The names in a directory.
fn names(directory: &Path) -> Result<Vec<OsString>, Error> {
    let read = || -> rustix::io::Result<Vec<OsString>> {
        let opened = open_plain(directory, OFlags::DIRECTORY)?;
        let names = Dir::new(opened)?.map(|entry| Ok(entry?.file_name().to_bytes().to_vec()));
        let names = names.filter(|name| !matches!(name.as_deref(), Ok(b"." | b"..")));
        names.map(|name| name.map(OsString::from_vec)).collect()
    };
    read().map_err(failed(directory))
}

/// Refuses what would take hours to hash. A file takes a moment to make and no disk at all, whatever its size.
pub(crate) fn check_size(path: &str, bytes: u64) -> Result<(), Error> {
    if bytes > MAX_OUTPUT_BYTES {
        return Err(Error::InvalidOutput {
            path: path.into(),
            reason: format!("is, with the outputs before it, larger than {MAX_OUTPUT_BYTES} bytes"),
        });
    }
    Ok(())
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}
