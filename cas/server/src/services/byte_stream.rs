//! `ByteStream`: single blobs of any size.

mod uploads;

use std::pin::Pin;
use std::sync::Arc;

use bitzel_access::{MessageMemory, Permission, ResponseMemory, authorize};
use bitzel_cas::blob_store::chunk_limit::{open_within, stream_within};
use bitzel_cas::blob_store::{BlobRange, BlobStream};
use bitzel_cas::compression::{DecompressionMemory as _, DecompressionStep, Decompressor, compressed};
use bitzel_cas::error::Error;
use bitzel_cas::instance_blob_stores::InstanceBlobStores;
use bitzel_proto::google::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use bitzel_proto::google::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::{Compressor, InvalidResourceName, ResourceName};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http::Extensions;
use tonic::{Request, Response, Status, Streaming};

use self::uploads::{Progress, Upload, Uploads};
use super::{MAX_STREAM_MESSAGE_BYTES, holding};
use crate::upload_memory::UploadMemory;
use crate::upload_shares::UploadShares;

/// The `committed_size` of a compressed write that ended early because the store has the blob: the number of compressed
/// bytes that the client would have sent is not known.
const COMMITTED_SIZE_OF_SKIPPED_COMPRESSED_WRITE: i64 = -1;

/// The `ByteStream` service.
///
/// A write survives the loss of its connection: the data that arrived is kept for some minutes, and the client continues
/// from there under the same resource name.
#[derive(Clone)]
pub struct ByteStreamService {
    stores: InstanceBlobStores,
    uploads: Arc<Uploads>,
    shares: Arc<UploadShares>,
}

impl ByteStreamService {
    /// Serves the blobs of each instance.
    pub fn new(stores: impl Into<InstanceBlobStores>) -> Self {
        let stores = stores.into();
        let uploads = Arc::new(Uploads::new(stores.coalescing()));
        Self {
            stores,
            uploads,
            shares: UploadShares::unlimited(),
        }
    }

    /// Limits the uploads of each identity.
    #[must_use]
    pub fn with_shares(mut self, shares: Arc<UploadShares>) -> Self {
        self.shares = shares;
        self
    }

    /// The service for a tonic router.
    pub fn into_server(self) -> ByteStreamServer<Self> {
        ByteStreamServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE)
    }

    async fn is_present(&self, resource: &ResourceName) -> Result<bool, Status> {
        let store = self.stores.store(&resource.instance);
        Ok(store.find_missing(&[resource.digest]).await?.is_empty())
    }
}

#[tonic::async_trait]
impl ByteStream for ByteStreamService {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadResponse, Status>> + Send>>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        let resource = ResourceName::parse_read(&request.resource_name);
        let resource = authorize_resource(resource, &extensions, Permission::CasRead)?;
        let offset = u64::try_from(request.read_offset)
            .map_err(|_| Status::out_of_range(format!("read offset {} is negative", request.read_offset)))?;
        let limit = u64::try_from(request.read_limit).map_err(|_| {
            Status::invalid_argument(format!("read limit {} is negative", request.read_limit))
        })?;
        if resource.compressor != Compressor::Identity && limit != 0 {
            return Err(Status::invalid_argument(
                "a compressed read takes no read limit: it would cut the compressed data",
            ));
        }
        let range = BlobRange {
            offset,
            limit: (limit != 0).then_some(limit),
        };
        let is_compressed = resource.compressor != Compressor::Identity;
        let size = resource.digest.size_bytes();
        let memory = ResponseMemory::for_download(&extensions, size, is_compressed).await?;
        let store = self.stores.store(&resource.instance);
        let blob = open_within(memory.chunk_limit(), store.read(resource.digest, range)).await?;
        let blob = stream_within(
            {
                let memory = memory.clone();
                move || memory.chunk_limit()
            },
            blob,
        );
        let chunks = match resource.compressor {
            Compressor::Identity => blob,
            Compressor::Zstd => compressed(blob)?,
        };
        let responses = message_sized_chunks(chunks).map_ok(|chunk| ReadResponse { data: chunk.into() });
        let responses: Self::ReadStream = responses.map_err(Status::from).boxed();
        Ok(holding(memory, responses))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let (_, extensions, mut requests) = request.into_parts();
        let first = requests
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("the write has no request"))?;
        let resource = ResourceName::parse_write(&first.resource_name);
        let resource = authorize_resource(resource, &extensions, Permission::CasWrite)?;
        let committed_size = if self.is_present(&resource).await? {
            size_of_skipped_write(&resource)
        } else {
            self.receive(&resource, &extensions, first, requests).await?
        };
        Ok(Response::new(WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let name = request.resource_name;
        let resource = ResourceName::parse_write(&name);
        let resource = authorize_resource(resource, &extensions, Permission::CasWrite)?;
        let complete = self.is_present(&resource).await?;
        let committed = if complete {
            resource.digest.size_bytes()
        } else {
            self.uploads.committed(&name).ok_or_else(|| {
                Status::not_found(format!("no write of {name} is under way; start at offset 0"))
            })?
        };
        Ok(Response::new(QueryWriteStatusResponse {
            committed_size: size_on_wire(committed),
            complete,
        }))
    }
}

impl ByteStreamService {
    /// Receives the requests of one write and returns the committed size.
    async fn receive(
        &self,
        resource: &ResourceName,
        extensions: &Extensions,
        first: WriteRequest,
        mut requests: Streaming<WriteRequest>,
    ) -> Result<i64, Status> {
        let name = first.resource_name.clone();
        let start = u64::try_from(first.write_offset).map_err(|_| {
            Status::invalid_argument(format!("write offset {} is negative", first.write_offset))
        })?;
        let mut upload = self
            .uploads
            .open(&name, resource, start, self.shares.begin(extensions))?;
        let mut decompression = match resource.compressor {
            Compressor::Identity => None,
            Compressor::Zstd => Some(Decompression {
                decompressor: Decompressor::new(resource.digest),
                memory: UploadMemory::new(extensions, resource.digest.size_bytes()),
            }),
        };
        // In bytes as they are transferred, which may be compressed.
        let mut expected_offset = start;
        let mut request = Some(first);
        while let Some(WriteRequest {
            resource_name,
            write_offset,
            finish_write,
            data,
        }) = request
        {
            if !resource_name.is_empty() && resource_name != name {
                return Err(Status::invalid_argument(format!(
                    "the write of {name} goes on under another resource name"
                )));
            }
            if u64::try_from(write_offset) != Ok(expected_offset) {
                return Err(Status::invalid_argument(format!(
                    "write offset {write_offset} is not {expected_offset}, which comes next"
                )));
            }
            expected_offset += data.len() as u64;
            let progress = match &mut decompression {
                None => upload.push(data.into(), MessageMemory::take(extensions)).await,
                Some(decompression) => decompression.push(&mut upload, &data).await,
            };
            match progress {
                Ok(Progress::Continue) => {}
                Ok(Progress::BlobExists) => return Ok(size_of_skipped_write(resource)),
                Err(error) => {
                    // Wrong data is not resumed. A parked write would hold up the next writer of the blob.
                    upload.forget();
                    return Err(error.into());
                }
            }
            if finish_write {
                upload.finish().await?;
                return Ok(size_on_wire(expected_offset));
            }
            request = requests.message().await?;
        }
        // The client closed its stream without `finish_write`.
        if upload.committed() == resource.digest.size_bytes() {
            upload.finish().await?;
        }
        Ok(size_on_wire(expected_offset))
    }
}

/// Decompression of one write.
struct Decompression {
    decompressor: Decompressor,
    memory: UploadMemory,
}

impl Decompression {
    /// Decompresses data and passes it on to the upload.
    async fn push(&mut self, upload: &mut Upload, mut data: &[u8]) -> Result<Progress, Error> {
        // In pieces, because a small chunk may decompress to more than fits in memory.
        loop {
            match self.decompressor.step(&mut data)? {
                DecompressionStep::Piece(piece) => {
                    if let Progress::BlobExists = upload.push(piece, None).await? {
                        return Ok(Progress::BlobExists);
                    }
                }
                DecompressionStep::NeedsMemory(bytes) => {
                    self.memory.reserve(bytes).await?;
                    self.decompressor.grant(bytes);
                }
                DecompressionStep::NeedsData => return Ok(Progress::Continue),
            }
        }
    }
}

/// The `committed_size` of a write whose blob exists already.
fn size_of_skipped_write(resource: &ResourceName) -> i64 {
    match resource.compressor {
        Compressor::Identity => size_on_wire(resource.digest.size_bytes()),
        Compressor::Zstd => COMMITTED_SIZE_OF_SKIPPED_COMPRESSED_WRITE,
    }
}

fn size_on_wire(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Checks a parsed resource name and the permission on its instance.
fn authorize_resource(
    parsed: Result<ResourceName, InvalidResourceName>,
    extensions: &Extensions,
    permission: Permission,
) -> Result<ResourceName, Status> {
    let resource = parsed.map_err(|error| Status::invalid_argument(error.to_string()))?;
    authorize(extensions, permission, &resource.instance)?;
    Ok(resource)
}

/// Cuts chunks to the size of a message. Only stores in memory have larger ones.
fn message_sized_chunks(blob: BlobStream) -> BlobStream {
    blob.flat_map(|chunk| {
        let pieces: Vec<Result<Bytes, _>> = match chunk {
            Ok(mut chunk) => {
                let mut pieces = Vec::new();
                while !chunk.is_empty() {
                    pieces.push(Ok(chunk.split_to(chunk.len().min(MAX_STREAM_MESSAGE_BYTES))));
                }
                pieces
            }
            Err(error) => vec![Err(error)],
        };
        futures::stream::iter(pieces)
    })
    .boxed()
}
