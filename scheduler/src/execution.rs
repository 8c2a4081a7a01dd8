//! The server side of the Remote Execution API's Execution service.
pub mod clock;
pub mod error;
pub mod execution_config;
mod grpc_status;
pub mod operation_queue;
pub mod platform;
