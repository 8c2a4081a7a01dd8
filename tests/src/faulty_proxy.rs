//! TCP proxy whose connections can be cut, delayed and held.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Size of the pieces that are delayed one after the other, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Condition of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Bytes pass at once.
    Flows,
    /// Each piece of the stream passes after this time.
    IsDelayed(Duration),
    /// Nothing passes, and connections stay open.
    IsHeld,
}

/// TCP proxy in front of some servers. A connection goes to the first one that accepts it.
pub struct FaultyProxy {
    address: SocketAddr,
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    traffic: watch::Sender<Traffic>,
    /// Counts the cuts: connections end when it changes.
    cuts: watch::Sender<u64>,
    /// Ends with the proxy.
    _task: JoinSet<()>,
}

impl FaultyProxy {
    /// Starts a proxy on a free port of this machine.
    pub async fn start(servers: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let servers = Arc::new(Mutex::new(servers));
        let (traffic, cuts) = (watch::Sender::new(Traffic::Flows), watch::Sender::new(0));
        let mut task = JoinSet::new();
        task.spawn(accept(
            listener,
            Arc::clone(&servers),
            traffic.subscribe(),
            cuts.subscribe(),
        ));
        Self {
            address,
            servers,
            traffic,
            cuts,
            _task: task,
        }
    }

    /// Address of the proxy.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Address of the proxy for clients and workers.
    pub fn url(&self) -> String {
        format!("grpc://{}", self.address)
    }

    /// Sends new connections to these servers, in this order.
    pub fn prefer(&self, servers: Vec<SocketAddr>) {
        *self.servers.lock().expect("no panic") = servers;
    }

    /// Ends all connections. New ones are accepted.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Sets the condition of all connections, also of later ones.
    pub fn set_traffic(&self, traffic: Traffic) {
        self.traffic.send_replace(traffic);
    }
}

async fn accept(
    listener: TcpListener,
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    traffic: watch::Receiver<Traffic>,
    cuts: watch::Receiver<u64>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a connection");
        while connections.try_join_next().is_some() {}
        let servers = servers.lock().expect("no panic").clone();
        let (traffic, mut cuts) = (traffic.clone(), cuts.clone());
        cuts.mark_unchanged();
        connections.spawn(async move {
            tokio::select! {
                () = forward(client, servers, traffic) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

async fn forward(client: TcpStream, servers: Vec<SocketAddr>, traffic: watch::Receiver<Traffic>) {
    for server in servers {
        if let Ok(server) = TcpStream::connect(server).await {
            for stream in [&client, &server] {
                stream.set_nodelay(true).expect("an option of the socket");
            }
            let (client_reader, client_writer) = client.into_split();
            let (server_reader, server_writer) = server.into_split();
            // Either side may end the connection, as on any network.
            let _ = tokio::join!(
                pass(client_reader, server_writer, traffic.clone()),
                pass(server_reader, client_writer, traffic),
            );
            return;
        }
    }
}

/// Passes one direction of a connection on, to its end.
async fn pass(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    mut traffic: watch::Receiver<Traffic>,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = reader.read(&mut piece).await?;
        if length == 0 {
            return writer.shutdown().await;
        }
        // An error means that the proxy is gone, and with it this task.
        let condition = traffic.wait_for(|traffic| *traffic != Traffic::IsHeld).await;
        let condition = condition.map_or(Traffic::Flows, |condition| *condition);
        if let Traffic::IsDelayed(delay) = condition {
            tokio::time::sleep(delay).await;
        }
        writer.write_all(&piece[..length]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    async fn connected() -> (FaultyProxy, TcpStream, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = crate::free_address();
        let proxy = FaultyProxy::start(vec![nobody, server.local_addr().unwrap()]).await;
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        let (accepted, _) = server.accept().await.unwrap();
        (proxy, client, accepted)
    }

    #[tokio::test]
    async fn passes_both_directions_on() {
        let (_proxy, mut client, mut server) = connected().await;
        client.write_all(b"a").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'a');
        server.write_all(b"b").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'b');
        drop(client);
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_cut_ends_connections() {
        let (proxy, mut client, _server) = connected().await;
        proxy.cut();
        assert!(matches!(client.read(&mut [0]).await, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn held_bytes_pass_late() {
        let (proxy, mut client, mut server) = connected().await;
        proxy.set_traffic(Traffic::IsHeld);
        client.write_all(b"a").await.unwrap();
        let delay = Duration::from_millis(50);
        let waited = tokio::time::timeout(delay, server.read_u8()).await;
        assert!(waited.is_err(), "nothing passes");
        let resumed = Instant::now();
        proxy.set_traffic(Traffic::IsDelayed(delay));
        assert_eq!(server.read_u8().await.unwrap(), b'a');
        assert!(resumed.elapsed() >= delay);
    }
}
