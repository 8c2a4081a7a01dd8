//! Server of a blob store and an action cache: the REAPI services, the HTTP cache, and the server around them.
//!
//! * [`CacheServer`] opens the stores and serves them on [`Listener`]s: gRPC on TCP or a Unix socket, and the HTTP cache
//!   of Bazel, ccache and sccache. An [`Extension`] adds services of another crate to the same listeners, as a server
//!   that executes Actions does with its queue.
//! * [`services`] are the services of the Remote Execution API, for programs with a server of their own.
//! * [`http_cache`] is the service of the HTTP cache.
//!
//! # A cache server in another program
//!
//! Stores on this machine's disk, and gRPC for everybody who can reach the port. The server runs until `shutdown` is
//! cancelled, then lets the open calls end and closes the stores.
//!
//! ```
//! use std::path::Path;
//!
//! use bitzel_cas_server::{CacheServer, Listener, ServerAccess, ServerConfig, StoreLayout};
//! use tokio::net::TcpListener;
//! use tokio_util::sync::CancellationToken;
//!
//! async fn serve(directory: &Path, shutdown: CancellationToken) -> Result<(), Box<dyn std::error::Error>> {
//!     let stores = StoreLayout::in_directory(directory, 100 << 30);
//!     let server = CacheServer::open(ServerConfig::new(stores)).await?;
//!     let socket = TcpListener::bind("127.0.0.1:0").await?;
//!     println!("Bazel finds the cache at grpc://{}", socket.local_addr()?);
//!     let listener = Listener::Tcp(socket, ServerAccess::open());
//!     Ok(server.run(vec![listener], None, shutdown).await?)
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! #     let directory = tempfile::tempdir().unwrap();
//! #     let shutdown = CancellationToken::new();
//! #     shutdown.cancel();
//! #     serve(directory.path(), shutdown).await.unwrap();
//! # }
//! ```
//!
//! For access control, replace [`ServerAccess::open`] by [`AccessConfiguration::open`]. For other stores, such as memory
//! or S3, fill in the [`StoreLayout`] with any [`bitzel_cas::composition::store_configuration::StoreConfiguration`].

mod cache_server;
mod error;
pub mod http_cache;
mod listener;
pub mod services;
mod stores;
mod tenants;
mod upload_memory;
mod upload_shares;

pub use bitzel_access::{AccessConfiguration, ServerAccess};

pub use cache_server::{CacheServer, Extension, Gauges, ServerConfig};
pub use error::Error;
pub use http_cache::Spool;
pub use listener::Listener;
pub use services::Chunking;
pub use stores::{SharedCache, StoreLayout};
pub use tenants::{TenantGroup, Tenants};
pub use upload_shares::UploadShares;

#[cfg(test)]
mod tests;
