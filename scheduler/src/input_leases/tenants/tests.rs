use bitzel_cas::{MemoryBlobStore, PossessionKey, TenantNames};
use bitzel_proto::reapi::{Directory, FileNode};
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::ExecutionError;

struct ByInstance;

impl TenantNames for ByInstance {
    fn tenant(&self, instance: &InstanceName) -> String {
        instance.to_string()
    }
}

fn instance(number: usize) -> InstanceName {
    InstanceName::new(format!("team-{number}")).unwrap()
}

/// A Directory with an empty file.
fn directory() -> (Digest, Bytes) {
    let file = FileNode {
        name: "empty".to_owned(),
        digest: Some(DigestFunction::Sha256.digest(b"").into()),
        ..FileNode::default()
    };
    let directory = Directory {
        files: vec![file],
        ..Directory::default()
    };
    let blob = Bytes::from(directory.encode_to_vec());
    (DigestFunction::Sha256.digest(&blob), blob)
}

/// Many tenants, each with an Action that waits.
#[tokio::test]
async fn many_tenants_keep_sharing_their_leases() {
    let store = Arc::new(MemoryBlobStore::default());
    let stores = InstanceBlobStores::isolated(store, Arc::new(ByInstance), PossessionKey::new(b"secret"));
    let tenants = TenantInputLeases::new(stores.clone());
    let (root, blob) = directory();
    let mut held = Vec::new();
    let mut tables = Vec::new();
    for number in 0..200 {
        let written = stores
            .store(&instance(number))
            .write_batch(vec![(root, blob.clone())])
            .await;
        assert!(written.iter().all(Result::is_ok));
        let leases = tenants.of(&instance(number));
        held.push(leases.lease(root, root, root).await.unwrap());
        tables.push(Arc::downgrade(&leases));
    }
    for (number, table) in tables.iter().enumerate() {
        let known = table.upgrade().expect("its lease lives");
        assert!(Arc::ptr_eq(&known, &tenants.of(&instance(number))), "{number}");
        assert!(known.directories.lock().get(&root).is_some(), "{number}");
    }
    drop(held);
    assert!(
        tables.iter().all(|table| table.upgrade().is_none()),
        "nothing is kept without a lease"
    );
}

/// The Directories of a tenant stay apart in the memory that all share.
#[tokio::test]
async fn f12_a_directory_of_another_tenant_is_not_found() {
    let store = Arc::new(MemoryBlobStore::default());
    let stores = InstanceBlobStores::isolated(store, Arc::new(ByInstance), PossessionKey::new(b"secret"));
    let tenants = TenantInputLeases::new(stores.clone());
    let (root, blob) = directory();
    let written = stores.store(&instance(1)).write_batch(vec![(root, blob)]).await;
    assert!(written.iter().all(Result::is_ok));
    tenants.of(&instance(1)).lease(root, root, root).await.unwrap();
    let refused = tenants.of(&instance(2)).lease(root, root, root).await;
    assert!(matches!(refused, Err(ExecutionError::MissingBlobs(_))));
    let remembered = [1, 2].map(|number| tenants.of(&instance(number)).cache.get(&root).is_some());
    assert_eq!(remembered, [true, false], "also without a lease");
}
