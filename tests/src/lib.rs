//! Harness of the end-to-end tests in `tests/tests/` and of the benchmarks in `tests/benches/`: build directories, the
//! bitzel program, and programs of other projects.
//!
//! Every test has its own [`Site`] with a copy of the demo layer, a build directory and a cache directory, so tests do
//! not depend on each other. All functions panic on errors, because the harness is part of tests.

mod authority;
pub mod bazel;
mod bb_storage;
mod bitzel_server;
mod build_grid;
mod build_report;
pub mod build_stream;
mod cold_build;
mod collector;
mod debian_root;
mod faulty_proxy;
mod file_server;
mod listening_process;
mod minimal_root;
mod module_list;
mod observed_process;
pub mod pants;
pub mod peers;
mod polling;
mod postgresql;
mod program;
mod program_output;
mod release;
mod s3_server;
mod site;
mod slow_network;
mod tree;
mod worker_process;

pub use authority::write_certificates;
pub use bb_storage::{BbStorageSize, configure_bb_storage};
pub use bitzel_server::BitzelServer;
pub use build_grid::{BuildGrid, UserNamespaces};
pub use build_report::BuildReport;
pub use cold_build::cold_build;
pub use collector::{CollectedSpan, Collector};
pub use debian_root::{DebianRoot, RootedWorker};
pub use faulty_proxy::{FaultyProxy, Traffic};
pub use file_server::FileServer;
pub use listening_process::{ListeningProcess, free_address};
pub use minimal_root::MinimalRoot;
pub use module_list::assert_declares_all_modules;
pub use observed_process::ObservedProcess;
pub use polling::poll_until;
pub use postgresql::PostgresqlServer;
pub use program::{bitbake_directory, bitzel_program, downloads_directory};
pub use program_output::{run, text_of};
pub use release::Release;
pub use s3_server::{S3_KEYS, S3Server};
pub use site::Site;
pub use slow_network::SlowNetwork;
pub use tree::{Entry, copy_directory, tree_of};
pub use worker_process::WorkerProcess;
