//! Possession of blobs: the markers of a tenant, and the proof that it has a blob.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bitzel_proto::{Digest, Hasher};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;

use crate::blob_store::BlobStream;
use crate::blob_store::verification::check;
use crate::error::Error;

/// Context of the derivation of keys, which keeps them apart from other uses of the same secret.
const KEY_CONTEXT: &str = "bitzel 2026-11-30 possession of blobs";

/// Context of the derivation of a key's identifier.
const IDENTIFIER_CONTEXT: &str = "bitzel 2026-11-30 identifier of a key of possession";

/// Secret key of possession markers. Without it nobody can tell the digest of a marker, find one or make one.
#[derive(Clone)]
pub struct PossessionKey([u8; blake3::KEY_LEN]);

impl PossessionKey {
    /// Key of a server, from a secret of any length.
    pub fn new(secret: &[u8]) -> Self {
        Self(blake3::derive_key(KEY_CONTEXT, secret))
    }

    /// Key of one tenant.
    #[must_use]
    pub fn of_tenant(&self, tenant: &str) -> Self {
        Self(blake3::keyed_hash(&self.0, tenant.as_bytes()).into())
    }

    /// Text that tells keys apart and tells nothing about them.
    pub fn identifier(&self) -> String {
        faster_hex::hex_string(&blake3::derive_key(IDENTIFIER_CONTEXT, &self.0)[..8])
    }

    /// Content of the marker of a blob.
    pub(super) fn tag(&self, digest: Digest) -> [u8; blake3::OUT_LEN] {
        // One block of the hash, which is several times as fast as two.
        let mut name = [0; 44];
        name[..32].copy_from_slice(digest.hash());
        name[32..40].copy_from_slice(&digest.size_bytes().to_le_bytes());
        name[40..].copy_from_slice(&digest.function().to_wire().to_le_bytes());
        blake3::keyed_hash(&self.0, &name).into()
    }

    /// Digest of the marker of a blob. It has the digest function of the blob, because not every store knows each
    /// function.
    pub(super) fn marker_digest(&self, digest: Digest) -> Digest {
        digest.function().digest(&self.tag(digest))
    }

    /// Marker of a blob.
    pub(super) fn marker(&self, digest: Digest) -> (Digest, Bytes) {
        let tag = self.tag(digest);
        (digest.function().digest(&tag), Bytes::copy_from_slice(&tag))
    }
}

impl fmt::Debug for PossessionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PossessionKey")
    }
}

/// Blob on its way into a store, hashed as it passes.
struct Passing {
    /// `None` after its end.
    blob: Option<BlobStream>,
    hasher: Hasher,
}

impl Passing {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let Some(blob) = &mut self.blob else {
            return Poll::Ready(None);
        };
        let polled = blob.poll_next_unpin(context);
        match &polled {
            Poll::Ready(Some(Ok(chunk))) => self.hasher.update(chunk),
            Poll::Ready(None) => self.blob = None,
            _ => {}
        }
        polled
    }
}

/// Stream of a blob whose bytes are hashed, and the proof that they were all there. The stream ends with an error when the
/// proof is taken.
pub(super) fn watched(digest: Digest, blob: BlobStream) -> (BlobStream, Proof) {
    let hasher = digest.function().hasher();
    let blob = Some(blob);
    let passing = Arc::new(Mutex::new(Some(Passing { blob, hasher })));
    let proof = Proof {
        digest,
        passing: Arc::clone(&passing),
    };
    (Box::pin(Watched { digest, passing }), proof)
}

struct Watched {
    digest: Digest,
    passing: Arc<Mutex<Option<Passing>>>,
}

impl Stream for Watched {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut passing = self.passing.lock();
        match passing.as_mut() {
            Some(passing) => passing.poll_next(context),
            None => Poll::Ready(Some(Err(Error::Abandoned(self.digest)))),
        }
    }
}

/// Proof that all bytes of a blob came in.
pub(super) struct Proof {
    digest: Digest,
    passing: Arc<Mutex<Option<Passing>>>,
}

impl Proof {
    /// Reads the bytes that the store left unread, and checks all of them. True if there were any.
    pub(super) async fn complete(self) -> Result<bool, Error> {
        let passing = self.passing.lock().take();
        let mut passing = passing.ok_or(Error::Abandoned(self.digest))?;
        let was_unread = passing.blob.is_some();
        // One byte too many is enough to know.
        while passing.hasher.size_bytes() <= self.digest.size_bytes()
            && let Some(chunk) = poll_fn(|context| passing.poll_next(context)).await
        {
            chunk?;
        }
        check(self.digest, passing.hasher)?;
        Ok(was_unread)
    }
}
