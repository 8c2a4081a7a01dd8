//! Output directory of a portable Action, as an engine describes it.

use std::collections::HashMap;

use bitzel_cas::BlobStore;
use bitzel_cas::blob_store::read_whole;
use bitzel_launcher::portable::{OUTCOME, OUTPUTS, PortableOutcome};
use bitzel_proto::reapi::{ActionResult, Directory};
use bitzel_proto::{Digest, reapi};
use bytes::Bytes;
use prost::Message;
use tonic::Status;

use super::wrapping::join;
use super::{MAX_MESSAGE_BYTES, UnwrapError};
use crate::plan::tree::DIGEST_FUNCTION;

/// A Tree whose Directories are not decoded: the digest of a child is that of its bytes.
#[derive(Clone, PartialEq, Message)]
struct EncodedTree {
    #[prost(bytes = "bytes", tag = "1")]
    root: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    children: Vec<Bytes>,
}

/// Files of the output directory by path.
#[derive(Debug)]
pub(super) struct EngineOutputs {
    files: HashMap<String, Digest>,
}

impl EngineOutputs {
    /// Reads the directory of a result; `None` if the result has none.
    pub(super) async fn read(
        store: &dyn BlobStore,
        result: &ActionResult,
    ) -> Result<Option<Self>, UnwrapError> {
        let Some(output) = result
            .output_directories
            .iter()
            .find(|directory| directory.path == OUTPUTS)
        else {
            return Ok(None);
        };
        let mut directories: HashMap<Digest, Bytes> = HashMap::new();
        let root = if output.tree_digest.is_some() {
            let tree = read_bounded(store, digest(output.tree_digest.as_ref())?).await?;
            let tree = EncodedTree::decode(tree).map_err(malformed)?;
            let all = tree.children.into_iter();
            directories.extend(all.map(|bytes| (DIGEST_FUNCTION.digest(&bytes), bytes)));
            tree.root
        } else {
            read_bounded(store, digest(output.root_directory_digest.as_ref())?).await?
        };
        let mut files = HashMap::new();
        let mut pending = vec![(String::new(), root)];
        // No tree of the launcher is deeper or wider than this, so a malformed one comes to an end.
        let mut remaining = directories.len().max(1 << 16);
        while let Some((path, bytes)) = pending.pop() {
            remaining = remaining.checked_sub(1).ok_or_else(|| {
                Status::data_loss("the engine's Tree of the outputs has too many directories")
            })?;
            let directory = Directory::decode(bytes).map_err(malformed)?;
            for file in directory.files {
                files.insert(join(&path, &file.name), digest(file.digest.as_ref())?);
            }
            for child in directory.directories {
                let digest = digest(child.digest.as_ref())?;
                let bytes = match directories.get(&digest) {
                    Some(bytes) => bytes.clone(),
                    None => read_bounded(store, digest).await?,
                };
                pending.push((join(&path, &child.name), bytes));
            }
        }
        Ok(Some(Self { files }))
    }

    /// Digest of a file.
    pub(super) fn file(&self, path: &str) -> Option<Digest> {
        self.files.get(path).copied()
    }

    /// The launcher's description.
    pub(super) async fn outcome(&self, store: &dyn BlobStore) -> Result<PortableOutcome, UnwrapError> {
        let digest = self
            .file(OUTCOME)
            .ok_or_else(|| Status::data_loss(format!("the outputs on the engine lack {OUTCOME}")))?;
        let bytes = read_bounded(store, digest).await?;
        Ok(serde_json::from_slice(&bytes).map_err(malformed)?)
    }

    /// Fails if the store lacks some of the files.
    pub(super) async fn require_contents(&self, store: &dyn BlobStore) -> Result<(), UnwrapError> {
        let digests: Vec<Digest> = self.files.values().copied().collect();
        let missing = store.find_missing(&digests).await?;
        if missing.is_empty() {
            return Ok(());
        }
        Err(UnwrapError::Missing(missing))
    }
}

fn digest(digest: Option<&reapi::Digest>) -> Result<Digest, Status> {
    Digest::from_wire_field(DIGEST_FUNCTION, digest)
        .map_err(|error| Status::data_loss(format!("the engine's digest of an output is malformed: {error}")))
}

async fn read_bounded(store: &dyn BlobStore, digest: Digest) -> Result<Bytes, UnwrapError> {
    if digest.size_bytes() > MAX_MESSAGE_BYTES {
        let text = format!("the message {digest} of the engine has more than {MAX_MESSAGE_BYTES} bytes");
        return Err(Status::resource_exhausted(text).into());
    }
    Ok(read_whole(store, digest).await?)
}

fn malformed(error: impl std::fmt::Display) -> Status {
    Status::data_loss(format!("the outputs on the engine cannot be decoded: {error}"))
}
