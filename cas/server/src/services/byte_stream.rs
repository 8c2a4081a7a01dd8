//! Single blobs of any size.

mod uploads;

use std::pin::Pin;
use std::sync::Arc;

use bitzel_proto::google::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use bitzel_proto::google::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::{Compressor, Digest, InvalidResourceName, ResourceName};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::{Request, Response, Status, Streaming};

use self::uploads::{Progress, Upload, Uploads};
use super::STREAM_CHUNK;
use bitzel_access::{Permission, authorize};
use bitzel_cas::blob_store::{BlobRange, BlobStore, BlobStream};
use bitzel_cas::compression::{Decompressor, compressed};
use bitzel_cas::decorators::coalescing_blob_store::CoalescingBlobStore;

/// The `committed_size` of a compressed write that ended early because the blob is there already: how many
/// compressed bytes the client would have sent is not known.
const ALREADY_THERE_COMPRESSED: i64 = -1;

/// The `ByteStream` service.
///
/// A write survives the loss of its connection: what arrived stays with the store's own write for some minutes, and
/// the client goes on from there under the same resource name.
#[derive(Clone)]
pub struct ByteStreamService {
    store: Arc<dyn BlobStore>,
    uploads: Arc<Uploads>,
}

impl ByteStreamService {
    /// Serves `store`.
    pub fn new(store: Arc<dyn BlobStore>) -> Self {
        let shared = Arc::new(CoalescingBlobStore::new(Arc::clone(&store)));
        let uploads = Arc::new(Uploads::new(shared));
        Self { store, uploads }
    }

    /// The service for a tonic router.
    pub fn into_server(self) -> ByteStreamServer<Self> {
        ByteStreamServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE)
    }

    async fn is_present(&self, digest: Digest) -> Result<bool, Status> {
        Ok(self.store.find_missing(&[digest]).await?.is_empty())
    }
}

#[tonic::async_trait]
impl ByteStream for ByteStreamService {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadResponse, Status>> + Send>>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        let resource =
            ResourceName::parse_read(&request.resource_name).map_err(|error| invalid_name(&error))?;
        authorize(&extensions, Permission::CasRead, &resource.instance)?;
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
        let blob = self.store.read(resource.digest, range).await?;
        let chunks = match resource.compressor {
            Compressor::Identity => blob,
            Compressor::Zstd => compressed(blob)?,
        };
        let responses = small_chunks(chunks).map_ok(|chunk| ReadResponse { data: chunk.into() });
        Ok(Response::new(responses.map_err(Status::from).boxed()))
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
        let resource =
            ResourceName::parse_write(&first.resource_name).map_err(|error| invalid_name(&error))?;
        authorize(&extensions, Permission::CasWrite, &resource.instance)?;
        let committed_size = if self.is_present(resource.digest).await? {
            already_there(&resource)
        } else {
            self.receive(&resource, first, requests).await?
        };
        Ok(Response::new(WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let name = request.resource_name;
        let resource = ResourceName::parse_write(&name).map_err(|error| invalid_name(&error))?;
        authorize(&extensions, Permission::CasWrite, &resource.instance)?;
        let complete = self.is_present(resource.digest).await?;
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
    /// Takes the requests of one write, yields the committed size.
    async fn receive(
        &self,
        resource: &ResourceName,
        first: WriteRequest,
        mut requests: Streaming<WriteRequest>,
    ) -> Result<i64, Status> {
        let name = first.resource_name.clone();
        let start = u64::try_from(first.write_offset).map_err(|_| {
            Status::invalid_argument(format!("write offset {} is negative", first.write_offset))
        })?;
        let mut upload = self.uploads.open(&name, resource.digest, start)?;
        let mut decompressor = match resource.compressor {
            Compressor::Identity => None,
            Compressor::Zstd => Some(Decompressor::new(resource.digest)?),
        };
        // In bytes as they are transferred, counted from where this call began.
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
            let progress = match &mut decompressor {
                None => upload.push(data.into()).await,
                Some(decompressor) => push_decompressed(&mut upload, decompressor, &data).await,
            };
            match progress {
                Ok(Progress::More) => {}
                Ok(Progress::AlreadyThere) => return Ok(already_there(resource)),
                Err(error) => return Err(error.into()),
            }
            if finish_write {
                upload.finish().await?;
                return Ok(size_on_wire(expected_offset));
            }
            request = requests.message().await?;
        }
        // The client closed without saying that it is done.
        if upload.committed() == resource.digest.size_bytes() {
            upload.finish().await?;
        }
        Ok(size_on_wire(expected_offset))
    }
}

async fn push_decompressed(
    upload: &mut Upload,
    decompressor: &mut Decompressor,
    mut data: &[u8],
) -> Result<Progress, bitzel_cas::error::Error> {
    // Piece by piece, because a small chunk may hold far more than fits in memory.
    while let Some(piece) = decompressor.next_piece(&mut data)? {
        if let Progress::AlreadyThere = upload.push(piece).await? {
            return Ok(Progress::AlreadyThere);
        }
    }
    Ok(Progress::More)
}

fn already_there(resource: &ResourceName) -> i64 {
    match resource.compressor {
        Compressor::Identity => size_on_wire(resource.digest.size_bytes()),
        Compressor::Zstd => ALREADY_THERE_COMPRESSED,
    }
}

fn size_on_wire(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn invalid_name(error: &InvalidResourceName) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Cuts chunks to what goes into one message. Only stores in memory have larger ones.
fn small_chunks(blob: BlobStream) -> BlobStream {
    blob.flat_map(|chunk| {
        let pieces: Vec<Result<Bytes, _>> = match chunk {
            Ok(mut chunk) => {
                let mut pieces = Vec::new();
                while !chunk.is_empty() {
                    pieces.push(Ok(chunk.split_to(chunk.len().min(STREAM_CHUNK))));
                }
                pieces
            }
            Err(error) => vec![Err(error)],
        };
        futures::stream::iter(pieces)
    })
    .boxed()
}
