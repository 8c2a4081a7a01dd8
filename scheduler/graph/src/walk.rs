//! Walk over the task graph, from the targets down: look-ups, executions of missing results, and early cut-off.
//!
//! [`schedule`] decides, without I/O. [`driver`] carries out its decisions with a blob store, an action cache and
//! [`Executions`]. All three are traits: a client uses the services of a server, and a server its own parts. Files of the
//! build's owner come through [`BuildFiles`].

pub mod build_files;
mod critical_path;
pub mod driver;
mod durations;
pub mod error;
pub mod event;
mod execution_inputs;
pub mod executions;
pub mod log;
mod remaining_paths;
mod restore;
mod results;
pub mod schedule;
pub mod shared_state;
mod task_execution;

pub use build_files::{BuildFiles, BuildInputs};
pub use driver::{BuildConfig, BuildOutcome, DIRECTORY_CACHE_BYTES, Driver};
pub use error::BuildError;
pub use event::{BuildEvent, Outcome, ServerCondition, Summary};
pub use executions::{ExecutionRequest, Executions};
pub use shared_state::{ArchiveFile, ArchiveQuery, ArchiveSearch, SharedState};
