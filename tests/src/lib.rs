//! What the end-to-end tests in `tests/tests/` share: places to build in, the bitzel program itself, and what a
//! build says about itself.
//!
//! A test gets a [`Site`] of its own, with a copy of the demo layer, a build directory and a cache directory, so
//! that tests neither see nor disturb each other. Everything here panics when something is wrong: it is part of
//! tests.

mod authority;
pub mod bazel;
mod bb_storage;
mod build_report;
pub mod build_stream;
mod cache_server;
mod cold_build;
mod collector;
pub mod peers;
mod program;
mod release;
mod server;
mod site;
mod tree;
mod worker_process;

pub use authority::write_certificates;
pub use bb_storage::{BbStorageSize, configure_bb_storage};
pub use build_report::BuildReport;
pub use cache_server::{CacheServer, S3_KEYS, S3Server, free_address};
pub use cold_build::cold_build;
pub use collector::{CollectedSpan, Collector};
pub use program::{bitbake_directory, bitzel_program, downloads_directory};
pub use release::Release;
pub use server::Server;
pub use site::{Site, copy_directory};
pub use tree::{Entry, tree_of};
pub use worker_process::WorkerProcess;
