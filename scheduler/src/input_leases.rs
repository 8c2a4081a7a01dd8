//! Keeping the inputs of Actions in the store while they wait and run. (Leases of blobs; those of workers on Actions
//! are another thing.)

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bitzel_cas::{BlobStore, DirectoryCache, DirectoryTree, Error, Lease, fetch_directory_tree};
use bitzel_proto::{Digest, reapi};
use parking_lot::Mutex;

/// Memory for decoded Directories, in bytes.
const CACHE: u64 = 64 << 20;
/// Directories that nothing leases any more are forgotten when so many have come since the last time.
const FORGET_AFTER: usize = 4096;

/// Leases Commands and input roots.
///
/// The trees of a build share most of their Directories, and a hundred thousand Actions may be queued. So each Directory
/// is leased once, by a node that all trees share which it is part of: an Action costs what is new in its tree.
pub(super) struct InputLeases {
    blob_store: Arc<dyn BlobStore>,
    cache: DirectoryCache,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    table: HashMap<Digest, Weak<Node>>,
    since_forgetting: usize,
}

/// A Directory with its files, and with everything below it.
struct Node {
    _blobs: Lease,
    _children: Vec<Arc<Self>>,
}

impl InputLeases {
    pub(super) fn new(blob_store: Arc<dyn BlobStore>) -> Self {
        Self {
            blob_store,
            cache: DirectoryCache::new(CACHE),
            nodes: Mutex::default(),
        }
    }

    /// Leases the blobs of an Action until the lease is dropped. Of a tree that is not valid or not complete only the
    /// root: what is wrong the worker finds out, which has to walk it anyway.
    pub(super) async fn lease(
        &self,
        action: Digest,
        command: Digest,
        input_root: Digest,
    ) -> Result<Lease, Error> {
        let lease = self.blob_store.lease(&[action, command, input_root]).await?;
        if let Some(node) = self.nodes.lock().get(&input_root) {
            return Ok(lease.and(Lease::new(node)));
        }
        match fetch_directory_tree(&*self.blob_store, input_root, &self.cache).await {
            Ok(tree) => Ok(lease.and(Lease::new(self.lease_tree(&tree).await?))),
            Err(
                error @ (Error::NotFound(_)
                | Error::InvalidDirectory { .. }
                | Error::TreeTooLarge { .. }
                | Error::Decode { .. }
                | Error::DigestMismatch { .. }),
            ) => {
                tracing::debug!(%action, %error, "the input root cannot be leased");
                Ok(lease)
            }
            Err(error) => Err(error),
        }
    }

    /// Children before their parents, each once.
    async fn lease_tree(&self, tree: &DirectoryTree) -> Result<Arc<Node>, Error> {
        let mut done: HashMap<Digest, Arc<Node>> = HashMap::new();
        let mut stack = vec![(tree.root, false)];
        while let Some((digest, children_are_done)) = stack.pop() {
            if done.contains_key(&digest) {
                continue;
            }
            if !children_are_done {
                let known = self.nodes.lock().get(&digest);
                if let Some(node) = known {
                    done.insert(digest, node);
                    continue;
                }
                stack.push((digest, true));
                stack.extend(children(tree, digest).map(|child| (child, false)));
                continue;
            }
            let node = Arc::new(Node {
                _blobs: self.blob_store.lease(&blobs(tree, digest)).await?,
                _children: children(tree, digest)
                    .filter_map(|child| done.get(&child).cloned())
                    .collect(),
            });
            self.nodes.lock().insert(digest, &node);
            done.insert(digest, node);
        }
        done.remove(&tree.root).ok_or(Error::NotFound(tree.root))
    }
}

impl Nodes {
    fn get(&self, digest: &Digest) -> Option<Arc<Node>> {
        self.table.get(digest)?.upgrade()
    }

    fn insert(&mut self, digest: Digest, node: &Arc<Node>) {
        self.since_forgetting += 1;
        if self.since_forgetting > FORGET_AFTER.max(self.table.len() / 2) {
            self.table.retain(|_, node| node.strong_count() > 0);
            self.since_forgetting = 0;
        }
        self.table.insert(digest, Arc::downgrade(node));
    }
}

/// The trees were checked: what does not parse is not there.
fn digests<'a>(
    function: Digest,
    digests: impl Iterator<Item = &'a Option<reapi::Digest>>,
) -> impl Iterator<Item = Digest> {
    digests.filter_map(move |digest| Digest::from_wire_field(function.function(), digest.as_ref()).ok())
}

fn children(tree: &DirectoryTree, parent: Digest) -> impl Iterator<Item = Digest> {
    let directory = tree.directories.get(&parent).into_iter();
    let children = directory.flat_map(|directory| &directory.directories);
    digests(parent, children.map(|child| &child.digest))
}

/// A Directory and its files.
fn blobs(tree: &DirectoryTree, digest: Digest) -> Vec<Digest> {
    let directory = tree.directories.get(&digest).into_iter();
    let files = directory.flat_map(|directory| &directory.files);
    let files = digests(digest, files.map(|file| &file.digest));
    std::iter::once(digest).chain(files).collect()
}
