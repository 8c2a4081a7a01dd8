//! Blobs in batches, and trees.

mod batches;
mod chunking;
mod tree;

use std::pin::Pin;
use std::sync::Arc;

use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::reapi::chunking_function::Value as ChunkingFunction;
use bitzel_proto::reapi::content_addressable_storage_server::{
    ContentAddressableStorage, ContentAddressableStorageServer,
};
use bitzel_proto::reapi::{
    BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest, BatchUpdateBlobsResponse,
    FindMissingBlobsRequest, FindMissingBlobsResponse, GetChunkMappingRequest, GetChunkMappingResponse,
    GetTreeRequest, GetTreeResponse, RegisterChunkMappingRequest, RegisterChunkMappingResponse,
    SpliceBlobRequest, SpliceBlobResponse, SplitBlobRequest, SplitBlobResponse,
};
use bitzel_proto::{Digest, DigestFunction, reapi};
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use self::chunking::ChunkedBlobs;
use super::{digest, digest_function, instance_name};
use bitzel_access::{Permission, authorize, authorize_any};
use bitzel_cas::action_cache::ActionCache;
use bitzel_cas::blob_store::BlobStore;

pub use self::chunking::Chunking;

/// Digests in one message of a chunk mapping: about 80 bytes each.
const MAPPING_PAGE: usize = 1 << 14;
/// Chunks that one blob may be put together from: 48 bytes of memory each.
const MAX_CHUNKS: usize = 1 << 20;

/// The `ContentAddressableStorage` service.
#[derive(Clone)]
pub struct ContentAddressableStorageService {
    store: Arc<dyn BlobStore>,
    chunked: ChunkedBlobs,
}

impl ContentAddressableStorageService {
    /// Serves `store`.
    pub fn new(store: Arc<dyn BlobStore>) -> Self {
        let chunked = ChunkedBlobs {
            store: Arc::clone(&store),
            chunking: Chunking::default(),
            mappings: None,
        };
        Self { store, chunked }
    }

    /// Cuts blobs in another way than the default one.
    #[must_use]
    pub fn with_chunking(mut self, chunking: Chunking) -> Self {
        self.chunked.chunking = chunking;
        self
    }

    /// Remembers in `mappings` what blobs were cut into. It must be a
    /// [`bitzel_cas::CompletenessCheckingActionCache`] over the same store.
    #[must_use]
    pub fn with_chunk_mappings(mut self, mappings: Arc<dyn ActionCache>) -> Self {
        self.chunked.mappings = Some(mappings);
        self
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
        let (_, extensions, request) = request.into_parts();
        authorize_any(
            &extensions,
            &[Permission::CasRead, Permission::CasWrite],
            &instance_name(request.instance_name)?,
        )?;
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
        let (_, extensions, request) = request.into_parts();
        authorize(
            &extensions,
            Permission::CasWrite,
            &instance_name(request.instance_name)?,
        )?;
        let function = digest_function(request.digest_function)?;
        let responses = batches::update(&*self.store, function, request.requests).await?;
        Ok(Response::new(BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        authorize(
            &extensions,
            Permission::CasRead,
            &instance_name(request.instance_name)?,
        )?;
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
        let (_, extensions, request) = request.into_parts();
        authorize(
            &extensions,
            Permission::CasRead,
            &instance_name(request.instance_name)?,
        )?;
        let function: DigestFunction = digest_function(request.digest_function)?;
        let root = digest(function, request.root_digest.as_ref(), "root digest")?;
        let store = Arc::clone(&self.store);
        let pages = tree::pages(store, root, request.page_size, &request.page_token).await?;
        Ok(Response::new(Box::pin(pages)))
    }

    async fn split_blob(
        &self,
        request: Request<SplitBlobRequest>,
    ) -> Result<Response<SplitBlobResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        authorize(
            &extensions,
            Permission::CasRead,
            &instance_name(request.instance_name)?,
        )?;
        let function = digest_function(request.digest_function)?;
        let blob = digest(function, request.blob_digest.as_ref(), "blob digest")?;
        let chunks = self.chunked.split(blob).await?;
        Ok(Response::new(SplitBlobResponse {
            chunk_digests: chunks.iter().map(Digest::to_wire).collect(),
            chunking_function: ChunkingFunction::FastCdc2020.into(),
        }))
    }

    type GetChunkMappingStream = MessageStream<GetChunkMappingResponse>;

    async fn get_chunk_mapping(
        &self,
        request: Request<GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        authorize(
            &extensions,
            Permission::CasRead,
            &instance_name(request.instance_name)?,
        )?;
        let function = digest_function(request.digest_function)?;
        let blob = digest(function, request.blob_digest.as_ref(), "blob digest")?;
        let chunks = self.chunked.split(blob).await?;
        let mut pages: Vec<GetChunkMappingResponse> = chunks
            .chunks(MAPPING_PAGE)
            .map(|page| GetChunkMappingResponse {
                chunk_digests: page.iter().map(Digest::to_wire).collect(),
                chunking_function: 0,
            })
            .collect();
        if pages.is_empty() {
            pages.push(GetChunkMappingResponse::default());
        }
        pages[0].chunking_function = ChunkingFunction::FastCdc2020.into();
        let pages = futures::stream::iter(pages.into_iter().map(Ok));
        Ok(Response::new(Box::pin(pages)))
    }

    async fn splice_blob(
        &self,
        request: Request<SpliceBlobRequest>,
    ) -> Result<Response<SpliceBlobResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        authorize(
            &extensions,
            Permission::CasWrite,
            &instance_name(request.instance_name)?,
        )?;
        let function = digest_function(request.digest_function)?;
        let blob = digest(function, request.blob_digest.as_ref(), "blob digest")?;
        let mut chunks = Vec::new();
        add_chunks(&mut chunks, function, &request.chunk_digests)?;
        self.chunked
            .splice(blob, chunks, request.chunking_function)
            .await?;
        Ok(Response::new(SpliceBlobResponse {
            blob_digest: Some(blob.to_wire()),
        }))
    }

    async fn register_chunk_mapping(
        &self,
        request: Request<Streaming<RegisterChunkMappingRequest>>,
    ) -> Result<Response<RegisterChunkMappingResponse>, Status> {
        let (_, extensions, mut requests) = request.into_parts();
        let first = requests
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("the chunk mapping has no request"))?;
        authorize(
            &extensions,
            Permission::CasWrite,
            &instance_name(first.instance_name)?,
        )?;
        let function = digest_function(first.digest_function)?;
        let blob = digest(function, first.blob_digest.as_ref(), "blob digest")?;
        let mut chunks = Vec::new();
        add_chunks(&mut chunks, function, &first.chunk_digests)?;
        while let Some(next) = requests.message().await? {
            add_chunks(&mut chunks, function, &next.chunk_digests)?;
        }
        self.chunked.splice(blob, chunks, first.chunking_function).await?;
        Ok(Response::new(RegisterChunkMappingResponse {
            blob_digest: Some(blob.to_wire()),
        }))
    }
}

fn add_chunks(
    chunks: &mut Vec<Digest>,
    function: DigestFunction,
    named: &[reapi::Digest],
) -> Result<(), Status> {
    if chunks.len() + named.len() > MAX_CHUNKS {
        return Err(Status::invalid_argument(format!(
            "the blob has more than {MAX_CHUNKS} chunks; use larger ones"
        )));
    }
    for named in named {
        chunks.push(digest(function, Some(named), "chunk digest")?);
    }
    Ok(())
}
