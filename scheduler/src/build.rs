//! Building: walks the graph from the targets down, looks signatures up, executes what is missing and cuts off early.
//!
//! [`schedule`] decides, without I/O; [`driver`] does what it says against a store, an action cache and an Execution
//! service, which are all REAPI: the embedded server or a farm.

pub mod driver;
pub mod error;
pub mod event;
pub mod execution_client;
pub mod log;
pub mod output;
pub mod schedule;
mod task_execution;

pub use driver::{BuildConfig, Driver};
pub use error::BuildError;
pub use event::{BuildEvent, Outcome, ServerCondition, Summary};
pub use task_execution::Metadata;
