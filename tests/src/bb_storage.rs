//! Buildbarn's bb-storage, as its README sets it up: blocks and keys in files, results only while their outputs are there.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// How much a bb-storage holds.
#[derive(Debug, Clone, Copy)]
pub struct BbStorageSize {
    /// The largest blob, in bytes: blobs lie in blocks of this size, and there are 38 of them.
    pub block_bytes: u64,
    /// The table of where each blob lies, in bytes; 66 for a blob, and a few times as many for it to be found.
    pub key_bytes: u64,
}

impl BbStorageSize {
    /// That of the README: blobs of 269 MiB, and about a hundred thousand.
    pub const README: Self = Self {
        block_bytes: (10 << 30) / BLOCKS,
        key_bytes: 16 << 20,
    };
}

const OLD: u64 = 8;
const CURRENT: u64 = 24;
const NEW: u64 = 3;
const SPARE: u64 = 3;
const BLOCKS: u64 = OLD + CURRENT + NEW + SPARE;
const RESULTS: BbStorageSize = BbStorageSize {
    block_bytes: (100 << 20) / BLOCKS,
    key_bytes: 1 << 20,
};

/// Writes its configuration file into `directory`, where it will also keep its data, and makes the directories that it
/// expects. Everybody may do everything.
pub fn configure_bb_storage(directory: &Path, address: SocketAddr, size: BbStorageSize) -> PathBuf {
    let allow = json!({"allow": {}});
    let configuration = json!({
        "contentAddressableStorage": {
            "backend": local(&directory.join("cas"), size, NEW),
            "getAuthorizer": allow, "putAuthorizer": allow, "findMissingAuthorizer": allow,
        },
        "actionCache": {
            "backend": {"completenessChecking": {
                "backend": local(&directory.join("ac"), RESULTS, 1),
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
        "oldBlocks": OLD,
        "currentBlocks": CURRENT,
        "newBlocks": new_blocks,
        "blocksOnBlockDevice": {
            "source": file("blocks", size.block_bytes * BLOCKS),
            "spareBlocks": SPARE,
        },
        "persistent": {"stateDirectoryPath": state, "minimumEpochInterval": "300s"},
    }})
}
