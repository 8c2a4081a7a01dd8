//! `ContentAddressableStorage`: blobs in batches, trees and chunks.

mod batches;
mod chunking;
mod splits;
mod tree;

use std::pin::Pin;
use std::sync::Arc;

use bitzel_access::{Permission, ResponseMemory, permitted};
use bitzel_cas::action_cache::ActionCache;
use bitzel_cas::blob_store::BlobStore;
use bitzel_cas::instance_blob_stores::InstanceBlobStores;
use bitzel_proto::limits::{MAX_BATCH_TOTAL_SIZE, MAX_MESSAGE_SIZE};
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
use bitzel_proto::{Digest, reapi};
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use self::chunking::ChunkedBlobs;
use self::splits::Splits;
use super::{DIGEST_MESSAGE_BYTES, RequestContext, holding};

pub use self::chunking::Chunking;

/// Digests in one message of a chunk mapping, of about 80 bytes each.
const MAX_DIGESTS_PER_MESSAGE: usize = 1 << 14;
/// Chunks of one spliced blob, of 48 bytes in memory each.
const MAX_CHUNKS: usize = 1 << 20;

/// The `ContentAddressableStorage` service.
#[derive(Clone)]
pub struct ContentAddressableStorageService {
    stores: InstanceBlobStores,
    chunking: Chunking,
    chunk_mappings: Option<Arc<dyn ActionCache>>,
    splits: Arc<Splits>,
}

impl ContentAddressableStorageService {
    /// Serves the blobs of each instance.
    pub fn new(stores: impl Into<InstanceBlobStores>) -> Self {
        Self {
            stores: stores.into(),
            chunking: Chunking::default(),
            chunk_mappings: None,
            splits: Arc::default(),
        }
    }

    /// Sets the chunking of blobs.
    #[must_use]
    pub fn with_chunking(mut self, chunking: Chunking) -> Self {
        self.chunking = chunking;
        self
    }

    /// Remembers the chunks of blobs in `mappings`, a [`bitzel_cas::CompletenessCheckingActionCache`] over the same
    /// stores.
    #[must_use]
    pub fn with_chunk_mappings(mut self, mappings: Arc<dyn ActionCache>) -> Self {
        self.chunk_mappings = Some(mappings);
        self
    }

    /// The service for a tonic router.
    pub fn into_server(self) -> ContentAddressableStorageServer<Self> {
        ContentAddressableStorageServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE)
    }

    fn store(&self, context: &RequestContext) -> Arc<dyn BlobStore> {
        self.stores.store(&context.instance)
    }

    /// The blobs of an instance as chunks.
    fn chunked(&self, context: &RequestContext) -> ChunkedBlobs {
        ChunkedBlobs {
            store: self.store(context),
            chunking: self.chunking,
            mappings: self.chunk_mappings.clone(),
            instance: self.stores.reserved(chunking::MAPPINGS, &context.instance),
        }
    }

    /// Returns the chunks of a blob. The blob is its only chunk where it cannot be split: readers do not add chunks to
    /// the store, and the server may have no time or memory for it.
    async fn split(&self, context: &RequestContext, blob: Digest) -> Result<Vec<Digest>, Status> {
        let blobs = self.chunked(context);
        if let Some(chunks) = blobs.known_chunks(blob).await? {
            return Ok(chunks);
        }
        let permitted = permitted(&context.extensions, &context.instance);
        if !permitted.contains(Permission::CasWrite) {
            return Ok(vec![blob]);
        }
        let memory = || ResponseMemory::try_for_message(&context.extensions, blobs.memory_of_split(blob));
        let key = (blobs.instance.clone(), blob);
        let cut = {
            let blobs = blobs.clone();
            async move { blobs.split(blob).await }
        };
        let chunks = self.splits.run(key, memory, cut).await?;
        Ok(chunks.unwrap_or_else(|| vec![blob]))
    }
}

type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ContentAddressableStorage for ContentAddressableStorageService {
    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let permissions = [Permission::CasRead, Permission::CasWrite];
        let (context, request) = RequestContext::authorize(request, &permissions)?;
        let digests: Vec<Digest> = request
            .blob_digests
            .iter()
            .map(|named| context.digest(Some(named), "blob digest"))
            .collect::<Result<_, _>>()?;
        let memory = memory_of_digests(&context, digests.len()).await?;
        let missing = self.store(&context).find_missing(&digests).await?;
        let response = FindMissingBlobsResponse {
            missing_blob_digests: missing.iter().map(Digest::to_wire).collect(),
        };
        Ok(holding(memory, response))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        let (context, request) = RequestContext::authorize(request, &[Permission::CasWrite])?;
        let names = (request.requests.len() as u64).saturating_mul(DIGEST_MESSAGE_BYTES);
        let bytes = names + batches::decompressed_size(&request.requests)?;
        let memory = ResponseMemory::for_message(&context.extensions, bytes).await?;
        let responses = batches::update(&*self.store(&context), context.function, request.requests).await?;
        Ok(holding(memory, BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        let (context, request) = RequestContext::authorize(request, &[Permission::CasRead])?;
        let compressors = &request.acceptable_compressors;
        let size = batches::read_size(&request.digests, compressors)?;
        let memory = ResponseMemory::for_message(&context.extensions, size).await?;
        let responses = batches::read(
            &*self.store(&context),
            context.function,
            request.digests,
            compressors,
        )
        .await?;
        Ok(holding(memory, BatchReadBlobsResponse { responses }))
    }

    type GetTreeStream = MessageStream<GetTreeResponse>;

    async fn get_tree(
        &self,
        request: Request<GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        let (context, request) = RequestContext::authorize(request, &[Permission::CasRead])?;
        let root = context.digest(request.root_digest.as_ref(), "root digest")?;
        let memory = ResponseMemory::for_message(&context.extensions, MAX_BATCH_TOTAL_SIZE).await?;
        let pages = tree::pages(
            self.store(&context),
            tree::WalkMemory::new(&context.extensions),
            root,
            request.page_size,
            &request.page_token,
        )
        .await?;
        let pages: Self::GetTreeStream = Box::pin(pages);
        Ok(holding(memory, pages))
    }

    async fn split_blob(
        &self,
        request: Request<SplitBlobRequest>,
    ) -> Result<Response<SplitBlobResponse>, Status> {
        let (context, request) = RequestContext::authorize(request, &[Permission::CasRead])?;
        let blob = context.digest(request.blob_digest.as_ref(), "blob digest")?;
        let chunks = self.split(&context, blob).await?;
        let memory = memory_of_digests(&context, chunks.len()).await?;
        let response = SplitBlobResponse {
            chunk_digests: chunks.iter().map(Digest::to_wire).collect(),
            chunking_function: ChunkingFunction::FastCdc2020.into(),
        };
        Ok(holding(memory, response))
    }

    type GetChunkMappingStream = MessageStream<GetChunkMappingResponse>;

    async fn get_chunk_mapping(
        &self,
        request: Request<GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        let (context, request) = RequestContext::authorize(request, &[Permission::CasRead])?;
        let blob = context.digest(request.blob_digest.as_ref(), "blob digest")?;
        let chunks = self.split(&context, blob).await?;
        let memory = memory_of_digests(&context, chunks.len()).await?;
        let mut pages: Vec<GetChunkMappingResponse> = chunks
            .chunks(MAX_DIGESTS_PER_MESSAGE)
            .map(|page| GetChunkMappingResponse {
                chunk_digests: page.iter().map(Digest::to_wire).collect(),
                chunking_function: 0,
            })
            .collect();
        if pages.is_empty() {
            pages.push(GetChunkMappingResponse::default());
        }
        pages[0].chunking_function = ChunkingFunction::FastCdc2020.into();
        let pages: Self::GetChunkMappingStream = Box::pin(futures::stream::iter(pages.into_iter().map(Ok)));
        Ok(holding(memory, pages))
    }

    async fn splice_blob(
        &self,
        request: Request<SpliceBlobRequest>,
    ) -> Result<Response<SpliceBlobResponse>, Status> {
        let (context, request) = RequestContext::authorize(request, &[Permission::CasWrite])?;
        let blob = context.digest(request.blob_digest.as_ref(), "blob digest")?;
        let mut chunks = Vec::new();
        add_chunks(&mut chunks, &context, &request.chunk_digests)?;
        self.chunked(&context)
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
        let context = RequestContext::authorize_message(&extensions, &first, &[Permission::CasWrite])?;
        let blob = context.digest(first.blob_digest.as_ref(), "blob digest")?;
        let mut chunks = Vec::new();
        add_chunks(&mut chunks, &context, &first.chunk_digests)?;
        while let Some(next) = requests.message().await? {
            add_chunks(&mut chunks, &context, &next.chunk_digests)?;
        }
        self.chunked(&context)
            .splice(blob, chunks, first.chunking_function)
            .await?;
        Ok(Response::new(RegisterChunkMappingResponse {
            blob_digest: Some(blob.to_wire()),
        }))
    }
}

/// Memory for a response with a number of digests.
async fn memory_of_digests(context: &RequestContext, digests: usize) -> Result<ResponseMemory, Status> {
    let bytes = (digests as u64).saturating_mul(DIGEST_MESSAGE_BYTES);
    ResponseMemory::for_message(&context.extensions, bytes).await
}

fn add_chunks(
    chunks: &mut Vec<Digest>,
    context: &RequestContext,
    named: &[reapi::Digest],
) -> Result<(), Status> {
    if chunks.len() + named.len() > MAX_CHUNKS {
        return Err(Status::invalid_argument(format!(
            "the blob has more than {MAX_CHUNKS} chunks; use larger ones"
        )));
    }
    for named in named {
        chunks.push(context.digest(Some(named), "chunk digest")?);
    }
    Ok(())
}
