//! Memory of compressed uploads.

use async_trait::async_trait;
use bitzel_access::ResponseMemory;
use bitzel_cas::compression::DecompressionMemory;
use bitzel_cas::error::Error;
use http::Extensions;

/// Decompressed bytes between a decompressor and the disk: four pieces in the queue, one on its way into it, and two
/// buffers of the store of 1 MiB each.
const MAX_UNWRITTEN_BYTES: u64 = 5 * (128 << 10) + (2 << 20);

/// Memory of one compressed upload: its decompressor, and the bytes that are not written yet. It counts in the budgets of
/// connection, identity and server from which downloads take theirs.
pub(crate) struct UploadMemory {
    request: Extensions,
    /// Decompressed bytes that wait, at most.
    unwritten: u64,
    reserved: Option<ResponseMemory>,
}

impl UploadMemory {
    /// Memory for an upload of `bytes` at most.
    pub(crate) fn new(request: &Extensions, bytes: u64) -> Self {
        Self {
            request: request.clone(),
            unwritten: bytes.min(MAX_UNWRITTEN_BYTES),
            reserved: None,
        }
    }
}

#[async_trait]
impl DecompressionMemory for UploadMemory {
    async fn reserve(&mut self, bytes: u64) -> Result<(), Error> {
        // An upload that waited with memory in hand could wait for itself.
        self.reserved = None;
        let bytes = bytes + self.unwritten;
        let reserved = ResponseMemory::for_decompression(&self.request, bytes).await;
        self.reserved = Some(reserved.map_err(Error::remote("no memory to decompress the upload"))?);
        Ok(())
    }
}
