//! Connections of clients to servers, and the settings of servers that match them.

mod channel;
mod credentials;
mod error_pages;
mod malformed_requests;
mod renewal;
mod small_frames;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Server, Uri};

use self::renewal::Renewal;
use crate::error::Error;
use crate::secret::without_secrets;

pub use channel::Channel;
pub use credentials::ClientCredentials;
pub use malformed_requests::malformed_requests;
pub use small_frames::{SmallFrames, small_frames};

/// HTTP/2 flow control window: bytes in flight per stream and per connection. The default of 64 KiB stalls a transfer
/// once per round trip, on loopback too.
const FLOW_CONTROL_WINDOW_BYTES: u32 = 16 << 20;
/// Largest HTTP/2 frame: large ones mean fewer of them for bulk data.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// Time that a server has to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval of HTTP/2 pings, and the time that the answer may take: a dead connection is noticed within both.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Connects to a server without credentials: see [`connect_with`].
pub async fn connect(endpoint: &str) -> Result<Channel, Error> {
    connect_with(endpoint, &ClientCredentials::default()).await
}

/// Connects to a server with credentials: `grpc://host:port` or `http://host:port`, with TLS `grpcs://host:port` or
/// `https://host:port`, on this machine `unix:/path/of/socket`. Files of certificates and tokens that change are read
/// again, and later requests use the new content.
pub async fn connect_with(endpoint: &str, credentials: &ClientCredentials) -> Result<Channel, Error> {
    let target = Target::parse(endpoint)?;
    target.check(endpoint, credentials)?;
    let authorization = credentials.authorization()?;
    let mut encrypted = None;
    let connected = match target {
        Target::Tcp(uri) => tuned(Endpoint::from(uri)).connect().await,
        Target::Tls(uri) => {
            let tls = credentials.tls()?;
            encrypted = Some(uri.clone());
            match tuned(Endpoint::from(uri)).tls_config(tls) {
                Ok(endpoint) => endpoint.connect().await,
                Err(error) => Err(error),
            }
        }
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
    let channel = connected.map_err(|error| Error::Connect {
        endpoint: endpoint.to_owned(),
        source: error,
    })?;
    let renewal = encrypted.and_then(|uri| Renewal::of(uri, credentials, channel.clone()));
    Ok(Channel::new(channel, authorization, renewal))
}

/// Builder of a gRPC server with settings that match the clients of [`connect`]. Every server of bitzel starts with it.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(FLOW_CONTROL_WINDOW_BYTES)
        .initial_connection_window_size(FLOW_CONTROL_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_INTERVAL))
}

/// Address of a server.
#[derive(Debug, PartialEq)]
enum Target {
    Tcp(Uri),
    Tls(Uri),
    Unix(PathBuf),
}

impl Target {
    fn parse(endpoint: &str) -> Result<Self, Error> {
        let invalid = |reason: &str| {
            let endpoint = without_secrets(endpoint);
            Error::InvalidArgument(format!(
                "endpoint {endpoint:?} {reason}; write grpc://host:port, grpcs://host:port or unix:/path"
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
        let (tls, scheme) = match scheme {
            "http" | "grpc" => (false, "http"),
            "https" | "grpcs" => (true, "https"),
            _ => return Err(invalid("has an unknown scheme")),
        };
        let uri: Uri = format!("{scheme}://{address}")
            .parse()
            .map_err(|_| invalid("is not an address"))?;
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(invalid(
                "contains credentials, which would be shown in logs: configure them separately",
            ));
        }
        match uri.host() {
            None | Some("") => Err(invalid("names no host")),
            Some(_) if tls => Ok(Self::Tls(uri)),
            Some(_) => Ok(Self::Tcp(uri)),
        }
    }

    /// Refuses to send credentials to another machine without TLS, and certificates to a server without TLS.
    fn check(&self, endpoint: &str, credentials: &ClientCredentials) -> Result<(), Error> {
        let Self::Tcp(uri) = self else {
            return Ok(());
        };
        let problem = if credentials.ca.is_some() || credentials.certificate.is_some() {
            "certificates are given for a connection without TLS"
        } else if credentials.are_secret() && !is_loopback(uri) {
            "a token or password would be sent without TLS, for everybody on the way to read"
        } else {
            return Ok(());
        };
        Err(Error::InvalidArgument(format!(
            "{problem}: write grpcs:// instead of {endpoint:?}"
        )))
    }
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(FLOW_CONTROL_WINDOW_BYTES)
        .initial_connection_window_size(FLOW_CONTROL_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_INTERVAL)
}

#[cfg(test)]
mod tests;
