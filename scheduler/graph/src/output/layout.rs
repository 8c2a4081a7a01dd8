//! Layout of a destination, which is complete before anything is written.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use bitzel_cas::{BlobStore, DirectoryCache, fetch_directory_tree};
use bitzel_proto::Digest;
use bitzel_proto::reapi::FileNode;

use crate::plan::tree::{DIGEST_FUNCTION, Directories, Node, Tree};
use crate::walk::BuildError;

/// Node property that the files of an output with the same inode share; see the worker's node properties.
const HARDLINK_GROUP_PROPERTY: &str = "hardlink-group";
/// Memory for decoded Directories while one stored tree is read, in bytes.
const DIRECTORY_CACHE_BYTES: u64 = 32 << 20;

/// Planned entries by path relative to the destination. All parents of a path are directories.
#[derive(Debug, Default)]
pub(super) struct Layout(BTreeMap<String, PlannedEntry>);

#[derive(Debug)]
struct PlannedEntry {
    /// The task whose result has the entry.
    task: String,
    kind: EntryKind,
}

#[derive(Debug)]
enum EntryKind {
    Directory,
    Symlink(String),
    File(FileNode),
}

/// File to download.
pub(super) struct PlannedFile<'layout> {
    /// Relative to the destination.
    pub(super) path: &'layout str,
    /// The task whose result has the file.
    pub(super) task: &'layout str,
    pub(super) node: &'layout FileNode,
}

/// A file that is downloaded, and the path of a hard link to it.
type HardLink<'layout> = (&'layout str, &'layout str);

impl EntryKind {
    fn name(&self) -> &'static str {
        match self {
            Self::Directory => "a directory",
            Self::Symlink(_) => "a symbolic link",
            Self::File(_) => "a file",
        }
    }
}

impl Layout {
    /// Adds a node of the result of `task` with all nodes below it. Of two files or links at one path the later one is placed;
    /// a directory and a file or link at one path are a conflict.
    pub(super) async fn add(
        &mut self,
        store: &dyn BlobStore,
        task: &str,
        path: &str,
        node: &Node,
    ) -> Result<(), BuildError> {
        let path = normalized(path);
        match node {
            Node::File(file) => self.insert(task, path, EntryKind::File(file.clone())),
            Node::Symlink(link) => self.insert(task, path, EntryKind::Symlink(link.target.clone())),
            Node::Stored(root) => self.add_tree(store, task, path, *root).await,
            Node::Open(_) => Ok(()),
        }
    }

    /// Adds the first of `parts` that exists in the tree `root` of the result of `task`. Each part has the path to place it
    /// at.
    pub(super) async fn add_first_part(
        &mut self,
        store: &dyn BlobStore,
        task: &str,
        root: Digest,
        mut parts: impl Iterator<Item = (&str, String)>,
    ) -> Result<(), BuildError> {
        let directories = read_tree(store, root, &format!("the undeclared files of {task}")).await?;
        let tree = Tree::stored(&directories, root);
        let found = parts.find_map(|(part, path)| match tree.get(part) {
            Ok(Some(Node::Stored(digest))) => Some((path, digest)),
            _ => None,
        });
        found.map_or(Ok(()), |(path, digest)| {
            self.add_directory(task, normalized(&path), &directories, digest)
        })
    }

    async fn add_tree(
        &mut self,
        store: &dyn BlobStore,
        task: &str,
        path: String,
        root: Digest,
    ) -> Result<(), BuildError> {
        let directories = read_tree(store, root, &format!("the directories of {path}")).await?;
        self.add_directory(task, path, &directories, root)
    }

    fn add_directory(
        &mut self,
        task: &str,
        path: String,
        directories: &Directories,
        root: Digest,
    ) -> Result<(), BuildError> {
        let mut pending = vec![(path, root)];
        while let Some((path, digest)) = pending.pop() {
            let child = |name: &str| normalized(&format!("{path}/{name}"));
            if let Some(directory) = directories.get(&digest) {
                for file in &directory.files {
                    self.insert(task, child(&file.name), EntryKind::File(file.clone()))?;
                }
                for link in &directory.symlinks {
                    self.insert(task, child(&link.name), EntryKind::Symlink(link.target.clone()))?;
                }
                for node in &directory.directories {
                    // The tree was validated when it was fetched: all digests in it are well formed.
                    if let Ok(digest) = Digest::from_wire_field(DIGEST_FUNCTION, node.digest.as_ref()) {
                        pending.push((child(&node.name), digest));
                    }
                }
            }
            self.insert(task, path, EntryKind::Directory)?;
        }
        Ok(())
    }

    fn insert(&mut self, task: &str, path: String, kind: EntryKind) -> Result<(), BuildError> {
        if let Some((parent, _)) = path.rsplit_once('/')
            && !matches!(
                self.0.get(parent),
                Some(PlannedEntry {
                    kind: EntryKind::Directory,
                    ..
                })
            )
        {
            self.insert(task, parent.to_owned(), EntryKind::Directory)?;
        }
        if path.is_empty() {
            // The destination itself.
            return Ok(());
        }
        let planned = PlannedEntry {
            task: task.to_owned(),
            kind,
        };
        match self.0.entry(path) {
            Entry::Vacant(entry) => {
                entry.insert(planned);
            }
            Entry::Occupied(mut entry) => {
                let before = entry.get();
                let is_directory = |planned: &PlannedEntry| matches!(planned.kind, EntryKind::Directory);
                if is_directory(before) != is_directory(&planned) {
                    return Err(BuildError::OutputConflict {
                        path: entry.key().clone(),
                        what: before.kind.name(),
                        task: before.task.clone(),
                        other_what: planned.kind.name(),
                        other_task: planned.task,
                    });
                }
                entry.insert(planned);
            }
        }
        Ok(())
    }

    /// Directories, parents before children.
    pub(super) fn directories(&self) -> impl Iterator<Item = &str> {
        let directories = self.0.iter();
        directories.filter_map(|(path, planned)| {
            matches!(planned.kind, EntryKind::Directory).then_some(path.as_str())
        })
    }

    /// Symbolic links and their targets.
    pub(super) fn symlinks(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(path, planned)| match &planned.kind {
            EntryKind::Symlink(target) => Some((path.as_str(), target.as_str())),
            _ => None,
        })
    }

    /// Files to download, and hard links to them.
    pub(super) fn files(&self) -> (Vec<PlannedFile<'_>>, Vec<HardLink<'_>>) {
        let mut originals: HashMap<(&str, &str), &str> = HashMap::new();
        let (mut files, mut links) = (vec![], vec![]);
        for (path, planned) in &self.0 {
            let EntryKind::File(node) = &planned.kind else {
                continue;
            };
            let properties = node.node_properties.as_ref();
            let mut named = properties
                .into_iter()
                .flat_map(|properties| &properties.properties);
            let group = named.find(|property| property.name == HARDLINK_GROUP_PROPERTY);
            // Groups of two tasks may have the same name; with the same content they may be one file.
            let hash = node.digest.as_ref().map_or("", |digest| digest.hash.as_str());
            let original = group.map(|group| originals.entry((&group.value, hash)).or_insert(path));
            match original {
                Some(original) if *original != path => links.push((*original, path.as_str())),
                _ => files.push(PlannedFile {
                    path,
                    task: &planned.task,
                    node,
                }),
            }
        }
        (files, links)
    }
}

async fn read_tree(store: &dyn BlobStore, root: Digest, what: &str) -> Result<Directories, BuildError> {
    let cache = DirectoryCache::new(DIRECTORY_CACHE_BYTES);
    let tree = fetch_directory_tree(store, root, &cache)
        .await
        .map_err(BuildError::store(format!("reading {what}")))?;
    Ok(tree.directories)
}

/// Path without empty segments.
fn normalized(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    segments.join("/")
}
