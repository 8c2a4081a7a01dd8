use std::collections::HashMap;

use bitzel_proto::DigestFunction;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::blob_store::{Lease, collect, one_chunk, read_whole};
use crate::testing::model;

/// Stores any bytes under any digest.
#[derive(Default)]
struct UnverifiedBlobStore {
    blobs: Mutex<HashMap<Digest, Bytes>>,
}

#[async_trait]
impl BlobStore for UnverifiedBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let blobs = self.blobs.lock();
        let mut missing: Vec<Digest> = digests
            .iter()
            .filter(|digest| !digest.is_empty_blob() && !blobs.contains_key(digest))
            .copied()
            .collect();
        missing.sort_unstable();
        missing.dedup();
        Ok(missing)
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let blob = self.blobs.lock().get(&digest).cloned();
        let blob = match blob {
            None if digest.is_empty_blob() => Bytes::new(),
            None => return Err(Error::NotFound(digest)),
            Some(blob) => blob,
        };
        if range.offset > digest.size_bytes() {
            let offset = range.offset;
            return Err(Error::OffsetOutOfRange { digest, offset });
        }
        let start = usize::try_from(range.offset).unwrap().min(blob.len());
        let limit = usize::try_from(range.limit.unwrap_or(u64::from(u32::MAX))).unwrap();
        Ok(one_chunk(blob.slice(start..blob.len().min(start + limit))))
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let blob = collect(blob).await?;
        self.blobs.lock().insert(digest, blob);
        Ok(())
    }

    async fn lease(&self, _: &[Digest]) -> Result<Lease, Error> {
        Ok(Lease::none())
    }

    async fn resolve(&self, _: DigestFunction, _: [u8; 32]) -> Result<Option<Digest>, Error> {
        Ok(None)
    }
}

fn store() -> (Arc<UnverifiedBlobStore>, VerifyingBlobStore) {
    let inner = Arc::new(UnverifiedBlobStore::default());
    let store = VerifyingBlobStore::new(Arc::clone(&inner) as Arc<dyn BlobStore>);
    (inner, store)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn behaves_like_every_store(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let open = async |open: Option<VerifyingBlobStore>| open.unwrap_or_else(|| store().1);
        runtime.block_on(model::run(steps, open));
    }
}

#[tokio::test]
async fn wrong_bytes_in_the_store_are_not_served() {
    let digest = DigestFunction::Blake3.digest(b"right");
    for wrong in ["wrong", "righ", "right!", ""] {
        let (inner, store) = store();
        inner.blobs.lock().insert(digest, wrong.into());
        let result = read_whole(&store, digest).await;
        assert!(matches!(result, Err(Error::DigestMismatch { .. })), "{wrong}");
        let mut batch = store.read_batch(&[digest]).await;
        assert!(
            matches!(batch.remove(0), Err(Error::DigestMismatch { .. })),
            "{wrong}"
        );
    }
}
