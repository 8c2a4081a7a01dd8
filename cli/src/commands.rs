//! One module for each command.

pub(crate) mod attach;
pub(crate) mod bitbake;
pub(crate) mod build;
pub(crate) mod builds;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod farm;
pub(crate) mod graph;
pub(crate) mod kubernetes_controller;
pub(crate) mod log;
pub(crate) mod man;
pub(crate) mod root;
pub(crate) mod serve;
pub(crate) mod store;
pub(crate) mod worker;
