use proptest::prelude::*;

use super::*;
use crate::media::bounded_directory::{Checksum, Encoding, Place};

fn entry(number: u8, blocks: u32) -> Entry {
    Entry {
        digest: DigestFunction::Sha256.digest(&[number]),
        place: Place::File(None),
        encoding: Encoding::Raw,
        blocks,
        last_use: 0,
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Insert(u8, u32),
    Remove(u8),
    Promote(u8),
    Lease(u8),
    Release(u8),
    BeginSnapshot,
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..6_u8;
    prop_oneof![
        (number.clone(), any::<u32>()).prop_map(|(number, blocks)| Step::Insert(number, blocks)),
        number.clone().prop_map(Step::Remove),
        number.clone().prop_map(Step::Promote),
        number.clone().prop_map(Step::Lease),
        number.prop_map(Step::Release),
        Just(Step::BeginSnapshot),
    ]
}

proptest! {
    #[test]
    fn behaves_like_two_plain_lists(steps in prop::collection::vec(step(), 0..60)) {
        let mut entries = Entries::new();
        let mut model: Vec<Entry> = Vec::new();
        let mut leases = [0_u32; 6];
        let mut snapshot: Option<(Vec<u32>, Vec<Entry>)> = None;
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
                Step::BeginSnapshot => {
                    let order = entries.begin_snapshot();
                    snapshot = Some((order, entries.iter().collect()));
                }
            }
            if let Some((order, expected)) = &snapshot {
                let read: Vec<Entry> = order.iter().map(|index| entries.snapshot_entry(*index)).collect();
                prop_assert_eq!(&read, expected);
            }
            let is_leased = |one: &&Entry| (0..6).any(|number| {
                leases[usize::from(number)] > 0 && entry(number, 0).digest == one.digest
            });
            let blocks = model.iter().filter(|entry| is_leased(entry)).map(|entry| u64::from(entry.blocks));
            prop_assert_eq!(entries.leased_blocks(), blocks.sum::<u64>());
            let (leased, evictable): (Vec<Entry>, Vec<Entry>) = model.iter().copied().partition(|entry| is_leased(&entry));
            prop_assert_eq!(entries.evictable().collect::<Vec<_>>(), evictable.clone());
            prop_assert_eq!(entries.iter().collect::<Vec<_>>(), [evictable, leased].concat());
            prop_assert_eq!(entries.len(), model.len());
            for entry in &model {
                prop_assert_eq!(entries.get(&entry.digest), Some(*entry));
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

proptest! {
    #[test]
    fn node_returns_the_entry_it_was_given(
        hash in any::<[u8; 32]>(),
        size in 0_u64..1 << 56,
        place in prop_oneof![
            Just(Place::File(None)),
            any::<[u8; 8]>().prop_map(|checksum| Place::File(Some(Checksum(checksum)))),
            any::<(u32, u32)>().prop_map(|(number, block)| Place::Segment { number, block }),
        ],
        is_blake3 in any::<bool>(),
        is_zstd in any::<bool>(),
        leased in any::<bool>(),
        (blocks, last_use) in any::<(u32, u32)>(),
    ) {
        let function = if is_blake3 { DigestFunction::Blake3 } else { DigestFunction::Sha256 };
        let encoding = if is_zstd { Encoding::Zstd } else { Encoding::Raw };
        let wanted = Entry { digest: Digest::new(function, hash, size), place, encoding, blocks, last_use };
        let mut node = Node::new(&entry(1, 2), leased, NONE);
        node.set_entry(&wanted);
        prop_assert_eq!(node.entry(), wanted);
        prop_assert_eq!(node.is_leased(), leased);
        node.set_leased(!leased);
        prop_assert_eq!(node.entry(), wanted);
        prop_assert_eq!(node.is_leased(), !leased);
    }
}
