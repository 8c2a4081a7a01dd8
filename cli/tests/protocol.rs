//! Protocol tests: `bitzel serve` over gRPC, with a real disk store, a real worker and real sandboxes.
//!
//! `command_traps`, `execution_traps` and `storage_traps` are a checklist of where `remote_execution.proto` is easy to get wrong:
//! `cargo test -p bitzel --test runner trap_ -- --list` prints its points; a number with several tests has several
//! sides. Finer points of 7, 8, 9, 10 and 13 are in `scheduler/src/execution/tests/conformance_traps.rs`.

mod blake3;
mod chunks;
mod client_bounds;
mod client_memory;
mod command_traps;
mod execution_traps;
mod hostile_directories;
mod hostile_uploads;
mod introspection;
mod messages;
mod resume;
mod server;
mod storage_traps;
mod tenants;
mod trees;
