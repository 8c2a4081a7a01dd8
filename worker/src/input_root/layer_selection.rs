//! Which subtrees of an input root become shared layers: a pure function.

use std::collections::HashMap;

use bitzel_proto::Digest;

use super::directory_of;
use crate::error::Error;
use bitzel_cas::DirectoryTree;

/// A directory with at least this many files is worth a layer.
const LAYER_FILES: u64 = 256;
/// A directory is not made a layer itself when its big children hold at least this part of its files: then what is
/// around them changes more often than they do.
const BIG_CHILDREN_PERCENT: u64 = 90;
/// The mount options of one overlay have to fit into 4,096 bytes, and each further layer makes lookups slower.
const MAXIMUM_LAYERS: usize = 48;

/// Files, symlinks and directories of one input root. A small message can name the same Directory many times, level
/// by level; the tree's own limits bound directories, this bounds what is in them.
const MAXIMUM_ENTRIES: u64 = 1 << 24;

/// What a layer is: a Directory at a path. The path counts because the layer starts at the input root and because
/// files with a modification time have an inode for each path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LayerKey {
    /// Relative to the input root; empty for the root itself.
    pub path: String,
    /// The Directory.
    pub digest: Digest,
}

impl LayerKey {
    /// The root of a tree.
    pub(super) fn root(tree: &DirectoryTree) -> Self {
        Self {
            path: String::new(),
            digest: tree.root,
        }
    }
}

struct Selection<'tree, C> {
    tree: &'tree DirectoryTree,
    is_cached: C,
    files: HashMap<Digest, u64>,
    chosen: Vec<(u64, LayerKey)>,
}

/// The layers of `tree`, sorted by path; none lies inside another. A subtree that `is_cached` is always taken whole.
pub(super) fn select_layers(
    tree: &DirectoryTree,
    is_cached: impl Fn(&LayerKey) -> bool,
) -> Result<Vec<LayerKey>, Error> {
    let mut selection = Selection {
        tree,
        is_cached,
        files: HashMap::new(),
        chosen: vec![],
    };
    let entries = selection.count(tree.root)?;
    if entries > MAXIMUM_ENTRIES {
        return Err(Error::InvalidAction(format!(
            "the input root has {entries} entries; a worker assembles at most {MAXIMUM_ENTRIES}"
        )));
    }
    selection.descend(LayerKey::root(tree))?;
    let mut chosen = selection.chosen;
    chosen.sort_unstable_by(|(files, _), (other_files, _)| other_files.cmp(files));
    chosen.truncate(MAXIMUM_LAYERS);
    let mut layers: Vec<LayerKey> = chosen.into_iter().map(|(_, key)| key).collect();
    layers.sort_unstable();
    Ok(layers)
}

impl<C: Fn(&LayerKey) -> bool> Selection<'_, C> {
    /// How many files are below a directory. Counts a directory that occurs many times only once, so that a tree
    /// that unfolds to astronomical size stays cheap here.
    fn count(&mut self, digest: Digest) -> Result<u64, Error> {
        if let Some(count) = self.files.get(&digest) {
            return Ok(*count);
        }
        let directory = directory_of(self.tree, digest)?;
        let mut count = (directory.files.len() + directory.symlinks.len()) as u64;
        for (_, child) in children(self.tree, digest)? {
            count = count.saturating_add(self.count(child)?);
        }
        self.files.insert(digest, count);
        Ok(count)
    }

    fn descend(&mut self, key: LayerKey) -> Result<(), Error> {
        let count = self.count(key.digest)?;
        if count < LAYER_FILES {
            return Ok(());
        }
        if !(self.is_cached)(&key) {
            let children = children(self.tree, key.digest)?;
            let mut in_big_children = 0_u64;
            for (_, child) in &children {
                let files = self.count(*child)?;
                if files >= LAYER_FILES {
                    in_big_children = in_big_children.saturating_add(files);
                }
            }
            if in_big_children.saturating_mul(100) >= count.saturating_mul(BIG_CHILDREN_PERCENT) {
                for (name, digest) in children {
                    let path = join(&key.path, &name);
                    self.descend(LayerKey { path, digest })?;
                }
                return Ok(());
            }
        }
        self.chosen.push((count, key));
        Ok(())
    }
}

/// Names and digests of the subdirectories of a directory.
pub(super) fn children(tree: &DirectoryTree, digest: Digest) -> Result<Vec<(String, Digest)>, Error> {
    let directory = directory_of(tree, digest)?;
    let children = directory.directories.iter().map(|node| {
        let child = Digest::from_wire_field(digest.function(), node.digest.as_ref())
            .map_err(Error::digest("DirectoryNode.digest"))?;
        Ok((node.name.clone(), child))
    });
    children.collect()
}

/// `path/name`, or `name` at the root.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}
