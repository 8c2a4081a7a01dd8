//! Memory of possession markers that were in the store.

use std::fmt;

use bitzel_proto::Digest;
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;

use crate::weighted_cache::weighted_cache;

/// Markers that are remembered. Each takes about 100 bytes.
const MAX_MARKERS: u64 = 1 << 18;
/// Part of them for which memory is taken at once.
const INITIAL_PART: u64 = 64;

/// Possession markers of all tenants of a server whose bytes were read or written.
///
/// A tenant does not lose what it has, so such a marker need not be read again: reads go on while a part of the store
/// fails, and cost no second call. Bounded: the marker of a blob that was forgotten is read again.
pub struct ConfirmedMarkers {
    markers: Cache<Digest, (), UnitWeighter>,
}

impl Default for ConfirmedMarkers {
    fn default() -> Self {
        Self {
            markers: weighted_cache(MAX_MARKERS, INITIAL_PART, UnitWeighter),
        }
    }
}

impl ConfirmedMarkers {
    pub(super) fn contains(&self, marker: Digest) -> bool {
        self.markers.get(&marker).is_some()
    }

    pub(super) fn insert(&self, marker: Digest) {
        self.markers.insert(marker, ());
    }
}

impl fmt::Debug for ConfirmedMarkers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ConfirmedMarkers({})", self.markers.len())
    }
}
