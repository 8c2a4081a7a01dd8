//! Incoming connections of a server.

mod admission;
mod connection_state;
mod guarded_stream;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use metrics::counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::authenticator::PeerCertificate;
use crate::limits::Limits;
use crate::tls::ServerTls;

use self::admission::{Admission, Full};
use self::guarded_stream::GuardedStream;

pub use self::connection_state::{CloseReason, ConnectionState};
pub(crate) use self::connection_state::{MAX_CALLS_WITHOUT_PERMISSION, OpenCall};

/// Time that a TLS handshake may take. It is enough on slow networks.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an error that an immediate retry would meet again, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Interval of warnings about refused connections: an attacker must not fill the log.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// Accepted connection.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    certificate: Option<PeerCertificate>,
    http2: bool,
    state: Arc<ConnectionState>,
}

#[derive(Debug)]
enum Stream {
    Plain(GuardedStream),
    Tls(Box<TlsStream<GuardedStream>>),
}

/// Accepts connections within `limits`, with TLS if it is given; further ones are closed immediately. Handshakes run
/// concurrently, so a slow one delays no other. Ends when the result is dropped.
pub fn incoming(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    limits: &Limits,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(1);
    let mut admission = Admission::new(limits);
    let mut last_warning: Option<Instant> = None;
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let state = match admission.admit(address.ip()) {
                Ok(admitted) => admitted,
                Err(full) => {
                    let reason = match full {
                        Full::Server => "limit",
                        Full::Address => "address",
                    };
                    counter!("bitzel_connections_refused_total", "reason" => reason).increment(1);
                    if last_warning.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL) {
                        last_warning = Some(Instant::now());
                        tracing::warn!(
                            %address,
                            reason,
                            "too many connections; one was closed, and further ones are counted without a message"
                        );
                    }
                    continue;
                }
            };
            let (tls, sender) = (tls.clone(), sender.clone());
            tokio::spawn(async move {
                let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, establish(stream, tls, state)).await;
                let failure = match handshake {
                    Ok(Ok(connection)) => {
                        // An error means that the server ends and takes no new connections.
                        let _ = sender.send(Ok(connection)).await;
                        return;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no TLS handshake within 10 s".to_owned(),
                };
                counter!("bitzel_connections_refused_total", "reason" => "handshake").increment(1);
                tracing::info!(%address, failure, "no connection");
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn establish(
    stream: TcpStream,
    tls: Option<Arc<ServerTls>>,
    state: Arc<ConnectionState>,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = GuardedStream::new(stream, Arc::clone(&state));
    let Some(tls) = tls else {
        return Ok(Connection {
            stream: Stream::Plain(stream),
            certificate: None,
            http2: false,
            state,
        });
    };
    let stream = TlsAcceptor::from(tls.config()).accept(stream).await?;
    let certificate = match stream.get_ref().1.peer_certificates() {
        Some([certificate, ..]) => Some(PeerCertificate::of(certificate).ok_or_else(|| {
            io::Error::other("the client's certificate has neither a common nor an alternative name")
        })?),
        _ => None,
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Connection {
        http2,
        stream: Stream::Tls(Box::new(stream)),
        certificate,
        state,
    })
}

/// Properties of a connection, as an extension of its requests.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The client's certificate, if it showed one.
    pub certificate: Option<PeerCertificate>,
    /// True if HTTP/2 was agreed on during the TLS handshake.
    pub http2: bool,
    /// State of the connection.
    pub state: Arc<ConnectionState>,
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        PeerInfo {
            certificate: self.certificate.clone(),
            http2: self.http2,
            state: Arc::clone(&self.state),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, data),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
