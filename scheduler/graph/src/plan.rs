//! Plan: turns a task and the results of its dependencies into Command, input root and Action.
//!
//! All functions are pure: the same task gives the same Action on every machine. Code that needs a store or a clock is in
//! [`crate::walk`].

pub mod input_root;
pub mod output_equivalence;
pub mod private_tree;
pub mod runner_files;
pub mod signature;
pub mod task_action;
pub mod task_index;
pub mod task_inputs;
pub mod task_result;
pub mod taskhash;
pub mod tree;
