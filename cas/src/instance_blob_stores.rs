//! The blob stores of the instances of a server.

use std::fmt;
use std::sync::Arc;

use bitzel_proto::InstanceName;

use crate::blob_store::BlobStore;
use crate::decorators::coalescing_blob_store::{CoalescingBlobStore, OngoingUploads};
use crate::decorators::isolated_blob_store::{ConfirmedMarkers, IsolatedBlobStore, PossessionKey};

/// Names of the tenants of a server: instances with the same tenant share blobs.
pub trait TenantNames: Send + Sync + 'static {
    /// The tenant of an instance. Instances of different tenants never get the same name.
    fn tenant(&self, instance: &InstanceName) -> String;
}

/// Blob stores of the instances of a server: one that all share, or one view of it for each tenant.
///
/// Cheap to clone. A store of [`InstanceBlobStores::store`] belongs to one call: its instance comes from the client, so
/// nothing is kept under it.
#[derive(Clone)]
pub struct InstanceBlobStores {
    inner: Arc<dyn BlobStore>,
    /// `None` if all instances share their blobs.
    tenants: Option<Tenants>,
}

#[derive(Clone)]
struct Tenants {
    names: Arc<dyn TenantNames>,
    key: PossessionKey,
    confirmed: Arc<ConfirmedMarkers>,
    /// `None` if concurrent writes of one blob are all carried out.
    uploads: Option<Arc<OngoingUploads>>,
}

impl Tenants {
    /// The tenant of an instance, also of one that [`InstanceBlobStores::reserved`] named.
    fn tenant(&self, instance: &InstanceName) -> String {
        match instance.reserved_purpose() {
            None => self.names.tenant(instance),
            // The empty name is that of no tenant.
            Some(purpose) => purpose
                .split_once('/')
                .map_or_else(String::new, |(_, tenant)| tenant.to_owned()),
        }
    }
}

impl InstanceBlobStores {
    /// One store for all instances.
    pub fn shared(store: Arc<dyn BlobStore>) -> Self {
        Self {
            inner: store,
            tenants: None,
        }
    }

    /// A view of `store` for each tenant, in which it has only its own blobs.
    pub fn isolated(store: Arc<dyn BlobStore>, names: Arc<dyn TenantNames>, key: PossessionKey) -> Self {
        Self {
            inner: store,
            tenants: Some(Tenants {
                names,
                key,
                confirmed: Arc::default(),
                uploads: None,
            }),
        }
    }

    /// The store of an instance.
    pub fn store(&self, instance: &InstanceName) -> Arc<dyn BlobStore> {
        let Some(tenants) = &self.tenants else {
            return Arc::clone(&self.inner);
        };
        let tenant = tenants.tenant(instance);
        let key = tenants.key.of_tenant(&tenant);
        let confirmed = Arc::clone(&tenants.confirmed);
        let view = Arc::new(IsolatedBlobStore::new(Arc::clone(&self.inner), key, confirmed));
        match &tenants.uploads {
            None => view,
            Some(uploads) => Arc::new(CoalescingBlobStore::of_tenant(
                view,
                Arc::clone(uploads),
                tenant.into(),
            )),
        }
    }

    /// The tenant of an instance; `None` if all instances share their blobs.
    pub fn tenant(&self, instance: &InstanceName) -> Option<String> {
        self.tenants.as_ref().map(|tenants| tenants.tenant(instance))
    }

    /// Name of an instance for the server's own results, which no client can use: one for all instances that share blobs.
    pub fn reserved(&self, purpose: &str, instance: &InstanceName) -> InstanceName {
        match self.tenant(instance) {
            None => InstanceName::reserved(purpose),
            Some(tenant) => InstanceName::reserved(&format!("{purpose}/{tenant}")),
        }
    }

    /// The same stores, with concurrent writes of one blob by one tenant reduced to one. Tenants do not wait for each other:
    /// one that sends slowly must not hold up others, nor learn by waiting what they send.
    #[must_use]
    pub fn coalescing(&self) -> Self {
        match &self.tenants {
            None => Self::shared(Arc::new(CoalescingBlobStore::new(Arc::clone(&self.inner)))),
            Some(tenants) => Self {
                inner: Arc::clone(&self.inner),
                tenants: Some(Tenants {
                    uploads: Some(Arc::default()),
                    ..tenants.clone()
                }),
            },
        }
    }
}

impl From<Arc<dyn BlobStore>> for InstanceBlobStores {
    fn from(store: Arc<dyn BlobStore>) -> Self {
        Self::shared(store)
    }
}

impl<S: BlobStore> From<Arc<S>> for InstanceBlobStores {
    fn from(store: Arc<S>) -> Self {
        Self::shared(store)
    }
}

impl fmt::Debug for InstanceBlobStores {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.tenants.is_some() {
            "isolated"
        } else {
            "shared"
        };
        write!(formatter, "InstanceBlobStores({name})")
    }
}

#[cfg(test)]
mod tests;
