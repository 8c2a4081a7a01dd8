//! Writes of small blobs in batches.

use std::collections::{HashMap, HashSet};

use backon::BackoffBuilder;
use bitzel_proto::reapi::{BatchUpdateBlobsRequest, batch_update_blobs_request};
use bitzel_proto::{Digest, DigestFunction, reapi};
use bytes::Bytes;
use futures::StreamExt;
use tonic::Status;

use super::{Answers, NO_ANSWER, all_failed, answered, to_result, transient_failures};
use crate::blob_store::one_chunk;
use crate::blob_store::verification::verify;
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::media::remote_blob_store::{MAX_CONCURRENT_REQUESTS, RemoteBlobStore, by_function};
use crate::retry::pauses;

/// Compression level: the fastest, because the caller waits.
const ZSTD_LEVEL: i32 = 1;

impl RemoteBlobStore {
    pub(in super::super) async fn write_batches(
        &self,
        blobs: Vec<(Digest, Bytes)>,
    ) -> Vec<Result<(), Error>> {
        let order: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let (wrong, mut right) = run_blocking(move || verify_all(blobs)).await;
        let distinct: Vec<Digest> = right.keys().copied().collect();
        let mut requests = Vec::new();
        let mut large = Vec::new();
        let mut refused = Answers::new();
        for (function, group) in by_function(&distinct) {
            if let Err(error) = self.capabilities.check_function(function) {
                refused.extend(all_failed(&group, &error.into()));
                continue;
            }
            let mut small = Vec::new();
            for digest in group {
                let Some(blob) = right.remove(&digest) else {
                    continue;
                };
                if self.fits(digest) {
                    small.push((digest, blob));
                } else {
                    large.push((digest, blob));
                }
            }
            for batch in self.divide(small, |(digest, _)| *digest) {
                requests.push((function, batch));
            }
        }
        let batches = futures::stream::iter(requests)
            .map(|(function, batch)| self.write_one_batch(function, batch))
            .buffer_unordered(MAX_CONCURRENT_REQUESTS)
            .fold(Answers::new(), |mut all, answers| async move {
                all.extend(answers);
                all
            });
        let streams = futures::stream::iter(large)
            .map(|(digest, blob)| async move {
                let written = self.write_stream(digest, one_chunk(blob)).await;
                (digest, written.map_err(Status::from))
            })
            .buffer_unordered(MAX_CONCURRENT_REQUESTS)
            .collect::<Answers<()>>();
        let (mut answers, streamed) = futures::join!(batches, streams);
        answers.extend(streamed);
        answers.extend(refused);
        let results = order.into_iter().zip(wrong).map(|(digest, wrong)| match wrong {
            Some(error) => Err(error),
            None if digest.is_empty_blob() => Ok(()),
            None => write_answer(digest, answers.get(&digest)),
        });
        results.collect()
    }

    /// Writes a batch, and repeats the requests with transient failures.
    async fn write_one_batch(&self, function: DigestFunction, blobs: Vec<(Digest, Bytes)>) -> Answers<()> {
        let mut answers = Answers::new();
        let mut left = blobs;
        let mut pauses = pauses().build();
        loop {
            answers.extend(self.try_write_batch(function, &left).await);
            let again: HashSet<Digest> = transient_failures(&answers).into_iter().collect();
            left.retain(|(digest, _)| again.contains(digest));
            match pauses.next() {
                Some(pause) if !left.is_empty() => tokio::time::sleep(pause).await,
                _ => return answers,
            }
        }
    }

    async fn try_write_batch(&self, function: DigestFunction, blobs: &[(Digest, Bytes)]) -> Answers<()> {
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let requests = if self.capabilities.zstd_batch_update {
            let blobs = blobs.to_vec();
            run_blocking(move || blobs.iter().map(compressed).collect()).await
        } else {
            blobs.iter().map(uncompressed).collect()
        };
        let request = BatchUpdateBlobsRequest {
            instance_name: self.instance.to_string(),
            requests,
            digest_function: function.to_wire(),
        };
        let response = match self.storage.clone().batch_update_blobs(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return all_failed(&digests, &status),
        };
        let answers = response.responses.into_iter().filter_map(|response| {
            let digest = answered(function, response.digest.as_ref())?;
            Some((digest, to_result(response.status)))
        });
        answers.collect()
    }
}

/// Checks blobs before they are sent, so that a wrong blob does not replace a right one with the same digest. Returns the
/// error of each blob, and the right ones.
fn verify_all(blobs: Vec<(Digest, Bytes)>) -> (Vec<Option<Error>>, HashMap<Digest, Bytes>) {
    let mut wrong = Vec::with_capacity(blobs.len());
    let mut right = HashMap::with_capacity(blobs.len());
    for (digest, blob) in blobs {
        wrong.push(match verify(digest, blob) {
            Ok(blob) => {
                right.insert(digest, blob);
                None
            }
            Err(error) => Some(error),
        });
    }
    (wrong, right)
}

/// Request for a blob without compression.
fn uncompressed((digest, blob): &(Digest, Bytes)) -> batch_update_blobs_request::Request {
    batch_update_blobs_request::Request {
        digest: Some(digest.to_wire()),
        data: blob.clone().into(),
        compressor: reapi::compressor::Value::Identity.into(),
    }
}

/// Request for a blob, compressed if that makes it smaller.
fn compressed(blob: &(Digest, Bytes)) -> batch_update_blobs_request::Request {
    match zstd::bulk::compress(&blob.1, ZSTD_LEVEL) {
        Ok(data) if data.len() < blob.1.len() => batch_update_blobs_request::Request {
            digest: Some(blob.0.to_wire()),
            data,
            compressor: reapi::compressor::Value::Zstd.into(),
        },
        _ => uncompressed(blob),
    }
}

fn write_answer(digest: Digest, answer: Option<&Result<(), Status>>) -> Result<(), Error> {
    let status = match answer {
        Some(Ok(())) => return Ok(()),
        Some(Err(status)) => status.clone(),
        None => Status::internal(NO_ANSWER),
    };
    Err(Error::remote(format_args!(
        "cannot write blob {digest} to the store"
    ))(status))
}
