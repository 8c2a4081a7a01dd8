//! Digests and copies of the changed files.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use bitzel_cas::BlobSource;
use bitzel_proto::reapi::FileNode;
use bitzel_proto::{Digest, DigestFunction};
use rayon::prelude::*;
use tokio_util::sync::CancellationToken;

use super::changed_file::{ChangedFile, Inode};
use super::scan::ScannedFile;
use crate::bounds::{Bound, BoundReached};
use crate::error::Error;
use crate::file_cache::{FileCache, FileKey, OutputCopy};
use crate::node_properties::OutputProperties;

/// Size from which on an output file is removed as soon as it is copied, mostly before it is written to disk.
const EARLY_REMOVAL_BYTES: u64 = 1 << 20;

/// All changed files with their digests.
#[derive(Debug)]
pub(super) struct HashedFiles {
    files: Vec<HashedFile>,
}

#[derive(Debug)]
struct HashedFile {
    /// Path relative to the input root.
    path: String,
    node: FileNode,
    digest: Digest,
    on_disk: PathBuf,
    /// Copy for the file cache. Of the names of one inode, only the first has it.
    copy: Option<OutputCopy>,
}

impl HashedFiles {
    /// Hashes files in parallel, each inode once, and copies them for `cache` in the same pass.
    pub(super) fn hash(
        changed: Vec<ChangedFile>,
        function: DigestFunction,
        properties: OutputProperties,
        cache: Option<&FileCache>,
        cancellation: &CancellationToken,
    ) -> Result<Self, Error> {
        let names = names_by_inode(&changed);
        let first_name = |index: usize, file: &ChangedFile| match file.inode {
            Some(inode) => names[&inode][0],
            None => index,
        };
        let to_hash: Vec<usize> = changed
            .iter()
            .enumerate()
            .filter(|(index, file)| first_name(*index, file) == *index)
            .map(|(index, _)| index)
            .collect();
        let copied = select_copied(&changed, &to_hash, cache);
        let mut hashed: HashMap<usize, (Digest, Option<OutputCopy>)> = to_hash
            .into_par_iter()
            .map(|index| {
                let cache = cache.filter(|_| copied.contains(&index));
                Ok((index, changed[index].hash(function, cache, cancellation)?))
            })
            .collect::<Result<_, Error>>()?;
        // After all hashing: a file that belongs to two outputs was hashed for each.
        for (index, (_, copy)) in &hashed {
            let file = &changed[*index];
            if copy.is_some() && file.size >= EARLY_REMOVAL_BYTES && file.inode.is_none() {
                // If this fails, the file is removed with the directory of the Action.
                let _ = fs::remove_file(&file.on_disk);
            }
        }
        let groups = hardlink_groups(&changed, &names);
        let mut files = Vec::with_capacity(changed.len());
        for (index, file) in changed.into_iter().enumerate() {
            let (digest, _) = hashed[&first_name(index, &file)];
            let group = file.inode.and_then(|inode| groups.get(&inode));
            let attributes = file.attributes;
            let node = FileNode {
                name: String::new(),
                digest: Some(digest.to_wire()),
                is_executable: attributes.mode & 0o100 != 0,
                node_properties: properties.node_properties(
                    attributes.mode,
                    attributes.mtime,
                    group.map(String::as_str),
                ),
            };
            files.push(HashedFile {
                path: file.path,
                node,
                digest,
                on_disk: file.on_disk,
                copy: hashed.get_mut(&index).and_then(|(_, copy)| copy.take()),
            });
        }
        Ok(Self { files })
    }

    /// The node of a file, with any name.
    pub(super) fn node<'file>(&'file self, file: &'file ScannedFile) -> &'file FileNode {
        match file {
            ScannedFile::Input(node) => node,
            ScannedFile::Changed(index) => &self.files[*index].node,
        }
    }

    /// The files to upload. Where a copy exists, it is the source: nobody can change it.
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

    /// The copies with their keys in the file cache.
    pub(super) fn into_copies(self, function: DigestFunction) -> Result<Vec<(FileKey, OutputCopy)>, Error> {
        let copies = self.files.into_iter().filter_map(|file| {
            let key = FileKey::of_node(function, &file.node, &file.path);
            file.copy.map(|copy| key.map(|key| (key, copy)))
        });
        copies.collect()
    }
}

/// Indices of the names of each inode with several names, in the order of the scan.
fn names_by_inode(changed: &[ChangedFile]) -> HashMap<Inode, Vec<usize>> {
    let mut names: HashMap<Inode, Vec<usize>> = HashMap::new();
    for (index, file) in changed.iter().enumerate() {
        if let Some(inode) = file.inode {
            names.entry(inode).or_default().push(index);
        }
    }
    names
}

/// Refuses files that are larger than `allowed` together, each inode once, with the `symlink_bytes` of all targets. A sparse file of any size takes a moment to
/// create and no disk space, and hours to hash.
pub(super) fn check_size(changed: &[ChangedFile], symlink_bytes: u64, allowed: u64) -> Result<u64, Error> {
    let mut inodes = HashSet::new();
    let mut used = symlink_bytes;
    for file in changed {
        if file.inode.is_none_or(|inode| inodes.insert(inode)) {
            used = used.saturating_add(file.size);
        }
    }
    if used <= allowed {
        return Ok(used);
    }
    Err(Error::BoundReached(BoundReached {
        bound: Bound::OutputBytes,
        used: Some(used),
        allowed,
    }))
}

/// Selects the files to copy among those `to_hash`, as far as the cache has room.
fn select_copied(changed: &[ChangedFile], to_hash: &[usize], cache: Option<&FileCache>) -> HashSet<usize> {
    let mut room = cache.map_or(0, FileCache::max_copied_bytes);
    let mut copied = HashSet::new();
    for index in to_hash {
        let file = &changed[*index];
        // The cache creates the empty file without a download, so a copy saves nothing.
        if (1..=room).contains(&file.size) {
            room -= file.size;
            copied.insert(*index);
        }
    }
    copied
}

/// Names of the hardlink groups: the first path of each inode that has several paths among the outputs.
fn hardlink_groups(changed: &[ChangedFile], names: &HashMap<Inode, Vec<usize>>) -> HashMap<Inode, String> {
    let mut groups = HashMap::new();
    for (inode, members) in names {
        let mut paths: Vec<&String> = members.iter().map(|index| &changed[*index].path).collect();
        paths.sort_unstable();
        paths.dedup();
        if paths.len() > 1 {
            groups.insert(*inode, paths[0].clone());
        }
    }
    groups
}
