//! Fetches input roots, runs Actions in sandboxes and uploads their outputs.
//!
//! * [`file_cache`] keeps input files of Actions on this machine, one file for each content and mode.
//! * [`input_root`] assembles an input root from the cache by hardlink: shared layers and a small remainder.
//! * [`sandbox`] runs a command in namespaces, on an overlay of those layers. It embeds the program of
//!   [`bitzel_launcher`], which creates the namespaces.
//! * [`outputs`] turns the changes of the command into REAPI outputs without reading unchanged files.
//! * [`image_root`] is a root file system out of the store, in which commands run that name one.
//! * [`root_identity`] names the root file system of this machine, in which commands run.
//! * [`bounds`] are what one Action may use.
//! * [`action_executor`] is the trait of everything that executes Actions, [`composition`] stacks its layers, and
//!   [`worker_loop`] takes Actions from the scheduler of a [`server_connection`].

pub mod action_executor;
pub mod action_source;
pub mod blob_stores;
pub mod bounds;
mod cancellation;
mod cgroup;
pub mod composition;
pub mod config;
pub mod error;
pub mod file_cache;
pub mod grpc_status;
pub mod image_root;
pub mod input_prefetcher;
pub mod input_root;
mod input_tree;
pub mod metered_action_executor;
pub mod node_properties;
pub mod observed_action_source;
mod offered_resources;
pub mod outputs;
mod recursion;
mod relative_path;
mod result_size;
pub mod root_identity;
pub mod sandbox;
pub mod sandbox_check;
pub mod sandboxed_action_executor;
pub mod server_connection;
pub mod timed_action_executor;
pub mod timestamped_action_executor;
pub mod user_access;
pub mod worker_directories;
pub mod worker_loop;

pub use action_executor::{ActionExecutor, ActionRequest};
pub use action_source::{ActionSource, RemoteActionSource, SchedulerMessages};
pub use blob_stores::{BlobStores, RemoteBlobStores};
pub use bounds::Bounds;
pub use composition::compose_executor;
pub use config::{ExecutorConfig, WorkerConfig};
pub use error::Error;
pub use input_prefetcher::{InputPrefetcher, UpcomingAction};
pub use input_tree::{TreeTotals, tree_totals};
pub use metered_action_executor::MeteredActionExecutor;
pub use observed_action_source::ObservedActionSource;
pub use root_identity::{InvalidRootIdentity, RootIdentity, RootParts};
pub use sandbox::LAUNCHER_EXECUTABLE;
pub use sandbox_check::{check_sandbox, sandbox_obstacles};
pub use sandboxed_action_executor::SandboxedActionExecutor;
pub use server_connection::ServerConnection;
pub use timed_action_executor::TimedActionExecutor;
pub use timestamped_action_executor::TimestampedActionExecutor;
pub use user_access::{USER_HOME, UserAccess};
