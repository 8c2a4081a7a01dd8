//! Stores as a configuration file describes them.

pub mod store_configuration;
pub mod store_factory;
