//! TCP proxy that passes bytes on slowly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that are passed on together.
const PART_BYTES: usize = 16 << 10;

/// Proxy in front of a server. What the server sends has a limited rate, for each connection.
pub struct SlowNetwork {
    address: SocketAddr,
    passed: watch::Receiver<u64>,
    _connections: JoinSet<()>,
}

impl SlowNetwork {
    /// Starts a proxy in front of `server`.
    pub async fn start(server: SocketAddr, bytes_per_second: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (sender, passed) = watch::channel(0);
        let sender = Arc::new(sender);
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let sender = Arc::clone(&sender);
                open.spawn(async move {
                    // Either side may end the connection.
                    let _ = pass(client, server, bytes_per_second, &sender).await;
                });
            }
        });
        Self {
            address,
            passed,
            _connections: connections,
        }
    }

    /// URL of the server behind this proxy.
    pub fn url(&self) -> String {
        format!("grpc://{}", self.address)
    }

    /// Waits until the server has sent so many bytes.
    pub async fn has_passed(&mut self, bytes: u64) {
        let enough = self.passed.wait_for(|passed| *passed >= bytes);
        enough.await.expect("the proxy runs");
    }
}

async fn pass(
    client: TcpStream,
    server: SocketAddr,
    bytes_per_second: u32,
    passed: &watch::Sender<u64>,
) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let requests = async move { copy(&mut from_client, &mut to_server).await };
    let responses = async {
        let mut part = vec![0; PART_BYTES];
        loop {
            let length = from_server.read(&mut part).await?;
            if length == 0 {
                return Ok(0);
            }
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            tokio::time::sleep(Duration::from_secs(1) * length / bytes_per_second).await;
            to_client.write_all(&part[..length as usize]).await?;
            passed.send_modify(|passed| *passed += u64::from(length));
        }
    };
    tokio::try_join!(requests, responses).map(|_| ())
}
