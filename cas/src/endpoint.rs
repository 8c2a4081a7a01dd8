//! How clients reach a server, and how servers are set up so that clients reach them fast.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};

use crate::error::Error;

/// HTTP/2 flow control: bytes in flight per stream and per connection. The default of 64 KiB stalls a transfer once
/// per round trip, on loopback too.
const WINDOW: u32 = 16 << 20;
/// Large frames: fewer of them for bulk data.
const FRAME: u32 = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How soon a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Connects to a server: `http://host:port`, `grpc://host:port` or `unix:/path/of/socket`.
pub async fn connect(endpoint: &str) -> Result<Channel, Error> {
    let connected = match Target::parse(endpoint)? {
        Target::Tcp(uri) => tuned(Endpoint::from(uri)).connect().await,
        Target::Unix(path) => {
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            // gRPC wants an authority even where the transport has none.
            tuned(Endpoint::from_static("http://localhost"))
                .connect_with_connector(connector)
                .await
        }
    };
    connected.map_err(|error| Error::Connect {
        endpoint: endpoint.to_owned(),
        source: error,
    })
}

/// A gRPC server set up like the clients of [`connect`]. Every server of bitzel starts with this.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
}

#[derive(Debug, PartialEq)]
enum Target {
    Tcp(Uri),
    Unix(PathBuf),
}

impl Target {
    fn parse(endpoint: &str) -> Result<Self, Error> {
        let invalid = |reason: &str| {
            Error::InvalidArgument(format!(
                "endpoint {endpoint:?} {reason}; write http://host:port, grpc://host:port or unix:/path"
            ))
        };
        if let Some(path) = endpoint.strip_prefix("unix:") {
            // unix:///path is the same as unix:/path.
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" => Err(invalid("names no socket")),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let (scheme, address) = endpoint
            .split_once("://")
            .ok_or_else(|| invalid("has no scheme"))?;
        match scheme {
            "http" | "grpc" => {}
            "https" | "grpcs" => return Err(invalid("asks for TLS, which is not supported yet")),
            _ => return Err(invalid("has an unknown scheme")),
        }
        let uri: Uri = format!("http://{address}")
            .parse()
            .map_err(|_| invalid("is not an address"))?;
        match uri.host() {
            None | Some("") => Err(invalid("names no host")),
            Some(_) => Ok(Self::Tcp(uri)),
        }
    }
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
}

#[cfg(test)]
mod tests;
