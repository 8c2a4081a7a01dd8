use futures::StreamExt as _;

use super::*;
use crate::blob_store::{one_chunk, read_whole};
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::sha256;

/// Tenants by the first segment of the instance name.
struct FirstSegment;

impl TenantNames for FirstSegment {
    fn tenant(&self, instance: &InstanceName) -> String {
        instance.as_str().split('/').next().unwrap_or_default().to_owned()
    }
}

fn instance(name: &str) -> InstanceName {
    InstanceName::new(name).unwrap()
}

fn isolated() -> InstanceBlobStores {
    let store = Arc::new(MemoryBlobStore::default());
    InstanceBlobStores::isolated(store, Arc::new(FirstSegment), PossessionKey::new(b"secret"))
}

#[tokio::test]
async fn f12_instances_share_within_a_tenant_only() {
    let stores = isolated();
    let blob = sha256(b"hello");
    let one = stores.store(&instance("a/one"));
    one.write(blob, one_chunk(b"hello"[..].into())).await.unwrap();
    let found = async |name: &str| read_whole(&*stores.store(&instance(name)), blob).await.is_ok();
    assert!(found("a/two").await);
    assert!(found("a").await);
    assert!(!found("b/one").await);
    assert!(!found("").await);
}

#[tokio::test]
async fn f12_a_tenant_does_not_wait_for_the_upload_of_another() {
    let stores = isolated().coalescing();
    let blob = sha256(b"hello");
    let (one, other) = (stores.store(&instance("a")), stores.store(&instance("b")));
    let mut endless = one.write(blob, Box::pin(futures::stream::pending()));
    assert!(futures::poll!(&mut endless).is_pending());
    other.write(blob, one_chunk(b"hello"[..].into())).await.unwrap();
    assert!(futures::poll!(&mut endless).is_pending());
}

#[tokio::test]
async fn uploads_of_one_tenant_are_reduced_to_one() {
    let stores = isolated().coalescing();
    let blob = sha256(b"hello");
    let (one, other) = (stores.store(&instance("a/one")), stores.store(&instance("a/two")));
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let held = tokio_stream::wrappers::ReceiverStream::new(receiver).map(Ok);
    let mut first = one.write(blob, held.boxed());
    assert!(futures::poll!(&mut first).is_pending());
    let unread = futures::stream::poll_fn(|_| panic!("the tenant sends its blob once"));
    let mut second = other.write(blob, unread.boxed());
    assert!(futures::poll!(&mut second).is_pending());
    sender.send(bytes::Bytes::from_static(b"hello")).await.unwrap();
    drop(sender);
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(read_whole(&*other, blob).await.unwrap(), "hello");
}

#[test]
fn reserved_names_belong_to_the_tenant() {
    let stores = isolated();
    let reserved = stores.reserved("values", &instance("a/one"));
    assert_eq!(reserved, stores.reserved("values", &instance("a/two")));
    assert_ne!(reserved, stores.reserved("values", &instance("b")));
    assert_ne!(reserved, stores.reserved("chunks", &instance("a")));
    assert_eq!(stores.tenant(&reserved).as_deref(), Some("a"));
    assert!(
        InstanceName::new(reserved.as_str()).is_err(),
        "clients cannot use it"
    );
}

#[test]
fn without_tenants_the_store_is_the_same_one() {
    let store: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
    let stores = InstanceBlobStores::from(Arc::clone(&store));
    assert!(Arc::ptr_eq(&stores.store(&instance("a")), &store));
    assert_eq!(stores.tenant(&instance("a")), None);
    assert_eq!(
        stores.reserved("values", &instance("a")),
        InstanceName::reserved("values")
    );
}
