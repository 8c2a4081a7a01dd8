//! Inline contents in action results, which save clients a round trip.

use std::collections::HashSet;

use bitzel_proto::limits::MAX_BATCH_TOTAL_SIZE;
use bitzel_proto::reapi::{self, ActionResult};
use bitzel_proto::{Digest, DigestFunction};
use prost::Message;

use crate::blob_store::{BlobStore, read_whole};

/// The contents that a client asks to have inline in a result, besides the digests.
#[derive(Debug, Clone, Default)]
pub struct InlineRequest {
    /// The standard output of the command.
    pub stdout: bool,
    /// The standard error of the command.
    pub stderr: bool,
    /// Output files, by their paths in the result.
    pub files: HashSet<String>,
}

impl InlineRequest {
    /// True if no content is requested.
    pub fn is_empty(&self) -> bool {
        !self.stdout && !self.stderr && self.files.is_empty()
    }
}

/// Brings a result into the requested form: contents inline on request and as far as they fit into the message, digests
/// otherwise. Content without a digest stays inline, because it would be lost.
pub async fn inline(
    store: &dyn BlobStore,
    function: DigestFunction,
    result: &mut ActionResult,
    request: &InlineRequest,
) {
    for (content, digest, requested) in contents(result, request) {
        // The client did not ask for it.
        if !requested && digest.is_some() {
            content.clear();
        }
    }
    let mut bytes_left = MAX_BATCH_TOTAL_SIZE.saturating_sub(result.encoded_len() as u64);
    for (content, digest, requested) in contents(result, request) {
        if requested {
            fill(store, function, content, digest, &mut bytes_left).await;
        }
    }
}

/// Every content that can be inline in a result, with its digest and true if it is requested.
fn contents<'a>(
    result: &'a mut ActionResult,
    request: &InlineRequest,
) -> Vec<(&'a mut Vec<u8>, Option<&'a reapi::Digest>, bool)> {
    let mut contents = vec![
        (
            &mut result.stdout_raw,
            result.stdout_digest.as_ref(),
            request.stdout,
        ),
        (
            &mut result.stderr_raw,
            result.stderr_digest.as_ref(),
            request.stderr,
        ),
    ];
    for file in &mut result.output_files {
        let requested = request.files.contains(&file.path);
        contents.push((&mut file.contents, file.digest.as_ref(), requested));
    }
    contents
}

/// Fetches content that is requested. Inlining is optional: content that does not fit or is absent stays a digest.
async fn fill(
    store: &dyn BlobStore,
    function: DigestFunction,
    content: &mut Vec<u8>,
    digest: Option<&reapi::Digest>,
    bytes_left: &mut u64,
) {
    let Ok(digest) = Digest::from_wire_field(function, digest) else {
        return;
    };
    if !content.is_empty() || digest.size_bytes() > *bytes_left {
        return;
    }
    match read_whole(store, digest).await {
        Ok(blob) => {
            *bytes_left -= digest.size_bytes();
            *content = blob.into();
        }
        Err(error) => tracing::debug!(%digest, %error, "not inlined"),
    }
}
