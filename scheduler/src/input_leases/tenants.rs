//! Leases of inputs, apart for each tenant.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bitzel_cas::{DirectoryCache, InstanceBlobStores};
use bitzel_proto::InstanceName;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::{InputLeases, TreeReads};

/// Memory for decoded Directories if all instances share their blobs, in bytes.
const SHARED_CACHE_BYTES: u64 = 64 << 20;
/// Memory for decoded Directories of all tenants together, in bytes.
const TENANTS_CACHE_BYTES: u64 = 256 << 20;
/// Size of a message that is read whatever else is read at the same time, in bytes. Few Actions and Commands are larger.
const MAX_UNBOUNDED_MESSAGE_BYTES: u64 = 1 << 20;
/// Minimum number of new entries between two removals of tenants without leases.
const MIN_INSERTIONS_BETWEEN_REMOVALS: usize = 64;

/// Leases of inputs of all tenants. A tenant finds only what was leased and read for itself.
pub(crate) struct TenantInputLeases {
    stores: InstanceBlobStores,
    /// Decoded Directories, apart for each tenant. One that reads many displaces those of others.
    cache: DirectoryCache,
    reads: TreeReads,
    leases: Mutex<LeasesByTenant>,
}

/// Those of tenants with a lease. Clients choose instance names, so the others are not kept.
#[derive(Default)]
struct LeasesByTenant {
    /// By tenant; `None` if all instances share their blobs.
    table: HashMap<Option<String>, Weak<InputLeases>>,
    insertions_since_removal: usize,
}

impl TenantInputLeases {
    pub(crate) fn new(stores: InstanceBlobStores) -> Self {
        let are_isolated = stores.tenant(&InstanceName::default()).is_some();
        let cache_bytes = if are_isolated {
            TENANTS_CACHE_BYTES
        } else {
            SHARED_CACHE_BYTES
        };
        Self {
            stores,
            cache: DirectoryCache::new(cache_bytes),
            reads: TreeReads::new(),
            leases: Mutex::default(),
        }
    }

    /// The leases of the tenant of an instance.
    pub(crate) fn of(&self, instance: &InstanceName) -> Arc<InputLeases> {
        let tenant = self.stores.tenant(instance);
        self.leases.lock().get_or_insert(tenant, |tenant| {
            let (store, reads) = (self.stores.store(instance), self.reads.of_another_tenant());
            match tenant {
                None => InputLeases::new(store, false, self.cache.clone(), reads),
                Some(tenant) => InputLeases::new(store, true, self.cache.of_tenant(tenant), reads),
            }
        })
    }

    /// Waits for the turn to read a message of this size, which ends when the result is dropped: a large one waits for a few
    /// others, because no limit of a client counts it.
    pub(crate) async fn begin_message(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        if bytes > MAX_UNBOUNDED_MESSAGE_BYTES {
            self.reads.begin_message().await
        } else {
            None
        }
    }
}

impl LeasesByTenant {
    fn get_or_insert(
        &mut self,
        tenant: Option<String>,
        new: impl FnOnce(Option<&str>) -> InputLeases,
    ) -> Arc<InputLeases> {
        if let Some(leases) = self.table.get(&tenant).and_then(Weak::upgrade) {
            return leases;
        }
        self.insertions_since_removal += 1;
        if self.insertions_since_removal > MIN_INSERTIONS_BETWEEN_REMOVALS.max(self.table.len() / 2) {
            self.table.retain(|_, leases| leases.strong_count() > 0);
            self.insertions_since_removal = 0;
        }
        let leases = Arc::new(new(tenant.as_deref()));
        self.table.insert(tenant, Arc::downgrade(&leases));
        leases
    }
}

#[cfg(test)]
mod tests;
