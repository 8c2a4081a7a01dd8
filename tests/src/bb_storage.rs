//! Configuration of Buildbarn's bb-storage, as in its README: blocks and keys in files, completeness-checked results.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Size of a bb-storage.
#[derive(Debug, Clone, Copy)]
pub struct BbStorageSize {
    /// Bytes of each of the 38 blocks, which is also the size of the largest blob.
    pub block_bytes: u64,
    /// Bytes of the key-location map: 66 for each blob, and a few times that to keep collisions rare.
    pub key_bytes: u64,
}

impl BbStorageSize {
    /// The size in its README: blobs up to 269 MiB, about 100,000 of them.
    pub const README: Self = Self {
        block_bytes: (10 << 30) / BLOCKS,
        key_bytes: 16 << 20,
    };
}

const OLD_BLOCKS: u64 = 8;
const CURRENT_BLOCKS: u64 = 24;
const NEW_BLOCKS: u64 = 3;
const SPARE_BLOCKS: u64 = 3;
const BLOCKS: u64 = OLD_BLOCKS + CURRENT_BLOCKS + NEW_BLOCKS + SPARE_BLOCKS;
const ACTION_CACHE_SIZE: BbStorageSize = BbStorageSize {
    block_bytes: (100 << 20) / BLOCKS,
    key_bytes: 1 << 20,
};

/// Writes a configuration without access control into `directory`, which also gets the data, and makes the directories
/// that bb-storage expects. Returns the path of the configuration.
pub fn configure_bb_storage(directory: &Path, address: SocketAddr, size: BbStorageSize) -> PathBuf {
    let allow = json!({"allow": {}});
    let configuration = json!({
        "contentAddressableStorage": {
            "backend": local(&directory.join("cas"), size, NEW_BLOCKS),
            "getAuthorizer": allow, "putAuthorizer": allow, "findMissingAuthorizer": allow,
        },
        "actionCache": {
            "backend": {"completenessChecking": {
                "backend": local(&directory.join("ac"), ACTION_CACHE_SIZE, 1),
                "maximumTotalTreeSizeBytes": 16 << 20,
            }},
            "getAuthorizer": allow, "putAuthorizer": allow,
        },
        "grpcServers": [{"listenAddresses": [address.to_string()], "authenticationPolicy": allow}],
        "executeAuthorizer": {"deny": {}},
        "maximumMessageSizeBytes": 16 << 20,
    });
    let path = directory.join("bb_storage.jsonnet");
    fs::write(&path, configuration.to_string()).expect("a configuration file");
    path
}

fn local(directory: &Path, size: BbStorageSize, new_blocks: u64) -> Value {
    let state = directory.join("persistent_state");
    fs::create_dir_all(&state).expect("a directory for bb-storage");
    let file = |name: &str, bytes: u64| json!({"file": {"path": directory.join(name), "sizeBytes": bytes}});
    json!({"local": {
        "keyLocationMapOnBlockDevice": file("key_location_map", size.key_bytes),
        "keyLocationMapMaximumGetAttempts": 16,
        "keyLocationMapMaximumPutAttempts": 64,
        "oldBlocks": OLD_BLOCKS,
        "currentBlocks": CURRENT_BLOCKS,
        "newBlocks": new_blocks,
        "blocksOnBlockDevice": {
            "source": file("blocks", size.block_bytes * BLOCKS),
            "spareBlocks": SPARE_BLOCKS,
        },
        "persistent": {"stateDirectoryPath": state, "minimumEpochInterval": "300s"},
    }})
}
