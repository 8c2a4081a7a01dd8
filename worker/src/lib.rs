//! Fetches input roots, runs Actions in bubblewrap and uploads what they leave.
//!
//! * [`file_cache`] keeps the input files of Actions on this machine, one file for each content and mode.
//! * [`input_root`] assembles an input root out of the cache by hardlink: shared layers and a small rest.
//! * [`sandbox`] runs a command in namespaces, on an overlay of those layers. It embeds the program of
//!   [`bitzel_launcher`], which makes the namespaces.
//! * [`outputs`] turns what the command changed into REAPI outputs without reading what it did not touch.
//! * [`action_executor`] is the trait that puts these together, [`worker_loop`] takes Actions from the scheduler of a
//!   [`server`].

pub mod action_executor;
pub mod action_source;
pub mod blob_stores;
mod blocking;
pub mod config;
pub mod error;
pub mod file_cache;
pub mod grpc_status;
pub mod input_root;
pub mod metered_action_executor;
pub mod node_properties;
pub mod outputs;
mod recursion;
pub mod sandbox;
pub mod sandboxed_action_executor;
pub mod scratch;
pub mod server;
pub mod worker_loop;

pub use action_executor::{ActionExecutor, ActionRequest};
pub use action_source::{ActionSource, RemoteActionSource, SchedulerMessages};
pub use blob_stores::{BlobStores, RemoteBlobStores};
pub use config::{ExecutorConfig, WorkerConfig};
pub use error::Error;
pub use metered_action_executor::MeteredActionExecutor;
pub use sandboxed_action_executor::SandboxedActionExecutor;
pub use server::Server;
