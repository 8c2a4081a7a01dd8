//! Uploads of large blobs in parts.

use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bitzel_proto::Digest;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use tracing::warn;

use super::{MIB, S3BlobStore};
use crate::blob_store::BlobStream;
use crate::blob_store::verification::verified;
use crate::error::{BackEndFailure, Error};
use crate::media::s3_bucket::{S3Bucket, failed};

/// Size of a part, unless the blob has more than [`MAX_PARTS`] of them. S3 requires 5 MiB at least.
const MIN_PART_BYTES: u64 = 8 << 20;
/// Largest number of parts that S3 accepts.
const MAX_PARTS: u64 = 10_000;
/// Parts of one blob that are uploaded at the same time.
const MAX_CONCURRENT_PARTS: usize = 4;

/// Size of each part of a blob but the last.
fn part_size(blob: u64) -> u64 {
    blob.div_ceil(MAX_PARTS)
        .div_ceil(MIB)
        .saturating_mul(MIB)
        .max(MIN_PART_BYTES)
}

/// Divides a stream into parts of `size` bytes, the last one smaller.
fn parts(stream: BlobStream, size: usize) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let state = (stream, BytesMut::new());
    futures::stream::try_unfold(state, move |(mut stream, mut part)| async move {
        while part.len() < size {
            match stream.next().await.transpose()? {
                Some(chunk) => part.extend_from_slice(&chunk),
                None if part.is_empty() => return Ok(None),
                None => return Ok(Some((part.split().freeze(), (stream, part)))),
            }
        }
        let rest = part.split_off(size);
        Ok(Some((part.freeze(), (stream, rest))))
    })
}

/// Upload in parts, which is aborted on drop unless it was completed.
struct Upload {
    bucket: Arc<S3Bucket>,
    key: String,
    id: Option<String>,
}

impl Upload {
    async fn begin(bucket: Arc<S3Bucket>, key: String) -> Result<Self, Error> {
        let create = bucket.client().create_multipart_upload();
        let created = create.bucket(bucket.bucket()).key(&key).send().await;
        let created = created.map_err(|error| failed(format!("cannot begin to write {key} to S3"), error))?;
        let id = created.upload_id().ok_or_else(|| {
            let context = format_args!("S3 returns no id for the upload of {key}");
            Error::back_end(context, BackEndFailure::Faulty)("no UploadId")
        })?;
        let id = Some(id.to_owned());
        Ok(Self { bucket, key, id })
    }

    async fn part(&self, number: i32, bytes: Bytes) -> Result<CompletedPart, Error> {
        let upload = self.bucket.client().upload_part();
        let upload = upload
            .bucket(self.bucket.bucket())
            .key(&self.key)
            .set_upload_id(self.id.clone());
        let uploaded = upload
            .part_number(number)
            .body(ByteStream::from(bytes))
            .send()
            .await;
        let uploaded = uploaded
            .map_err(|error| failed(format!("cannot write part {number} of {} to S3", self.key), error))?;
        let part = CompletedPart::builder().part_number(number);
        Ok(part.set_e_tag(uploaded.e_tag().map(str::to_owned)).build())
    }

    async fn complete(mut self, parts: Vec<CompletedPart>) -> Result<(), Error> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self.bucket.client().complete_multipart_upload();
        let complete = complete
            .bucket(self.bucket.bucket())
            .key(&self.key)
            .set_upload_id(self.id.clone());
        match complete.multipart_upload(parts).send().await {
            Ok(_) => {
                self.id = None;
                Ok(())
            }
            Err(error) => {
                let error = failed(format!("cannot complete {} in S3", self.key), error);
                self.abort().await;
                Err(error)
            }
        }
    }

    async fn abort(mut self) {
        if let Some(id) = self.id.take() {
            abort(&self.bucket, &self.key, id).await;
        }
    }
}

async fn abort(bucket: &S3Bucket, key: &str, id: String) {
    let abort = bucket.client().abort_multipart_upload();
    let aborted = abort.bucket(bucket.bucket()).key(key).upload_id(id).send().await;
    if let Err(error) = aborted {
        let error = failed(format!("cannot abort the upload of {key}"), error).to_string();
        warn!(
            error,
            "parts stay in S3 until a lifecycle rule for incomplete uploads removes them"
        );
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(id) = self.id.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (bucket, key) = (Arc::clone(&self.bucket), std::mem::take(&mut self.key));
            runtime.spawn(async move { abort(&bucket, &key, id).await });
        }
    }
}

impl S3BlobStore {
    /// Uploads a blob part by part. It appears when it is complete and its digest was right.
    pub(super) async fn put_parts(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let size = part_size(digest.size_bytes());
        let upload = Upload::begin(Arc::clone(&self.bucket), self.key(digest)).await?;
        let stream = parts(
            verified(digest, blob),
            usize::try_from(size).unwrap_or(usize::MAX),
        );
        let uploaded: Result<Vec<CompletedPart>, Error> = self
            .with_memory(stream, size)
            .enumerate()
            .map(|(index, part)| {
                let number = i32::try_from(index + 1).unwrap_or(i32::MAX);
                part.map(|(bytes, memory)| {
                    let upload = &upload;
                    async move {
                        let _memory = memory;
                        upload.part(number, bytes).await
                    }
                })
            })
            .try_buffered(MAX_CONCURRENT_PARTS)
            .try_collect()
            .await;
        match uploaded {
            Ok(parts) => upload.complete(parts).await,
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    /// Reserves memory before each part is collected.
    fn with_memory<'a>(
        &'a self,
        parts: impl Stream<Item = Result<Bytes, Error>> + Send + 'a,
        size: u64,
    ) -> impl Stream<Item = Result<(Bytes, Option<tokio::sync::OwnedSemaphorePermit>), Error>> + Send + 'a
    {
        futures::stream::try_unfold(Box::pin(parts), move |mut parts| async move {
            let memory = self.reserve_memory(size).await;
            let part = parts.next().await.transpose()?;
            Ok(part.map(|bytes| ((bytes, memory), parts)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_never_too_many_or_too_small() {
        for blob in [
            1,
            MIN_PART_BYTES,
            MIN_PART_BYTES * MAX_PARTS,
            MIN_PART_BYTES * MAX_PARTS + 1,
            5 << 40,
        ] {
            let size = part_size(blob);
            assert!(
                size >= MIN_PART_BYTES && blob.div_ceil(size) <= MAX_PARTS,
                "{blob}"
            );
        }
    }

    #[tokio::test]
    async fn all_parts_but_the_last_are_full() {
        for (total, chunk) in [(0, 1), (10, 3), (12, 4), (12, 100), (13, 1)] {
            let bytes: Vec<u8> = (0..total).collect();
            let chunks: Vec<Result<Bytes, Error>> = bytes
                .chunks(chunk)
                .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
                .collect();
            let cut: Vec<Bytes> = parts(futures::stream::iter(chunks).boxed(), 4)
                .try_collect()
                .await
                .unwrap();
            assert_eq!(cut.concat(), bytes);
            assert!(cut.iter().rev().skip(1).all(|part| part.len() == 4), "{cut:?}");
        }
    }
}
