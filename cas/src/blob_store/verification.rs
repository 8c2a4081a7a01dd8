//! Checks of blobs against their digests.

use bitzel_proto::{Digest, Hasher};
use bytes::Bytes;
use futures::StreamExt;

use crate::blob_store::{BlobRange, BlobStream};
use crate::error::Error;

/// True if `range` asks for all of the blob, so that its digest can be checked.
pub(crate) fn is_whole(digest: Digest, range: BlobRange) -> bool {
    range.offset == 0 && range.limit.is_none_or(|limit| limit >= digest.size_bytes())
}

/// Checks a blob in memory.
pub fn verify(digest: Digest, blob: Bytes) -> Result<Bytes, Error> {
    let mut hasher = digest.function().hasher();
    hasher.update(&blob);
    check(digest, hasher)?;
    Ok(blob)
}

/// Checks a stream as it passes and ends it with [`Error::DigestMismatch`] if it is not all of `digest`. The bytes that
/// complete the blob are passed on only after the check.
pub fn verified(digest: Digest, stream: BlobStream) -> BlobStream {
    let hasher = digest.function().hasher();
    futures::stream::try_unfold((stream, hasher), move |(mut stream, mut hasher)| async move {
        let Some(chunk) = stream.next().await.transpose()? else {
            check(digest, hasher)?;
            return Ok(None);
        };
        hasher.update(&chunk);
        if hasher.size_bytes() >= digest.size_bytes() && !chunk.is_empty() {
            check(digest, hasher.clone())?;
        }
        Ok(Some((chunk, (stream, hasher))))
    })
    .boxed()
}

/// Compares the digest of hashed bytes with the expected one.
pub(crate) fn check(expected: Digest, hasher: Hasher) -> Result<(), Error> {
    let actual = hasher.finish();
    if actual == expected {
        Ok(())
    } else {
        Err(Error::DigestMismatch { expected, actual })
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;
    use crate::testing::sha256;

    #[tokio::test]
    async fn a_stream_never_exceeds_the_size_in_its_digest() {
        let endless = futures::stream::repeat_with(|| Ok(Bytes::from_static(b"12"))).boxed();
        let mut seen = 0;
        let end = verified(sha256(b"1212"), endless)
            .try_for_each(|chunk| {
                seen += chunk.len();
                std::future::ready(Ok(()))
            })
            .await;
        assert!(matches!(end, Err(Error::DigestMismatch { .. })));
        assert_eq!(seen, 4);
    }

    #[tokio::test]
    async fn the_last_bytes_of_a_wrong_blob_are_withheld() {
        let wrong = vec![Ok(Bytes::from_static(b"12")), Ok(Bytes::from_static(b"35"))];
        let mut stream = verified(sha256(b"1234"), futures::stream::iter(wrong).boxed());
        assert_eq!(stream.next().await.unwrap().unwrap(), "12");
        let end = stream.next().await.unwrap();
        assert!(matches!(end, Err(Error::DigestMismatch { .. })), "{end:?}");
    }
}
