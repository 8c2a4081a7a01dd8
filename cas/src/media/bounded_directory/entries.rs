//! Entries of a directory in order of use, in memory.
//!
//! Millions of entries are looked up, moved and evicted. So they lie in one vector, linked by index, and a hash table
//! of indices finds them: 64 bytes for each entry in the vector and 6 to 11 in the table, and no allocation for each.

mod node;
mod snapshot;

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use bitzel_proto::{Digest, DigestFunction};
use hashbrown::{DefaultHashBuilder, HashTable};

use self::node::Node;
use self::snapshot::ChangedSince;
use super::Entry;

/// Index that stands for no node.
const NONE: u32 = u32::MAX;

/// List of linked nodes, the least recently used first.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY_LIST: List = List {
    first: NONE,
    last: NONE,
};

/// All entries of a directory.
pub(super) struct Entries {
    nodes: Vec<Node>,
    /// Indices of nodes that are in no list.
    vacant: Vec<u32>,
    /// Indices of nodes by hash.
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Entries that may be evicted.
    evictable: List,
    /// Entries that are protected from eviction.
    leased: List,
    leased_blocks: u64,
    /// Number of leases of each digest, present or absent.
    leases: HashMap<Digest, u32>,
    /// Point-in-time snapshot, while it is written to disk.
    snapshot: Option<ChangedSince>,
}

impl Entries {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            vacant: Vec::new(),
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            evictable: EMPTY_LIST,
            leased: EMPTY_LIST,
            leased_blocks: 0,
            leases: HashMap::new(),
            snapshot: None,
        }
    }

    /// Allocates memory for so many more entries, which saves growing step by step.
    pub(super) fn reserve(&mut self, additional: usize) {
        self.nodes.reserve_exact(additional);
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.table
            .reserve(additional, |index| hash(hasher, at(nodes, *index).hash()));
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Entry> {
        self.find(digest).map(|index| at(&self.nodes, index).entry())
    }

    /// Makes an entry the most recently used one.
    pub(super) fn promote(&mut self, digest: &Digest) -> Option<Entry> {
        let index = self.find(digest)?;
        Some(self.promote_at(index))
    }

    /// Makes those of many entries that are present the most recently used ones, in this order. All are looked up
    /// before the first one moves, so that the processor can load the memory of several at the same time.
    pub(super) fn promote_all(&mut self, digests: &[Digest], mut visit: impl FnMut(&Digest, Option<Entry>)) {
        let found: Vec<Option<u32>> = digests.iter().map(|digest| self.find(digest)).collect();
        for (digest, index) in digests.iter().zip(found) {
            visit(digest, index.map(|index| self.promote_at(index)));
        }
    }

    fn promote_at(&mut self, index: u32) -> Entry {
        self.unlink(index);
        self.link(index);
        self.node(index).entry()
    }

    /// Changes the time of last use of an entry.
    pub(super) fn set_last_use(&mut self, digest: &Digest, last_use: u32) {
        if let Some(index) = self.find(digest) {
            self.node(index).last_use = last_use;
        }
    }

    /// Adds an entry as the most recently used one. Returns the entry that it replaces.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        if let Some(index) = self.find(&entry.digest) {
            self.unlink(index);
            let before = self.node(index).entry();
            self.copy_for_snapshot(index, before);
            self.node(index).set_entry(&entry);
            self.link(index);
            return Some(before);
        }
        let leased = !self.leases.is_empty() && self.leases.contains_key(&entry.digest);
        let node = Node::new(&entry, leased, NONE);
        let index = match self.vacant.pop() {
            Some(index) => {
                *self.node(index) = node;
                index
            }
            None => {
                self.nodes.push(node);
                // Four billion entries of 64 bytes exceed the memory of every machine.
                u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
            }
        };
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let key = hash(hasher, entry.digest.hash());
        self.table
            .insert_unique(key, index, |index| hash(hasher, at(nodes, *index).hash()));
        self.link(index);
        None
    }

    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        let key = hash(&self.hasher, digest.hash());
        let nodes = &self.nodes;
        let found = self
            .table
            .find_entry(key, |index| at(nodes, *index).digest() == *digest);
        let (index, _) = found.ok()?.remove();
        self.unlink(index);
        self.vacant.push(index);
        let entry = self.node(index).entry();
        self.copy_for_snapshot(index, entry);
        Some(entry)
    }

    /// Entries that may be evicted, the least recently used first.
    pub(super) fn evictable(&self) -> impl Iterator<Item = Entry> {
        self.iterate(self.evictable)
    }

    /// All entries, the least recently used first and the leased ones last.
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry> {
        self.iterate(self.evictable).chain(self.iterate(self.leased))
    }

    /// Number of blocks that are protected from eviction.
    pub(super) fn leased_blocks(&self) -> u64 {
        self.leased_blocks
    }

    /// Protects the entry of `digest`, present or added later, from eviction until [`Entries::release`].
    pub(super) fn lease(&mut self, digest: &Digest) {
        let count = self.leases.entry(*digest).or_default();
        *count += 1;
        if *count == 1 {
            self.set_leased(digest, true);
        }
    }

    /// Ends one lease. An entry without further leases counts as used now.
    pub(super) fn release(&mut self, digest: &Digest) {
        let Some(count) = self.leases.get_mut(digest) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.leases.remove(digest);
            self.set_leased(digest, false);
        }
    }

    fn set_leased(&mut self, digest: &Digest, leased: bool) {
        if let Some(index) = self.find(digest) {
            self.unlink(index);
            self.node(index).set_leased(leased);
            self.link(index);
        }
    }

    fn find(&self, digest: &Digest) -> Option<u32> {
        let matches = |index: &u32| at(&self.nodes, *index).digest() == *digest;
        self.table
            .find(hash(&self.hasher, digest.hash()), matches)
            .copied()
    }

    /// Digest of the entry with this hash, whatever its size.
    pub(super) fn resolve(&self, function: DigestFunction, wanted: &[u8; 32]) -> Option<Digest> {
        let matches = |index: &u32| {
            let node = at(&self.nodes, *index);
            node.function() == function && node.hash() == wanted
        };
        let found = self.table.find(hash(&self.hasher, wanted), matches);
        found.map(|index| at(&self.nodes, *index).digest())
    }

    fn iterate(&self, list: List) -> impl Iterator<Item = Entry> {
        self.indices(list).map(|index| at(&self.nodes, index).entry())
    }

    fn indices(&self, list: List) -> impl Iterator<Item = u32> {
        let some = |index: u32| (index != NONE).then_some(index);
        std::iter::successors(some(list.first), move |index| some(at(&self.nodes, *index).next))
    }

    fn node(&mut self, index: u32) -> &mut Node {
        &mut self.nodes[index as usize]
    }

    fn list(&mut self, leased: bool) -> &mut List {
        if leased {
            &mut self.leased
        } else {
            &mut self.evictable
        }
    }

    /// Adds a node at the end of its list.
    fn link(&mut self, index: u32) {
        let node = self.node(index);
        let (leased, blocks) = (node.is_leased(), node.blocks());
        self.leased_blocks += if leased { blocks } else { 0 };
        let list = self.list(leased);
        let last = std::mem::replace(&mut list.last, index);
        if last == NONE {
            list.first = index;
        } else {
            self.node(last).next = index;
        }
        let node = self.node(index);
        (node.previous, node.next) = (last, NONE);
    }

    /// Removes a node from its list.
    fn unlink(&mut self, index: u32) {
        let node = self.node(index);
        let (previous, next, leased) = (node.previous, node.next, node.is_leased());
        let blocks = node.blocks();
        self.leased_blocks -= if leased { blocks } else { 0 };
        if previous == NONE {
            self.list(leased).first = next;
        } else {
            self.node(previous).next = next;
        }
        if next == NONE {
            self.list(leased).last = previous;
        } else {
            self.node(next).previous = previous;
        }
    }
}

fn at(nodes: &[Node], index: u32) -> &Node {
    &nodes[index as usize]
}

/// Hash for the table. Digests are uniform already; the seed prevents a client from choosing digests that collide. The
/// size is left out, so that [`Entries::resolve`] can look up a hash of unknown size.
fn hash(hasher: &DefaultHashBuilder, hash: &[u8; 32]) -> u64 {
    let start = hash.first_chunk().copied().unwrap_or_default();
    hasher.hash_one(u64::from_le_bytes(start))
}

#[cfg(test)]
mod tests;
