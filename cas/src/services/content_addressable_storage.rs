//! Blobs in batches, and trees.

mod batches;
mod tree;

use std::pin::Pin;
use std::sync::Arc;

use bitzel_proto::reapi::content_addressable_storage_server::{
    ContentAddressableStorage, ContentAddressableStorageServer,
};
use bitzel_proto::reapi::{
    BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest, BatchUpdateBlobsResponse,
    FindMissingBlobsRequest, FindMissingBlobsResponse, GetChunkMappingRequest, GetChunkMappingResponse,
    GetTreeRequest, GetTreeResponse, RegisterChunkMappingRequest, RegisterChunkMappingResponse,
    SpliceBlobRequest, SpliceBlobResponse, SplitBlobRequest, SplitBlobResponse,
};
use bitzel_proto::{Digest, DigestFunction};
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{MAX_MESSAGE_SIZE, digest, digest_function, instance_name};
use crate::blob_store::BlobStore;

/// The `ContentAddressableStorage` service.
#[derive(Clone)]
pub struct ContentAddressableStorageService {
    store: Arc<dyn BlobStore>,
}

impl ContentAddressableStorageService {
    /// Serves `store`.
    pub fn new(store: Arc<dyn BlobStore>) -> Self {
        Self { store }
    }

    /// The service for a tonic router.
    pub fn into_server(self) -> ContentAddressableStorageServer<Self> {
        ContentAddressableStorageServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE)
    }
}

type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ContentAddressableStorage for ContentAddressableStorageService {
    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let request = request.into_inner();
        instance_name(request.instance_name)?;
        let function = digest_function(request.digest_function)?;
        let digests: Vec<Digest> = request
            .blob_digests
            .iter()
            .map(|named| digest(function, Some(named), "blob digest"))
            .collect::<Result<_, _>>()?;
        let missing = self.store.find_missing(&digests).await?;
        Ok(Response::new(FindMissingBlobsResponse {
            missing_blob_digests: missing.iter().map(Digest::to_wire).collect(),
        }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        let request = request.into_inner();
        instance_name(request.instance_name)?;
        let function = digest_function(request.digest_function)?;
        let responses = batches::update(&*self.store, function, request.requests).await?;
        Ok(Response::new(BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        let request = request.into_inner();
        instance_name(request.instance_name)?;
        let function = digest_function(request.digest_function)?;
        let compressors = &request.acceptable_compressors;
        let responses = batches::read(&*self.store, function, request.digests, compressors).await?;
        Ok(Response::new(BatchReadBlobsResponse { responses }))
    }

    type GetTreeStream = MessageStream<GetTreeResponse>;

    async fn get_tree(
        &self,
        request: Request<GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        let request = request.into_inner();
        instance_name(request.instance_name)?;
        let function: DigestFunction = digest_function(request.digest_function)?;
        let root = digest(function, request.root_digest.as_ref(), "root digest")?;
        let store = Arc::clone(&self.store);
        let pages = tree::pages(store, root, request.page_size, &request.page_token).await?;
        Ok(Response::new(Box::pin(pages)))
    }

    async fn split_blob(&self, _: Request<SplitBlobRequest>) -> Result<Response<SplitBlobResponse>, Status> {
        Err(unsupported())
    }

    type GetChunkMappingStream = MessageStream<GetChunkMappingResponse>;

    async fn get_chunk_mapping(
        &self,
        _: Request<GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        Err(unsupported())
    }

    async fn splice_blob(
        &self,
        _: Request<SpliceBlobRequest>,
    ) -> Result<Response<SpliceBlobResponse>, Status> {
        Err(unsupported())
    }

    async fn register_chunk_mapping(
        &self,
        _: Request<Streaming<RegisterChunkMappingRequest>>,
    ) -> Result<Response<RegisterChunkMappingResponse>, Status> {
        Err(unsupported())
    }
}

/// The capabilities say so, too.
fn unsupported() -> Status {
    Status::unimplemented("this server does not split blobs into chunks")
}
