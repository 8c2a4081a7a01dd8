//! From (task, outputs of its dependencies) to Command, input root and Action.
//!
//! Everything here is a pure function of its arguments: the same task gives the same Action on every machine.
//! What needs a store or a clock is in [`crate::build`].

pub mod tree;
