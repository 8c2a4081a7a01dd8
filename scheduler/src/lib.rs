//! From `BitBake`'s task graph to Remote Execution API Actions, and the Execution service that hands Actions to
//! workers.
//!
//! * [`front_end`] runs `BitBake` as the front end and gives the task graph.
//! * [`plan`] turns tasks into Actions: pure functions.
//! * [`build`] walks the graph: looks signatures up, executes what is missing, cuts off early.
//! * [`execution`] is the server side: the operation queue and the Execution service.

pub mod build;
pub mod execution;
pub mod front_end;
pub mod plan;
