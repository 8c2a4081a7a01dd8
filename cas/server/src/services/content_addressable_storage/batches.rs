//! Batches of small blobs: one status for each blob, one size limit for all of them together.

use bitzel_cas::blob_store::BlobStore;
use bitzel_cas::blocking::run_blocking;
use bitzel_cas::error::Error;
use bitzel_cas::grpc_status::blob_status;
use bitzel_proto::limits::MAX_BATCH_TOTAL_SIZE;
use bitzel_proto::reapi::{
    self, batch_read_blobs_response, batch_update_blobs_request, batch_update_blobs_response, compressor,
};
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use tonic::Status;

/// Size below which blobs are sent uncompressed: the frame of the compressor would cost more than it saves.
const MIN_COMPRESSED_BLOB_BYTES: usize = 512;
/// Maximum number of blobs of a batch. Without it, 8 million empty names fit into one message, and their answers take 2 GB.
const MAX_BATCH_BLOBS: usize = 1 << 16;
/// Level of compression while a client waits: the fastest one.
const COMPRESSION_LEVEL: i32 = 1;

/// Memory of a compressor that compresses one blob at a time.
const COMPRESSOR_BYTES: u64 = 1 << 20;

/// Memory of the compressed blobs of a batch once they are decompressed. More than a batch may have is an error.
pub(super) fn decompressed_size(requests: &[batch_update_blobs_request::Request]) -> Result<u64, Status> {
    let is_compressed = |request: &batch_update_blobs_request::Request| {
        request.compressor != i32::from(compressor::Value::Identity)
    };
    check_total(requests.iter().map(|request| {
        if is_compressed(request) {
            announced_size(request.digest.as_ref())
        } else {
            0
        }
    }))
}

/// Writes a batch of blobs.
pub(super) async fn update(
    store: &dyn BlobStore,
    function: DigestFunction,
    requests: Vec<batch_update_blobs_request::Request>,
) -> Result<Vec<batch_update_blobs_response::Response>, Status> {
    let transferred = requests.iter().map(|request| request.data.len() as u64);
    let announced = requests
        .iter()
        .map(|request| announced_size(request.digest.as_ref()));
    check_total(transferred)?;
    check_total(announced)?;
    let compressed = requests
        .iter()
        .any(|request| request.compressor != i32::from(compressor::Value::Identity));
    let decode = move || {
        requests
            .into_iter()
            .map(|request| decode(function, request))
            .collect()
    };
    let decoded: Vec<Decoded> = if compressed {
        run_blocking(decode).await
    } else {
        decode()
    };

    let mut blobs = Vec::with_capacity(decoded.len());
    let mut refusals = Vec::with_capacity(decoded.len());
    for (name, blob) in decoded {
        refusals.push((
            name,
            match blob {
                Ok(blob) => {
                    blobs.push(blob);
                    None
                }
                Err(error) => Some(error),
            },
        ));
    }
    let mut written = store.write_batch(blobs).await.into_iter();
    let responses = refusals.into_iter().map(|(digest, refusal)| {
        let result = match refusal {
            Some(error) => Err(error),
            None => written.next().unwrap_or(Ok(())),
        };
        batch_update_blobs_response::Response {
            digest,
            status: Some(blob_status(result)),
        }
    });
    Ok(responses.collect())
}

/// Digest as the client wrote it, and the blob.
type Decoded = (Option<reapi::Digest>, Result<(Digest, Bytes), Error>);

fn decode(function: DigestFunction, request: batch_update_blobs_request::Request) -> Decoded {
    let blob = Digest::from_wire_field(function, request.digest.as_ref())
        .map_err(|error| Error::InvalidArgument(error.to_string()))
        .and_then(|digest| Ok((digest, decompress(digest, request.data, request.compressor)?)));
    (request.digest, blob)
}

/// Decompresses a blob. More bytes than the digest announces are an error, so a decompression bomb is harmless.
fn decompress(digest: Digest, data: Vec<u8>, compressor: i32) -> Result<Bytes, Error> {
    match compressor::Value::try_from(compressor) {
        Ok(compressor::Value::Identity) => Ok(data.into()),
        Ok(compressor::Value::Zstd) => {
            let size = usize::try_from(digest.size_bytes()).unwrap_or(usize::MAX);
            let blob = zstd::bulk::decompress(&data, size).map_err(|error| {
                Error::InvalidArgument(format!(
                    "the zstd data of {digest} cannot be decompressed: {error}"
                ))
            })?;
            Ok(blob.into())
        }
        _ => Err(Error::InvalidArgument(format!(
            "compressor {compressor} is not supported; use IDENTITY or ZSTD"
        ))),
    }
}

/// Memory of the blobs of a batch together, compressed if the client accepts that. More than a batch may have is an error.
pub(super) fn read_size(names: &[reapi::Digest], acceptable_compressors: &[i32]) -> Result<u64, Status> {
    let size = check_total(names.iter().map(|name| announced_size(Some(name))))?;
    Ok(if is_zstd_accepted(acceptable_compressors) {
        2 * size + COMPRESSOR_BYTES.min(size)
    } else {
        size
    })
}

fn is_zstd_accepted(compressors: &[i32]) -> bool {
    compressors.contains(&compressor::Value::Zstd.into())
}

/// Reads a batch of blobs, whose size [`read_size`] has checked.
pub(super) async fn read(
    store: &dyn BlobStore,
    function: DigestFunction,
    names: Vec<reapi::Digest>,
    acceptable_compressors: &[i32],
) -> Result<Vec<batch_read_blobs_response::Response>, Status> {
    let parsed: Vec<_> = names
        .iter()
        .map(|name| Digest::from_wire(function, name))
        .collect();
    let digests: Vec<Digest> = parsed.iter().filter_map(|digest| digest.clone().ok()).collect();
    let mut blobs = store.read_batch(&digests).await.into_iter();
    let results: Vec<_> = names
        .into_iter()
        .zip(parsed)
        .map(|(name, digest)| {
            let blob = match digest {
                Ok(digest) => blobs.next().unwrap_or(Err(Error::NotFound(digest))),
                Err(error) => Err(Error::InvalidArgument(error.to_string())),
            };
            (name, blob)
        })
        .collect();
    let zstd = is_zstd_accepted(acceptable_compressors);
    Ok(if zstd {
        run_blocking(move || {
            results
                .into_iter()
                .map(|(name, blob)| encode(name, blob, true))
                .collect()
        })
        .await
    } else {
        results
            .into_iter()
            .map(|(name, blob)| encode(name, blob, false))
            .collect()
    })
}

fn encode(
    name: reapi::Digest,
    blob: Result<Bytes, Error>,
    zstd: bool,
) -> batch_read_blobs_response::Response {
    let (data, compressor, result) = match blob {
        Err(error) => (vec![], compressor::Value::Identity, Err(error)),
        Ok(blob) => match zstd.then(|| compress(&blob)).flatten() {
            Some(data) => (data, compressor::Value::Zstd, Ok(())),
            None => (blob.into(), compressor::Value::Identity, Ok(())),
        },
    };
    batch_read_blobs_response::Response {
        digest: Some(name),
        data,
        compressor: compressor.into(),
        status: Some(blob_status(result)),
    }
}

/// Compresses a blob. `None` if it does not get smaller.
fn compress(blob: &[u8]) -> Option<Vec<u8>> {
    if blob.len() < MIN_COMPRESSED_BLOB_BYTES {
        return None;
    }
    zstd::bulk::compress(blob, COMPRESSION_LEVEL)
        .ok()
        .filter(|data| data.len() < blob.len())
}

fn announced_size(digest: Option<&reapi::Digest>) -> u64 {
    digest.map_or(0, |digest| u64::try_from(digest.size_bytes).unwrap_or(0))
}

fn check_total(sizes: impl ExactSizeIterator<Item = u64>) -> Result<u64, Status> {
    let blobs = sizes.len();
    if blobs > MAX_BATCH_BLOBS {
        return Err(Status::invalid_argument(format!(
            "the batch names {blobs} blobs, more than the {MAX_BATCH_BLOBS} that are allowed; use smaller batches"
        )));
    }
    let total = sizes.fold(0_u64, u64::saturating_add);
    if total > MAX_BATCH_TOTAL_SIZE {
        return Err(Status::invalid_argument(format!(
            "the batch holds {total} bytes, more than the {MAX_BATCH_TOTAL_SIZE} that the capabilities allow; \
             use smaller batches, and ByteStream for larger blobs"
        )));
    }
    Ok(total)
}
