//! From (task, outputs of its dependencies) to Command, input root and Action.
//!
//! Everything here is a pure function of its arguments: the same task gives the same Action on every machine.
//! What needs a store or a clock is in [`crate::walk`].

pub mod closure;
pub mod input_root;
pub mod outputs_digest;
pub mod private_tree;
pub mod signature;
pub mod task_action;
pub mod task_input;
pub mod task_result;
pub mod taskhash;
pub mod tree;
