//! Walk over the task graph, from the targets down: looks signatures up, executes what is missing and cuts off early.
//!
//! [`schedule`] decides, without I/O; [`driver`] carries its decisions out against a blob store, an action cache and
//! [`Executions`]. All three are traits: a client walks against the services of a server, a server against its own
//! parts. Files that only the owner of the build has come through [`BuildFiles`].

pub mod build_files;
pub mod driver;
pub mod error;
pub mod event;
pub mod executions;
pub mod log;
pub mod schedule;
mod task_execution;

pub use build_files::{BuildFiles, BuildInputs};
pub use driver::{BuildConfig, Driver};
pub use error::BuildError;
pub use event::{BuildEvent, Outcome, Summary};
pub use executions::{ExecutionRequest, Executions};
