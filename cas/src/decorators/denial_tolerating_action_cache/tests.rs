use std::sync::atomic::AtomicUsize;

use tonic::Status;

use super::*;

/// Answers every write with one status.
struct RefusingActionCache {
    code: Code,
    writes: AtomicUsize,
}

#[async_trait]
impl ActionCache for RefusingActionCache {
    async fn get(&self, _: &InstanceName, _: Digest) -> Result<Option<ActionResult>, Error> {
        Ok(Some(ActionResult::default()))
    }

    async fn put(&self, _: &InstanceName, _: Digest, _: ActionResult) -> Result<(), Error> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Err(Error::remote("writing")(Status::new(self.code, "no")))
    }
}

async fn write_twice(code: Code) -> (Result<(), Error>, usize) {
    let inner = Arc::new(RefusingActionCache {
        code,
        writes: AtomicUsize::new(0),
    });
    let cache = DenialToleratingActionCache::new(inner.clone());
    let instance = InstanceName::default();
    let digest = bitzel_proto::DigestFunction::Sha256.digest(b"action");
    assert!(cache.get(&instance, digest).await.unwrap().is_some());
    let first = cache.put(&instance, digest, ActionResult::default()).await;
    let second = cache.put(&instance, digest, ActionResult::default()).await;
    (first.and(second), inner.writes.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_denied_write_succeeds_and_is_not_repeated() {
    let (outcome, writes) = write_twice(Code::PermissionDenied).await;
    outcome.unwrap();
    assert_eq!(writes, 1);
}

#[tokio::test]
async fn other_failures_are_passed_on() {
    let (outcome, writes) = write_twice(Code::Unavailable).await;
    assert!(matches!(outcome, Err(Error::Remote { .. })));
    assert_eq!(writes, 2);
}
