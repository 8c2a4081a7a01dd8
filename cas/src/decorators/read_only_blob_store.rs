//! Read-only view of a blob store.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::Digest;
use bytes::Bytes;

use crate::blob_store::{BlobStore, BlobStream};
use crate::error::Error;
use crate::forward_blob_store;

/// Lets reads through to another store and refuses writes with [`Error::ReadOnly`].
pub struct ReadOnlyBlobStore {
    inner: Arc<dyn BlobStore>,
}

impl ReadOnlyBlobStore {
    /// A view of `inner`.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self { inner }
    }
}

fn refusal() -> Error {
    Error::ReadOnly("this store")
}

#[async_trait]
impl BlobStore for ReadOnlyBlobStore {
    forward_blob_store!(inner: find_missing, read, lease, resolve, read_batch);

    async fn write(&self, _: Digest, _: BlobStream) -> Result<(), Error> {
        Err(refusal())
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        blobs.iter().map(|_| Err(refusal())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob_store::{one_chunk, read_whole};
    use crate::media::memory_blob_store::MemoryBlobStore;
    use crate::testing::sha256;

    #[tokio::test]
    async fn reads_pass_and_writes_are_refused() {
        let inner = Arc::new(MemoryBlobStore::default());
        let (present, new) = (sha256(b"present"), sha256(b"new"));
        inner.write(present, one_chunk("present".into())).await.unwrap();
        let store = ReadOnlyBlobStore::new(inner);
        assert_eq!(read_whole(&store, present).await.unwrap(), "present");
        assert_eq!(store.read_batch(&[present]).await.remove(0).unwrap(), "present");
        let written = store.write(new, one_chunk("new".into())).await;
        assert!(matches!(written, Err(Error::ReadOnly(_))), "{written:?}");
        let written = store.write_batch(vec![(new, "new".into())]).await.remove(0);
        assert!(matches!(written, Err(Error::ReadOnly(_))), "{written:?}");
        assert_eq!(store.find_missing(&[present, new]).await.unwrap(), [new]);
    }
}
