//! Leases of blobs for the inputs of Actions that wait or run. (Leases of Actions are something else.)
//!
//! With tenants they are also the check that an Action has no input of another tenant. A digest names the same tree for
//! ever, and a tenant does not lose what it has, so one check before the Action enters the queue is enough: no worker
//! gets it otherwise.

mod tenants;
mod tree_reads;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use bitzel_cas::{BlobStore, DirectoryCache, DirectoryTree, Error, Lease, fetch_directory_tree};
use bitzel_proto::{Digest, reapi};
use parking_lot::Mutex;

pub(super) use self::tenants::TenantInputLeases;
use self::tree_reads::TreeReads;
use super::error::ExecutionError;

/// Minimum number of new entries between two removals of entries without a lease.
const MIN_INSERTIONS_BETWEEN_REMOVALS: usize = 4096;
/// Missing blobs that an error names: it travels in the headers of the response, which clients limit to 16 KiB. Clients
/// search for what is missing themselves before they execute again.
const MAX_NAMED_MISSING_BLOBS: usize = 32;

/// Leases of Commands and input roots of one tenant, or of all instances if they share their blobs.
///
/// The trees of a build share most of their Directories, and a hundred thousand Actions may be queued. So each Directory
/// is leased once, and all trees with this Directory share the lease: an Action costs only the new part of its tree.
pub(super) struct InputLeases {
    blob_store: Arc<dyn BlobStore>,
    /// True if all blobs of an input root must be in the store.
    requires_all: bool,
    cache: DirectoryCache,
    reads: TreeReads,
    directories: Mutex<LeasedDirectories>,
}

#[derive(Default)]
struct LeasedDirectories {
    table: HashMap<Digest, Weak<LeasedDirectory>>,
    insertions_since_removal: usize,
}

/// Lease of a Directory, its files, and everything below it. If all blobs are required, they were there.
struct LeasedDirectory {
    _blobs: Lease,
    _children: Vec<Arc<Self>>,
}

impl InputLeases {
    fn new(
        blob_store: Arc<dyn BlobStore>,
        requires_all: bool,
        cache: DirectoryCache,
        reads: TreeReads,
    ) -> Self {
        Self {
            blob_store,
            requires_all,
            cache,
            reads,
            directories: Mutex::default(),
        }
    }

    /// Leases the blobs of an Action until the lease is dropped.
    ///
    /// Of an invalid or incomplete tree, only the root is leased: the worker reports the defect, because it has to read
    /// the tree anyway. If all blobs are required, the defect is an error here.
    ///
    /// The lease keeps this table: as long as it lives, further Actions of the tenant find what it leased.
    pub(super) async fn lease(
        self: &Arc<Self>,
        action: Digest,
        command: Digest,
        input_root: Digest,
    ) -> Result<Lease, ExecutionError> {
        let lease = self.blob_store.lease(&[action, command, input_root]).await;
        let lease = lease.map_err(leasing)?.and(Lease::new(Arc::clone(self)));
        if let Some(node) = self.leased(&input_root) {
            return Ok(lease.and(Lease::new(node)));
        }
        let _read = self.reads.begin(input_root).await;
        // Another Action may have had the same root.
        if let Some(node) = self.leased(&input_root) {
            return Ok(lease.and(Lease::new(node)));
        }
        match fetch_directory_tree(&*self.blob_store, input_root, &self.cache).await {
            Ok(tree) => Ok(lease.and(Lease::new(self.lease_tree(&tree).await?))),
            Err(error) if self.requires_all => Err(leasing(error)),
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
            Err(error) => Err(leasing(error)),
        }
    }

    fn leased(&self, input_root: &Digest) -> Option<Arc<LeasedDirectory>> {
        self.directories.lock().get(input_root)
    }

    /// Leases the Directories of a tree, children before their parents, each once.
    async fn lease_tree(&self, tree: &DirectoryTree) -> Result<Arc<LeasedDirectory>, ExecutionError> {
        let (order, mut done) = self.unleased(tree);
        let needed: Vec<Digest> = if self.requires_all {
            order.iter().flat_map(|digest| blobs(tree, *digest)).collect()
        } else {
            vec![]
        };
        // Nothing is leased for a tenant that does not have it.
        self.require(&needed).await?;
        let mut new = vec![];
        for digest in order {
            let blobs = self.blob_store.lease(&blobs(tree, digest)).await;
            let node = Arc::new(LeasedDirectory {
                _blobs: blobs.map_err(leasing)?,
                _children: children(tree, digest)
                    .filter_map(|child| done.get(&child).cloned())
                    .collect(),
            });
            new.push((digest, Arc::clone(&node)));
            done.insert(digest, node);
        }
        // Once more: what was evicted before it was leased is missing.
        self.require(&needed).await?;
        // Only now: other Actions rely on what they find in the table.
        let mut directories = self.directories.lock();
        for (digest, node) in &new {
            directories.insert(*digest, node);
        }
        drop(directories);
        done.remove(&tree.root)
            .ok_or_else(|| leasing(Error::NotFound(tree.root)))
    }

    /// Directories of a tree that are not leased yet, children before their parents, and those on their way that are.
    fn unleased(&self, tree: &DirectoryTree) -> (Vec<Digest>, HashMap<Digest, Arc<LeasedDirectory>>) {
        let (mut order, mut seen) = (vec![], HashSet::new());
        let mut leased: HashMap<Digest, Arc<LeasedDirectory>> = HashMap::new();
        let mut stack = vec![(tree.root, false)];
        while let Some((digest, children_are_done)) = stack.pop() {
            if children_are_done {
                order.push(digest);
                continue;
            }
            if !seen.insert(digest) {
                continue;
            }
            let known = self.directories.lock().get(&digest);
            if let Some(node) = known {
                leased.insert(digest, node);
                continue;
            }
            stack.push((digest, true));
            stack.extend(children(tree, digest).map(|child| (child, false)));
        }
        (order, leased)
    }

    /// Checks that blobs are in the store.
    async fn require(&self, needed: &[Digest]) -> Result<(), ExecutionError> {
        if needed.is_empty() {
            return Ok(());
        }
        let mut missing = self.blob_store.find_missing(needed).await.map_err(leasing)?;
        missing.truncate(MAX_NAMED_MISSING_BLOBS);
        if missing.is_empty() {
            Ok(())
        } else {
            Err(ExecutionError::MissingBlobs(missing))
        }
    }
}

impl LeasedDirectories {
    fn get(&self, digest: &Digest) -> Option<Arc<LeasedDirectory>> {
        self.table.get(digest)?.upgrade()
    }

    fn insert(&mut self, digest: Digest, node: &Arc<LeasedDirectory>) {
        self.insertions_since_removal += 1;
        if self.insertions_since_removal > MIN_INSERTIONS_BETWEEN_REMOVALS.max(self.table.len() / 2) {
            self.table.retain(|_, node| node.strong_count() > 0);
            self.insertions_since_removal = 0;
        }
        self.table.insert(digest, Arc::downgrade(node));
    }
}

fn leasing(error: Error) -> ExecutionError {
    ExecutionError::store("leasing the Action's inputs")(error)
}

/// Parses digests. The trees were validated, so all digests are well formed.
fn digests<'a>(
    function: Digest,
    digests: impl Iterator<Item = &'a Option<reapi::Digest>>,
) -> impl Iterator<Item = Digest> {
    digests.filter_map(move |digest| Digest::from_wire_field(function.function(), digest.as_ref()).ok())
}

/// Child Directories of a Directory.
fn children(tree: &DirectoryTree, parent: Digest) -> impl Iterator<Item = Digest> {
    let directory = tree.directories.get(&parent).into_iter();
    let children = directory.flat_map(|directory| &directory.directories);
    digests(parent, children.map(|child| &child.digest))
}

/// Blobs of a Directory: itself and its files.
fn blobs(tree: &DirectoryTree, digest: Digest) -> Vec<Digest> {
    let directory = tree.directories.get(&digest).into_iter();
    let files = directory.flat_map(|directory| &directory.files);
    let files = digests(digest, files.map(|file| &file.digest));
    std::iter::once(digest).chain(files).collect()
}
