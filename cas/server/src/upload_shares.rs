//! Shares of identities in the space for uploads that have not ended.

use std::collections::HashMap;
use std::sync::Arc;

use bitzel_access::Caller;
use bitzel_cas::blob_store::BlobStream;
use bitzel_cas::error::Error;
use futures::{StreamExt as _, TryStreamExt as _};
use http::Extensions;
use metrics::counter;
use parking_lot::Mutex;
use tonic::Status;

/// Limit of the bytes that have arrived of the uploads of one identity, until they end. Their space is reserved: without a
/// limit, uploads of one client that do not go on would keep out those of everybody else. An upload that is the only one
/// of its identity may be larger.
#[derive(Debug)]
pub struct UploadShares {
    bytes_per_identity: u64,
    used: Mutex<HashMap<String, u64>>,
}

/// Part that one upload has of the share of its identity.
#[derive(Debug)]
pub(crate) struct UploadShare {
    shares: Arc<UploadShares>,
    identity: String,
    bytes: u64,
}

impl UploadShares {
    /// Limits the uploads of each identity to `bytes_per_identity`.
    pub(crate) fn new(bytes_per_identity: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes_per_identity,
            used: Mutex::default(),
        })
    }

    /// Limits nothing.
    pub(crate) fn unlimited() -> Arc<Self> {
        Self::new(u64::MAX)
    }

    /// Limits the uploads into a store on disk with `limit_bytes`. The store reserves a quarter in advance, so one identity
    /// has no more than half of it.
    pub(crate) fn of_store(limit_bytes: u64) -> Arc<Self> {
        Self::new(limit_bytes / 8 * 3)
    }

    /// Begins an upload of the caller of `request`.
    pub(crate) fn begin(self: &Arc<Self>, request: &Extensions) -> UploadShare {
        let caller = request.get::<Caller>();
        UploadShare {
            shares: Arc::clone(self),
            identity: caller.map_or_else(String::new, |caller| caller.identity.to_string()),
            bytes: 0,
        }
    }
}

impl UploadShare {
    /// Counts bytes that have arrived.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), Error> {
        let limit = self.shares.bytes_per_identity;
        let mut used = self.shares.used.lock();
        let used = used.entry(self.identity.clone()).or_default();
        let is_alone = *used == self.bytes;
        if !is_alone && *used + bytes > limit {
            counter!("bitzel_access_refusals_total", "reason" => "uploads").increment(1);
            let refusal = Status::resource_exhausted(format!(
                "uploads of this identity that have not ended hold {} bytes, and {limit} is the limit; try again when \
                 some have ended",
                *used
            ));
            return Err(Error::remote("no space for the upload")(refusal));
        }
        *used += bytes;
        self.bytes += bytes;
        Ok(())
    }

    /// Counts the bytes of `blob` until it is dropped.
    pub(crate) fn counted(mut self, blob: BlobStream) -> BlobStream {
        blob.and_then(move |chunk| {
            let counted = self.grow(chunk.len() as u64);
            std::future::ready(counted.map(|()| chunk))
        })
        .boxed()
    }
}

impl Drop for UploadShare {
    fn drop(&mut self) {
        let mut used = self.shares.used.lock();
        if let Some(bytes) = used.get_mut(&self.identity) {
            *bytes -= self.bytes;
            if *bytes == 0 {
                used.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests;
