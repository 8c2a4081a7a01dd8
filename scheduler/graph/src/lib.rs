//! Plan and walk of a task graph: turns `BitBake`'s tasks into Actions and executes them.
//!
//! * [`plan`] turns tasks into Actions: pure functions.
//! * [`walk`] looks up signatures and executes the tasks whose results are missing, with early cut-off.
//! * [`output`] places the results of targets in a directory.
//! * [`portable`] runs Actions on execution services that know nothing of bitzel.
//! * [`remote_executions`] executes Actions on a server of the Remote Execution API.

pub mod output;
pub mod plan;
pub mod portable;
pub mod remote_executions;
pub mod walk;

pub use portable::{PortableExecutions, PortableSettings};
pub use remote_executions::{ExecutionCalls, RemoteExecutions};
