//! Harness of the worker's tests and benches.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the bench uses only a part"
)]
#![allow(clippy::unwrap_used, reason = "only tests and benches use this")]

mod disk;
mod image_root;
mod input_tree;
mod small_file_system;
mod watched_blob_store;
mod worker;

pub use disk::{contents, created_by_command};
pub use image_root::image_root;
pub use input_tree::{Node, directory, file, plain_file, symlink};
pub use small_file_system::SmallFileSystem;
pub use watched_blob_store::WatchedBlobStore;
pub use worker::{EXACT, FUNCTION, Run, USER_NAMESPACES, Worker};
