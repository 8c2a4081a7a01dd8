//! Building: walks the graph from the targets down, looks signatures up, executes what is missing and cuts off early.

pub mod schedule;
