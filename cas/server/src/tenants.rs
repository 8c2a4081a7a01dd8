//! Tenants of a server: groups of instances that share blobs.

use std::sync::Arc;

use bitzel_access::Pattern;
use bitzel_cas::{BlobStore, InstanceBlobStores, PossessionKey, TenantNames};
use bitzel_proto::{DigestFunction, InstanceName};

/// Group of instances that share their blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantGroup {
    /// Name of the tenant. Its blobs are found under this name, whatever its instances are.
    pub name: String,
    /// Names of its instances.
    pub instances: Vec<Pattern>,
}

/// Tenants of a server. An instance belongs to the first group that names it; one that no group names is a tenant of its
/// own.
#[derive(Debug, Clone)]
pub struct Tenants {
    groups: Arc<[TenantGroup]>,
    key: PossessionKey,
}

impl Tenants {
    /// Tenants with these groups. The key proves which tenant has which blob, see [`bitzel_cas::IsolatedBlobStore`].
    pub fn new(groups: Vec<TenantGroup>, key: PossessionKey) -> Self {
        Self {
            groups: groups.into(),
            key,
        }
    }

    /// Text that tells these groups and this key from others: what one set of tenants may use, another one may not.
    pub fn identifier(&self) -> String {
        let text = format!("{:?} {}", self.groups, self.key.identifier());
        let hash = DigestFunction::Sha256.digest(text.as_bytes()).hash_hex();
        hash[..16].to_owned()
    }

    /// The stores of the instances, over one store.
    pub(crate) fn stores(self, store: Arc<dyn BlobStore>) -> InstanceBlobStores {
        InstanceBlobStores::isolated(store, Arc::new(Names(self.groups)), self.key)
    }
}

struct Names(Arc<[TenantGroup]>);

impl TenantNames for Names {
    fn tenant(&self, instance: &InstanceName) -> String {
        let name = instance.as_str();
        let names = |group: &&TenantGroup| group.instances.iter().any(|pattern| pattern.matches(name));
        match self.0.iter().find(names) {
            Some(group) => format!("group/{}", group.name),
            None => format!("instance/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_group_that_names_an_instance_has_it() {
        let group = |name: &str, instances: &[&str]| TenantGroup {
            name: name.to_owned(),
            instances: instances.iter().copied().map(Pattern::new).collect(),
        };
        let groups = [
            group("a", &["team-a", "team-a/*"]),
            group("all-teams", &["team-*"]),
            group("group/a", &["odd"]),
        ];
        let names = Names(groups.into());
        let tenant = |name: &str| names.tenant(&InstanceName::new(name).unwrap());
        assert_eq!(tenant("team-a"), tenant("team-a/main"));
        assert_ne!(tenant("team-a"), tenant("team-b"));
        assert_eq!(tenant("team-b"), tenant("team-c"));
        // The last three belong to no group.
        let apart = ["odd", "a", "group/a", ""].map(tenant);
        for (index, one) in apart.iter().enumerate() {
            assert!(!apart[..index].contains(one), "{one}");
            assert_ne!(*one, tenant("team-a"));
        }
    }
}
