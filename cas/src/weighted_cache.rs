//! In-memory cache with a bound on the total weight of its values.

use std::hash::Hash;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

/// Parts of a cache, each with a lock of its own and an equal part of the capacity: few, so that one large value fits
/// into a part. Look-ups share the lock.
const SHARDS: usize = 4;

/// Values that weigh at most `capacity` together, of `typical_weight` each. A value that is heavier than its
/// part of the cache is not stored.
pub(crate) fn weighted_cache<K: Eq + Hash, V: Clone, W: Weighter<K, V> + Clone>(
    capacity: u64,
    typical_weight: u64,
    weighter: W,
) -> Cache<K, V, W> {
    let options = OptionsBuilder::new()
        .shards(SHARDS)
        .weight_capacity(capacity)
        .estimated_items_capacity(usize::try_from(capacity / typical_weight).unwrap_or(usize::MAX))
        .build()
        .expect("both capacities are set");
    let hash_builder = DefaultHashBuilder::default();
    Cache::with_options(options, weighter, hash_builder, DefaultLifecycle::default())
}
