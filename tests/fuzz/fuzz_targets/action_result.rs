//! Action results from clients: the completeness check answers for any result and any blobs, and the results that it
//! accepts have no missing blobs.

#![no_main]

use std::sync::Arc;

use bitzel_cas::blob_store::one_chunk;
use bitzel_cas::{
    ActionCache as _, BlobStore, CompletenessCheckingActionCache, MemoryActionCache, MemoryBlobStore,
};
use bitzel_proto::reapi::{ActionResult, OutputDirectory};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

#[derive(Debug, arbitrary::Arbitrary)]
struct Input {
    result: Vec<u8>,
    /// Blobs that the result references, as a Tree message if true, else as the root Directory of an output.
    blobs: Vec<(Vec<u8>, bool)>,
}

fuzz_target!(|input: Input| {
    let Ok(mut result) = ActionResult::decode(input.result.as_slice()) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let store: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
        for (blob, is_tree) in input.blobs {
            let digest = DigestFunction::Sha256.digest(&blob);
            store
                .write(digest, one_chunk(Bytes::from(blob)))
                .await
                .expect("memory takes everything");
            let named = Some(digest.to_wire());
            result.output_directories.push(OutputDirectory {
                tree_digest: named.clone().filter(|_| is_tree),
                root_directory_digest: named.filter(|_| !is_tree),
                ..OutputDirectory::default()
            });
        }
        let action = DigestFunction::Sha256.digest(b"action");
        let instance = InstanceName::default();
        let cache = CompletenessCheckingActionCache::new(Arc::new(MemoryActionCache::default()), Arc::clone(&store));
        if cache.put(&instance, action, result).await.is_err() {
            return;
        }
        let Ok(Some(hit)) = cache.get(&instance, action).await else {
            return;
        };
        for file in &hit.output_files {
            let digest = Digest::from_wire_field(DigestFunction::Sha256, file.digest.as_ref()).expect("a checked digest");
            let missing = store.find_missing(&[digest]).await.expect("memory answers");
            assert_eq!(missing, [], "a hit names a blob that is not there");
        }
    });
});
