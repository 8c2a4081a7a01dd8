//! The protocol as clients see it: `bitzel serve` over gRPC, with a real disk store, a real worker and real sandboxes.
//!
//! `command_traps`, `execution_traps` and `storage_traps` are a checklist of where `remote_execution.proto` is easily got wrong:
//! `cargo test -p bitzel --test protocol trap_ -- --list` prints its points; a number with several tests has several
//! sides. Finer points of 7, 8, 9, 10 and 13 are in `scheduler/src/execution/tests/conformance_traps.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "protocol/blake3.rs"]
mod blake3;
#[path = "protocol/chunks.rs"]
mod chunks;
#[path = "protocol/command_traps.rs"]
mod command_traps;
#[path = "protocol/execution_traps.rs"]
mod execution_traps;
#[path = "protocol/hostile_directories.rs"]
mod hostile_directories;
#[path = "protocol/hostile_uploads.rs"]
mod hostile_uploads;
#[path = "protocol/introspection.rs"]
mod introspection;
#[path = "protocol/messages.rs"]
mod messages;
#[path = "protocol/resume.rs"]
mod resume;
#[path = "protocol/server.rs"]
mod server;
#[path = "protocol/storage_traps.rs"]
mod storage_traps;
#[path = "protocol/trees.rs"]
mod trees;
