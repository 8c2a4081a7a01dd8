//! Leases of inputs, apart for each tenant.

use std::num::NonZeroUsize;
use std::sync::Arc;

use bitzel_cas::InstanceBlobStores;
use bitzel_proto::InstanceName;
use lru::LruCache;
use parking_lot::Mutex;

use super::InputLeases;

/// Memory for decoded Directories if all instances share their blobs, in bytes.
const SHARED_CACHE_BYTES: u64 = 64 << 20;
/// Memory for decoded Directories of one tenant, in bytes.
const TENANT_CACHE_BYTES: u64 = 32 << 20;
/// Tenants whose leases are found again. Clients choose instance names, so there may be more; leases of the others are
/// held, but further Actions with the same inputs do not find them.
const MAX_REMEMBERED_TENANTS: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// Leases of inputs of all tenants. A tenant finds only what was leased and read for itself.
pub(crate) struct TenantInputLeases {
    stores: InstanceBlobStores,
    /// By tenant; `None` if all instances share their blobs.
    leases: Mutex<LruCache<Option<String>, Arc<InputLeases>>>,
}

impl TenantInputLeases {
    pub(crate) fn new(stores: InstanceBlobStores) -> Self {
        Self {
            stores,
            leases: Mutex::new(LruCache::new(MAX_REMEMBERED_TENANTS)),
        }
    }

    /// The leases of the tenant of an instance.
    pub(crate) fn of(&self, instance: &InstanceName) -> Arc<InputLeases> {
        let tenant = self.stores.tenant(instance);
        let is_isolated = tenant.is_some();
        let cache_bytes = if is_isolated {
            TENANT_CACHE_BYTES
        } else {
            SHARED_CACHE_BYTES
        };
        let new = || {
            let store = self.stores.store(instance);
            Arc::new(InputLeases::new(store, is_isolated, cache_bytes))
        };
        Arc::clone(self.leases.lock().get_or_insert(tenant, new))
    }
}
