//! Services of a blob store and an action cache, and the server around them.
//!
//! * [`services`] are those of the Remote Execution API, over gRPC.
//! * [`http_cache`] is the cache protocol of Bazel, ccache and others, over HTTP.
//! * [`Server`] opens stores and serves them on [`Listener`]s, with the services of an [`Extension`] beside its own: a
//!   server that executes Actions brings its queue that way.

pub mod error;
pub mod http_cache;
pub mod listener;
pub mod server;
pub mod services;
pub mod stores;

pub use error::Error;
pub use listener::Listener;
pub use server::{Extension, Gauges, Server, ServerConfig};
pub use stores::{SharedCache, StoreLayout};

#[cfg(test)]
mod tests;
