//! Selection of the subtrees of an input root that become shared layers. A pure function.

use std::collections::HashMap;

use bitzel_cas::DirectoryTree;
use bitzel_proto::Digest;

use crate::error::Error;
use crate::input_tree::{directory_of, subdirectories};
use crate::relative_path::join;
/// Smallest number of files of a layer.
const MIN_LAYER_FILES: u64 = 256;
/// Part of the files of a directory above which its big children become layers instead of itself: the files around them
/// change more often than they do.
const BIG_CHILDREN_PERCENT: u64 = 90;
/// Limit of the layers of one input root. The mount options of an overlay have to fit into 4,096 bytes, and each layer
/// makes lookups slower.
const MAX_LAYERS: usize = 48;
/// Limit of the files and symlinks of one input root. A small message can name the same Directory many times, level by
/// level. The limits of the tree bound its directories, this one bounds their entries.
const MAX_ENTRIES: u64 = 1 << 24;

/// Identity of a layer: a Directory at a path. The path is part of it because the layer starts at the input root, and
/// because files with a modification time have an inode for each path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LayerKey {
    /// Path relative to the input root. Empty for the root itself.
    pub path: String,
    /// Digest of the Directory.
    pub digest: Digest,
}

impl LayerKey {
    /// The key of the root of a tree.
    pub(super) fn root(tree: &DirectoryTree) -> Self {
        Self::of_root(tree.root)
    }

    /// The key of the root of the tree with this digest.
    pub(super) fn of_root(digest: Digest) -> Self {
        Self {
            path: String::new(),
            digest,
        }
    }
}

struct Selection<'tree, C> {
    tree: &'tree DirectoryTree,
    is_cached: C,
    files: HashMap<Digest, u64>,
    chosen: Vec<(u64, LayerKey)>,
}

/// Selects the layers of `tree`, sorted by path. None lies inside another. A subtree for which `is_cached` is true is
/// always selected whole.
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
    if entries > MAX_ENTRIES {
        return Err(Error::InvalidAction(format!(
            "the input root has {entries} entries; a worker assembles at most {MAX_ENTRIES}"
        )));
    }
    selection.descend(LayerKey::root(tree))?;
    let mut chosen = selection.chosen;
    chosen.sort_unstable_by(|(files, _), (other_files, _)| other_files.cmp(files));
    chosen.truncate(MAX_LAYERS);
    let mut layers: Vec<LayerKey> = chosen.into_iter().map(|(_, key)| key).collect();
    layers.sort_unstable();
    Ok(layers)
}

impl<C: Fn(&LayerKey) -> bool> Selection<'_, C> {
    /// Number of files below a directory. Walks a directory that occurs many times only once, so that a tree that unfolds
    /// to astronomical size stays cheap here.
    fn count(&mut self, digest: Digest) -> Result<u64, Error> {
        if let Some(count) = self.files.get(&digest) {
            return Ok(*count);
        }
        let directory = directory_of(self.tree, digest)?;
        let mut count = (directory.files.len() + directory.symlinks.len()) as u64;
        for (_, child) in subdirectories(self.tree, digest)? {
            count = count.saturating_add(self.count(child)?);
        }
        self.files.insert(digest, count);
        Ok(count)
    }

    fn descend(&mut self, key: LayerKey) -> Result<(), Error> {
        let count = self.count(key.digest)?;
        if count < MIN_LAYER_FILES {
            return Ok(());
        }
        if !(self.is_cached)(&key) {
            let children = subdirectories(self.tree, key.digest)?;
            let mut in_big_children = 0_u64;
            for (_, child) in &children {
                let files = self.count(*child)?;
                if files >= MIN_LAYER_FILES {
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
