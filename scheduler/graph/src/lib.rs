//! Plans `BitBake`'s tasks as Actions and walks the task graph.
//!
//! * [`plan`] turns tasks into Actions: pure functions.
//! * [`walk`] looks signatures up, executes what is missing and cuts off early.
//! * [`output`] places the results of targets in a directory.
//! * [`remote_executions`] executes Actions on a server of the Remote Execution API.

pub mod output;
pub mod plan;
pub mod remote_executions;
pub mod walk;

pub use remote_executions::RemoteExecutions;
