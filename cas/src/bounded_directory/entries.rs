//! What a directory holds and in which order it was used.
//!
//! Millions of entries are looked up, moved and evicted, so they live side by side in one vector, linked by index, and
//! a table of indices finds them: some hundred bytes for each entry, no allocation for any.

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use bitzel_proto::{Digest, DigestFunction};
use hashbrown::{DefaultHashBuilder, HashTable};

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

struct Node {
    entry: Entry,
    previous: u32,
    next: u32,
    /// In the list of the leased ones.
    leased: bool,
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
        }
    }

    /// Makes room for so many more, which saves growing step by step.
    pub(super) fn reserve(&mut self, additional: usize) {
        self.nodes.reserve_exact(additional);
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.table
            .reserve(additional, |index| hash(hasher, &at(nodes, *index).entry.digest));
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<&Entry> {
        self.find(digest).map(|index| &at(&self.nodes, index).entry)
    }

    /// Makes an entry the most recently used one.
    pub(super) fn promote(&mut self, digest: &Digest) -> Option<&mut Entry> {
        let index = self.find(digest)?;
        self.unlink(index);
        self.link(index);
        Some(&mut self.node(index).entry)
    }

    /// Adds an entry as the most recently used one; gives back the one whose place it takes.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        if let Some(index) = self.find(&entry.digest) {
            self.unlink(index);
            let before = std::mem::replace(&mut self.node(index).entry, entry);
            self.link(index);
            return Some(before);
        }
        let node = Node {
            entry,
            previous: NONE,
            next: NONE,
            leased: !self.leases.is_empty() && self.leases.contains_key(&entry.digest),
        };
        let index = match self.vacant.pop() {
            Some(index) => {
                *self.node(index) = node;
                index
            }
            None => {
                self.nodes.push(node);
                // Four billion entries of 88 bytes fit in no memory.
                u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
            }
        };
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let key = hash(hasher, &entry.digest);
        self.table
            .insert_unique(key, index, |index| hash(hasher, &at(nodes, *index).entry.digest));
        self.link(index);
        None
    }

    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        let key = hash(&self.hasher, digest);
        let nodes = &self.nodes;
        let found = self
            .table
            .find_entry(key, |index| at(nodes, *index).entry.digest == *digest);
        let (index, _) = found.ok()?.remove();
        self.unlink(index);
        self.vacant.push(index);
        Some(self.node(index).entry)
    }

    /// What may be evicted, the least recently used first.
    pub(super) fn evictable(&self) -> impl Iterator<Item = &Entry> {
        self.iterate(self.evictable)
    }

    /// Everything, the least recently used first and what is leased last.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
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
            self.node(index).leased = leased;
            self.link(index);
        }
    }

    fn find(&self, digest: &Digest) -> Option<u32> {
        let is_it = |index: &u32| at(&self.nodes, *index).entry.digest == *digest;
        self.table.find(hash(&self.hasher, digest), is_it).copied()
    }

    /// What has this hash, whatever its size.
    pub(super) fn resolve(&self, function: DigestFunction, wanted: &[u8; 32]) -> Option<Digest> {
        let digest = |index: u32| at(&self.nodes, index).entry.digest;
        let is_it = |index: &u32| digest(*index).function() == function && digest(*index).hash() == wanted;
        let key = hash(&self.hasher, &Digest::new(function, *wanted, 0));
        self.table.find(key, is_it).map(|index| digest(*index))
    }

    fn iterate(&self, list: List) -> impl Iterator<Item = &Entry> {
        let node = |index: u32| self.nodes.get(index as usize);
        std::iter::successors(node(list.first), move |current| node(current.next)).map(|node| &node.entry)
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
        let (leased, blocks) = (node.leased, u64::from(node.entry.blocks));
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
        let (previous, next, leased) = (node.previous, node.next, node.leased);
        let blocks = u64::from(node.entry.blocks);
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
fn hash(hasher: &DefaultHashBuilder, digest: &Digest) -> u64 {
    let start = digest.hash().first_chunk().copied().unwrap_or_default();
    hasher.hash_one(u64::from_le_bytes(start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(number: u8, blocks: u32) -> Entry {
        Entry {
            digest: DigestFunction::Sha256.digest(&[number]),
            place: Place::File(None),
            encoding: Encoding::Raw,
            blocks,
            used: 0,
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Insert(u8, u32),
        Remove(u8),
        Promote(u8),
        Lease(u8),
        Release(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let number = 0..6_u8;
        prop_oneof![
            (number.clone(), any::<u32>()).prop_map(|(number, blocks)| Step::Insert(number, blocks)),
            number.clone().prop_map(Step::Remove),
            number.clone().prop_map(Step::Promote),
            number.clone().prop_map(Step::Lease),
            number.prop_map(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_two_plain_lists(steps in prop::collection::vec(step(), 0..60)) {
            let mut entries = Entries::new();
            let mut model: Vec<Entry> = Vec::new();
            let mut leases = [0_u32; 6];
            for step in steps {
                match step {
                    Step::Insert(number, blocks) => {
                        let entry = entry(number, blocks);
                        let at = model.iter().position(|other| other.digest == entry.digest);
                        let before = at.map(|at| model.remove(at));
                        model.push(entry);
                        prop_assert_eq!(entries.insert(entry), before);
                    }
                    Step::Remove(number) => {
                        let digest = entry(number, 0).digest;
                        let at = model.iter().position(|other| other.digest == digest);
                        prop_assert_eq!(entries.remove(&digest), at.map(|at| model.remove(at)));
                    }
                    Step::Promote(number) => {
                        let digest = entry(number, 0).digest;
                        if let Some(at) = model.iter().position(|other| other.digest == digest) {
                            let entry = model.remove(at);
                            model.push(entry);
                        }
                        entries.promote(&digest);
                    }
                    Step::Lease(number) => {
                        let digest = entry(number, 0).digest;
                        leases[usize::from(number)] += 1;
                        if leases[usize::from(number)] == 1
                            && let Some(at) = model.iter().position(|other| other.digest == digest)
                        {
                            let entry = model.remove(at);
                            model.push(entry);
                        }
                        entries.lease(&digest);
                    }
                    Step::Release(number) => {
                        let digest = entry(number, 0).digest;
                        let count = &mut leases[usize::from(number)];
                        *count = count.saturating_sub(1);
                        let ended = *count == 0 && entries.leases.contains_key(&digest);
                        if ended && let Some(at) = model.iter().position(|other| other.digest == digest) {
                            let entry = model.remove(at);
                            model.push(entry);
                        }
                        entries.release(&digest);
                    }
                }
                let is_leased = |one: &&Entry| (0..6).any(|number| {
                    leases[usize::from(number)] > 0 && entry(number, 0).digest == one.digest
                });
                let blocks = model.iter().filter(|entry| is_leased(entry)).map(|entry| u64::from(entry.blocks));
                prop_assert_eq!(entries.leased_blocks(), blocks.sum::<u64>());
                let (leased, evictable): (Vec<&Entry>, Vec<&Entry>) = model.iter().partition(is_leased);
                prop_assert_eq!(entries.evictable().collect::<Vec<_>>(), evictable.clone());
                prop_assert_eq!(entries.iter().collect::<Vec<_>>(), [evictable, leased].concat());
                prop_assert_eq!(entries.len(), model.len());
                for entry in &model {
                    prop_assert_eq!(entries.get(&entry.digest), Some(entry));
                }
                for number in 0..6 {
                    let digest = entry(number, 0).digest;
                    let present = entries.get(&digest).map(|entry| entry.digest);
                    prop_assert_eq!(entries.resolve(digest.function(), digest.hash()), present);
                    prop_assert_eq!(entries.resolve(DigestFunction::Blake3, digest.hash()), None);
                }
            }
        }
    }
}
