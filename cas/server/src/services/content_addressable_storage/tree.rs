//! `GetTree`: the Directories of a tree, each once, breadth first.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bitzel_access::ResponseMemory;
use bitzel_cas::blob_store::BlobStore;
use bitzel_cas::directory_tree::{MAX_DIRECTORIES, batch_length};
use bitzel_cas::error::Error;
use bitzel_proto::limits::MAX_BATCH_TOTAL_SIZE;
use bitzel_proto::message_memory::{decode_message, decoded_memory};
use bitzel_proto::reapi::{Directory, GetTreeResponse};
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::Stream;
use http::Extensions;
use tonic::Status;

/// Directories in one page, unless the client asks for fewer.
const MAX_DIRECTORIES_PER_PAGE: usize = 1024;
/// Memory of a digest in the set of those seen, and in the queue of those to read. Both grow by doubling.
const SEEN_DIRECTORY_BYTES: u64 = 3 * size_of::<Digest>() as u64;
/// Directories whose memory is reserved together. The first ones are not reserved: their memory is that of a page.
const DIRECTORIES_PER_RESERVATION: usize = 1 << 14;
/// Memory that the Directories of one read may take once they are decoded. Those with files take six times their bytes,
/// those with short symlinks twenty times, those with empty entries 150 times.
const MAX_DECODED_BYTES: u64 = 128 << 20;
/// Limit of what is reserved for them. More, with the memory of the page, might never be to be had on one connection.
const MAX_RESERVED_DECODED_BYTES: u64 = 16 << 20;
/// Directories in one read from the store.
const MAX_DIRECTORIES_PER_READ: usize = 256;

/// Pages of the tree of `root`, beginning at `token`. Every page holds at most `page_size` Directories and the token of
/// the next page; the last one has no token. Subtrees that are not in the store are left out (`remote_execution.proto`);
/// a missing root is `NOT_FOUND`.
pub(super) async fn pages(
    store: Arc<dyn BlobStore>,
    memory: WalkMemory,
    root: Digest,
    page_size: i32,
    token: &str,
) -> Result<impl Stream<Item = Result<GetTreeResponse, Status>> + Send + use<>, Status> {
    let page_size = match usize::try_from(page_size) {
        Ok(0) => MAX_DIRECTORIES_PER_PAGE,
        Ok(size) => size.min(MAX_DIRECTORIES_PER_PAGE),
        Err(_) => {
            return Err(Status::invalid_argument(format!(
                "page size {page_size} is negative"
            )));
        }
    };
    let skip = parse_token(token)?;
    let mut walk = Walk {
        store,
        root,
        unread: VecDeque::from([root]),
        seen: HashSet::from([root]),
        memory,
        ready: VecDeque::new(),
        taken: 0,
    };
    // A missing root is an error before the first page.
    walk.fill().await?;
    while walk.taken < skip && walk.next().await?.is_some() {}
    walk.fill().await?;
    // A token for the end is wrong too: the last page has none.
    if skip > 0 && walk.ready.is_empty() {
        return Err(Status::invalid_argument(format!(
            "page token {token:?} is beyond the end of the tree"
        )));
    }
    Ok(futures::stream::try_unfold(Some(walk), move |walk| async move {
        let Some(mut walk) = walk else { return Ok(None) };
        let page = walk.page(page_size).await?;
        let more = !page.next_page_token.is_empty();
        Ok(Some((page, more.then_some(walk))))
    }))
}

/// Parses a page token: the number of Directories in the pages before. The order of a tree never changes, so a token is
/// valid on every server that has the same blobs.
fn parse_token(token: &str) -> Result<usize, Status> {
    if token.is_empty() {
        return Ok(0);
    }
    token
        .parse()
        .map_err(|_| Status::invalid_argument(format!("page token {token:?} was not made by this server")))
}

/// Memory of a walk: of the digests that it has seen, whose number grows, and of the Directories that it has read.
pub(super) struct WalkMemory {
    request: Extensions,
    seen: Vec<ResponseMemory>,
    /// Memory of the Directories of the last read, beyond that of a page.
    decoded: Option<ResponseMemory>,
}

impl WalkMemory {
    pub(super) fn new(request: &Extensions) -> Self {
        Self {
            request: request.clone(),
            seen: Vec::new(),
            decoded: None,
        }
    }

    /// Reserves memory for the Directories of a read, before they are decoded.
    async fn reserve_decoded(
        &mut self,
        root: Digest,
        directories: &[Result<Bytes, Error>],
    ) -> Result<(), Status> {
        let directories = directories.iter().flatten();
        let bytes = directories
            .map(|directory| decoded_memory::<Directory>(directory))
            .sum::<u64>();
        if bytes > MAX_DECODED_BYTES {
            return Err(Status::invalid_argument(format!(
                "directories of the tree of {root} take {} MiB in memory, because their entries are almost empty",
                bytes >> 20
            )));
        }
        self.decoded = None;
        if bytes > MAX_BATCH_TOTAL_SIZE {
            let bytes = bytes.min(MAX_RESERVED_DECODED_BYTES);
            self.decoded = Some(ResponseMemory::for_message(&self.request, bytes).await?);
        }
        Ok(())
    }

    /// Reserves memory for `directories` digests in all.
    async fn reserve_seen(&mut self, directories: usize) -> Result<(), Status> {
        while self.seen.len() < directories / DIRECTORIES_PER_RESERVATION {
            let bytes = DIRECTORIES_PER_RESERVATION as u64 * SEEN_DIRECTORY_BYTES;
            let reserved = ResponseMemory::for_message(&self.request, bytes).await?;
            self.seen.push(reserved);
        }
        Ok(())
    }
}

/// Breadth-first walk of a tree.
struct Walk {
    store: Arc<dyn BlobStore>,
    root: Digest,
    /// Directories that are not read yet, in order.
    unread: VecDeque<Digest>,
    seen: HashSet<Digest>,
    memory: WalkMemory,
    /// Directories that are read, in order, with their encoded sizes.
    ready: VecDeque<(Directory, u64)>,
    /// Number of Directories that were returned.
    taken: usize,
}

impl Walk {
    /// Reads until a Directory is ready or the tree ends.
    async fn fill(&mut self) -> Result<(), Status> {
        while self.ready.is_empty() && !self.unread.is_empty() {
            let count = batch_length(&self.unread, MAX_DIRECTORIES_PER_READ);
            let digests: Vec<Digest> = self.unread.drain(..count).collect();
            if let Some(large) = digests
                .iter()
                .find(|digest| digest.size_bytes() > MAX_BATCH_TOTAL_SIZE)
            {
                return Err(Status::invalid_argument(format!(
                    "directory {large} is larger than a message may be"
                )));
            }
            let blobs = self.store.read_batch(&digests).await;
            self.memory.reserve_decoded(self.root, &blobs).await?;
            for (digest, blob) in digests.into_iter().zip(blobs) {
                match blob {
                    Ok(blob) => {
                        self.add(digest, &blob)?;
                        self.memory.reserve_seen(self.seen.len()).await?;
                    }
                    Err(Error::NotFound(_)) if digest != self.root => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, digest: Digest, blob: &[u8]) -> Result<(), Status> {
        let directory = decode_message::<Directory>(blob).map_err(|source| Error::Decode {
            context: format!("blob {digest} is not a Directory"),
            source,
        })?;
        let function: DigestFunction = digest.function();
        for child in &directory.directories {
            let child = Digest::from_wire_field(function, child.digest.as_ref()).map_err(|error| {
                Status::invalid_argument(format!("directory {digest}, child {:?}: {error}", child.name))
            })?;
            if self.seen.len() >= MAX_DIRECTORIES {
                return Err(Status::invalid_argument(format!(
                    "the tree of {} has more than {MAX_DIRECTORIES} directories",
                    self.root
                )));
            }
            if self.seen.insert(child) {
                self.unread.push_back(child);
            }
        }
        self.ready.push_back((directory, digest.size_bytes()));
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Directory>, Status> {
        self.fill().await?;
        Ok(self.ready.pop_front().map(|(directory, _)| {
            self.taken += 1;
            directory
        }))
    }

    async fn page(&mut self, page_size: usize) -> Result<GetTreeResponse, Status> {
        let mut directories = Vec::new();
        let mut total = 0;
        loop {
            self.fill().await?;
            let Some((_, size)) = self.ready.front() else {
                break;
            };
            let full = directories.len() >= page_size || total + size > MAX_BATCH_TOTAL_SIZE;
            if full && !directories.is_empty() {
                break;
            }
            total += size;
            directories.extend(self.next().await?);
        }
        let more = !self.ready.is_empty();
        Ok(GetTreeResponse {
            directories,
            next_page_token: if more {
                self.taken.to_string()
            } else {
                String::new()
            },
        })
    }
}
