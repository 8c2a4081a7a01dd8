//! How clients reach a server, and how servers are set up so that clients reach them fast.

mod channel;
mod credentials;
mod renewal;
mod small_frames;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Server, Uri};

use crate::error::Error;

pub use channel::Channel;
pub use credentials::ClientCredentials;
use renewal::Renewal;
pub use small_frames::{SmallFrames, small_frames};

/// HTTP/2 flow control: bytes in flight per stream and per connection. The default of 64 KiB stalls a transfer once
/// per round trip, on loopback too.
const WINDOW: u32 = 16 << 20;
/// Large frames: fewer of them for bulk data.
const FRAME: u32 = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How soon a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Connects to a server without credentials: see [`connect_with`].
pub async fn connect(endpoint: &str) -> Result<Channel, Error> {
    connect_with(endpoint, &ClientCredentials::default()).await
}

/// Connects to a server: `grpc://host:port` or `http://host:port`, with TLS `grpcs://host:port` or
/// `https://host:port`, on this machine `unix:/path/of/socket`. Files of certificates and tokens that change are read
/// again: requests that begin later use what is in them then.
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
    Tls(Uri),
    Unix(PathBuf),
}

impl Target {
    fn parse(endpoint: &str) -> Result<Self, Error> {
        let invalid = |reason: &str| {
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
        match uri.host() {
            None | Some("") => Err(invalid("names no host")),
            Some(_) if tls => Ok(Self::Tls(uri)),
            Some(_) => Ok(Self::Tcp(uri)),
        }
    }

    /// Credentials leave this machine only under TLS, and who asks for TLS gets it or an error.
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
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
}

#[cfg(test)]
mod tests;
