//! Contents within action results, for clients that want to save a round trip.

use std::collections::HashSet;

use bitzel_proto::reapi::{self, ActionResult};
use bitzel_proto::{Digest, DigestFunction};
use prost::Message;

use crate::blob_store::{BlobStore, read_whole};
use bitzel_proto::limits::MAX_BATCH_TOTAL_SIZE;

/// What a client wants to have within a result, besides the digests.
#[derive(Debug, Clone, Default)]
pub struct InlineWishes {
    /// What the command wrote to standard output.
    pub stdout: bool,
    /// What it wrote to standard error.
    pub stderr: bool,
    /// Output files, by their paths in the result.
    pub files: HashSet<String>,
}

impl InlineWishes {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        !self.stdout && !self.stderr && self.files.is_empty()
    }
}

/// Brings a result into the form that was asked for: contents inline on request and as far as they fit into the
/// message, digests otherwise. What has no digest stays inline, or it would be lost.
pub async fn inline(
    store: &dyn BlobStore,
    function: DigestFunction,
    result: &mut ActionResult,
    wishes: &InlineWishes,
) {
    for (content, digest, wanted) in contents(result, wishes) {
        // Nobody asked for it.
        if !wanted && digest.is_some() {
            content.clear();
        }
    }
    let mut room = MAX_BATCH_TOTAL_SIZE.saturating_sub(result.encoded_len() as u64);
    for (content, digest, wanted) in contents(result, wishes) {
        if wanted {
            fill(store, function, content, digest, &mut room).await;
        }
    }
}

/// All that can be inline in a result, with its digest and whether it is wanted.
fn contents<'a>(
    result: &'a mut ActionResult,
    wishes: &InlineWishes,
) -> Vec<(&'a mut Vec<u8>, Option<&'a reapi::Digest>, bool)> {
    let mut contents = vec![
        (
            &mut result.stdout_raw,
            result.stdout_digest.as_ref(),
            wishes.stdout,
        ),
        (
            &mut result.stderr_raw,
            result.stderr_digest.as_ref(),
            wishes.stderr,
        ),
    ];
    for file in &mut result.output_files {
        let wanted = wishes.files.contains(&file.path);
        contents.push((&mut file.contents, file.digest.as_ref(), wanted));
    }
    contents
}

/// Fetches content that was asked for. Inlining is a courtesy: what does not fit or is gone stays a digest.
async fn fill(
    store: &dyn BlobStore,
    function: DigestFunction,
    content: &mut Vec<u8>,
    digest: Option<&reapi::Digest>,
    room: &mut u64,
) {
    let Ok(digest) = Digest::from_wire_field(function, digest) else {
        return;
    };
    if !content.is_empty() || digest.size_bytes() > *room {
        return;
    }
    match read_whole(store, digest).await {
        Ok(blob) => {
            *room -= digest.size_bytes();
            *content = blob.into();
        }
        Err(error) => tracing::debug!(%digest, %error, "not inlined"),
    }
}
