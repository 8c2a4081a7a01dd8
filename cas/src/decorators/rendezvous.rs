//! Assignment of digests to shards.

use bitzel_proto::{Digest, DigestFunction};

use crate::error::Error;

/// Weighted rendezvous hashing.
///
/// Every shard has a score for every digest, and the highest score wins. So a shard gets digests in proportion to its
/// weight, and when one is added or removed only those digests move that it gets or had. The scores depend on the
/// shard's name and the digest and on nothing else: not on the order of the shards, nor on the machine.
///
/// Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998); the weights as in
/// Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005): `-weight / ln(h)` with a hash `h` in (0, 1).
#[derive(Debug, Clone)]
pub(crate) struct Rendezvous {
    shards: Vec<(u64, f64)>,
}

impl Rendezvous {
    /// Hashing over shards with these names and weights: at least one, no name twice, every weight above zero.
    pub(crate) fn new<'a>(shards: impl IntoIterator<Item = (&'a str, u32)>) -> Result<Self, Error> {
        let mut names = Vec::new();
        let mut seeds = Vec::new();
        for (name, weight) in shards {
            if weight == 0 {
                return Err(Error::InvalidArgument(format!(
                    "shard {name:?} has the weight 0; leave it out or give it 1 or more"
                )));
            }
            if names.contains(&name) {
                return Err(Error::InvalidArgument(format!(
                    "two shards are called {name:?}; a name decides which blobs a shard holds, so it must be unique"
                )));
            }
            names.push(name);
            seeds.push((
                first_word(DigestFunction::Sha256.digest(name.as_bytes())),
                f64::from(weight),
            ));
        }
        if seeds.is_empty() {
            return Err(Error::InvalidArgument(
                "a sharded store needs one shard at least".into(),
            ));
        }
        Ok(Self { shards: seeds })
    }

    /// The number of shards.
    pub(crate) fn len(&self) -> usize {
        self.shards.len()
    }

    /// The index of the shard that `digest` belongs to.
    pub(crate) fn shard_of(&self, digest: Digest) -> usize {
        let key = first_word(digest);
        let mut best = (0, f64::NEG_INFINITY);
        for (index, (seed, weight)) in self.shards.iter().enumerate() {
            let score = -weight / unit_interval(mixed(key ^ seed)).ln();
            if score > best.1 {
                best = (index, score);
            }
        }
        best.0
    }
}

/// The first eight bytes of the hash, which are as random as all of them.
fn first_word(digest: Digest) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&digest.hash()[..8]);
    u64::from_le_bytes(word)
}

/// The finaliser of `SplitMix64`: every bit of the input changes half of the bits of the output.
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// A number strictly between 0 and 1, made of the upper 53 bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit into a double")]
fn unit_interval(value: u64) -> f64 {
    ((value >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests() -> impl Iterator<Item = Digest> {
        (0..20_000_u32).map(|number| DigestFunction::Sha256.digest(&number.to_le_bytes()))
    }

    #[test]
    fn shares_follow_the_weights() {
        let shards = Rendezvous::new([("a", 1), ("b", 2), ("c", 5)]).unwrap();
        let mut counts = [0_i32; 3];
        for digest in digests() {
            counts[shards.shard_of(digest)] += 1;
        }
        for (count, expected) in counts.into_iter().zip([2500, 5000, 12_500]) {
            assert!((count - expected).abs() < 300, "{counts:?}");
        }
    }

    #[test]
    fn a_new_shard_moves_only_its_own_share() {
        let before = Rendezvous::new([("a", 1), ("b", 1), ("c", 1)]).unwrap();
        let after = Rendezvous::new([("d", 1), ("a", 1), ("b", 1), ("c", 1)]).unwrap();
        let mut moved = 0_i32;
        for digest in digests() {
            match (before.shard_of(digest), after.shard_of(digest)) {
                (_, 0) => moved += 1,
                (old, new) => assert_eq!(new, old + 1),
            }
        }
        assert!((moved - 5000).abs() < 300, "{moved}");
    }

    #[test]
    fn assignments_are_the_same_in_every_release() {
        let shards = Rendezvous::new([("a", 1), ("b", 1), ("c", 1), ("d", 3)]).unwrap();
        let assignments: String = digests()
            .take(24)
            .map(|digest| shards.shard_of(digest).to_string())
            .collect();
        // Another value here means that all shards in use lose their blobs with the update.
        assert_eq!(assignments, "233323232333330301322120");
    }

    #[test]
    fn wrong_shards_are_named() {
        let error = |shards: &[(&str, u32)]| Rendezvous::new(shards.iter().copied()).unwrap_err().to_string();
        assert!(error(&[]).contains("one shard at least"));
        assert!(error(&[("a", 0)]).contains("\"a\" has the weight 0"));
        assert!(error(&[("a", 1), ("a", 2)]).contains("two shards are called \"a\""));
    }
}
