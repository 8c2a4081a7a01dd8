//! What a directory holds and in which order it was used.
//!
//! Millions of entries are looked up, moved and evicted, so they live side by side in one vector, linked by index, and
//! a table of indices finds them: some 75 bytes for each entry, no allocation for any.

mod frozen;
mod node;

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use bitzel_proto::{Digest, DigestFunction};
use hashbrown::{DefaultHashBuilder, HashTable};

use self::frozen::Frozen;
use self::node::Node;

/// No entry.
const NONE: u32 = u32::MAX;

/// Where the bytes of an entry are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a file of their own, which the digest names. With the checksum of what the file stands for, if it was taken
    /// when the file was written: much quicker to check than the digest.
    File(Option<Checksum>),
    /// In a segment, from a block on.
    Segment { number: u32, block: u32 },
}

impl Place {
    pub(crate) fn is_file(self) -> bool {
        matches!(self, Self::File(_))
    }
}

/// XXH3 with 64 bits, little-endian. It finds what a disk does to bytes, not what an attacker does. Bytes and no number: an
/// entry needs no more memory for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checksum(pub(crate) [u8; 8]);

/// How the bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As they are.
    Raw,
    /// Compressed.
    Zstd,
}

/// One thing that a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) digest: Digest,
    pub(crate) place: Place,
    pub(crate) encoding: Encoding,
    /// Blocks of 4 KiB that it takes.
    pub(crate) blocks: u32,
    /// When it was last used, in seconds since 1970, as far as the journal knows.
    pub(crate) used: u32,
}

/// Linked nodes, the least recently used first.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY: List = List {
    first: NONE,
    last: NONE,
};

/// All entries of a directory.
pub(super) struct Entries {
    nodes: Vec<Node>,
    vacant: Vec<u32>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// What may be evicted.
    evictable: List,
    /// What may not.
    leased: List,
    leased_blocks: u64,
    /// How often each digest is leased, whether it is there or not.
    leases: HashMap<Digest, u32>,
    /// While a snapshot is being written.
    frozen: Option<Frozen>,
}

impl Entries {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            vacant: Vec::new(),
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            evictable: EMPTY,
            leased: EMPTY,
            leased_blocks: 0,
            leases: HashMap::new(),
            frozen: None,
        }
    }

    /// Makes room for so many more, which saves growing step by step.
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

    /// Makes those of many entries that are there the most recently used ones, in this order. All are found before the
    /// first one moves: so the processor waits for the memory of several at a time.
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

    /// Changes the time that an entry was used at.
    pub(super) fn set_used(&mut self, digest: &Digest, used: u32) {
        if let Some(index) = self.find(digest) {
            self.node(index).used = used;
        }
    }

    /// Adds an entry as the most recently used one; gives back the one whose place it takes.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        if let Some(index) = self.find(&entry.digest) {
            self.unlink(index);
            let before = self.node(index).entry();
            self.keep_frozen(index, before);
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
                // Four billion entries of 64 bytes fit in no memory.
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
        self.keep_frozen(index, entry);
        Some(entry)
    }

    /// What may be evicted, the least recently used first.
    pub(super) fn evictable(&self) -> impl Iterator<Item = Entry> {
        self.iterate(self.evictable)
    }

    /// Everything, the least recently used first and what is leased last.
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry> {
        self.iterate(self.evictable).chain(self.iterate(self.leased))
    }

    /// Blocks that may not be evicted.
    pub(super) fn leased_blocks(&self) -> u64 {
        self.leased_blocks
    }

    /// Takes what `digest` names, now or later, out of the eviction until [`Entries::release`].
    pub(super) fn lease(&mut self, digest: &Digest) {
        let count = self.leases.entry(*digest).or_default();
        *count += 1;
        if *count == 1 {
            self.set_leased(digest, true);
        }
    }

    /// Ends one lease. What nobody leases any more counts as used just now.
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
        let is_it = |index: &u32| at(&self.nodes, *index).digest() == *digest;
        self.table.find(hash(&self.hasher, digest.hash()), is_it).copied()
    }

    /// What has this hash, whatever its size.
    pub(super) fn resolve(&self, function: DigestFunction, wanted: &[u8; 32]) -> Option<Digest> {
        let is_it = |index: &u32| {
            let node = at(&self.nodes, *index);
            node.function() == function && node.hash() == wanted
        };
        let found = self.table.find(hash(&self.hasher, wanted), is_it);
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

    /// Puts a node at the end of its list.
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

    /// Takes a node out of its list.
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

/// Digests are uniform already; the seed keeps others from choosing what collides. Without the size, so that
/// [`Entries::resolve`] finds what it does not know the size of.
fn hash(hasher: &DefaultHashBuilder, hash: &[u8; 32]) -> u64 {
    let start = hash.first_chunk().copied().unwrap_or_default();
    hasher.hash_one(u64::from_le_bytes(start))
}

#[cfg(test)]
mod tests;
