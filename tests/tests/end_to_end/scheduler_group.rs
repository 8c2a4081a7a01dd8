//! Several `bitzel serve` on one PostgreSQL, with one store, behind a load balancer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bitzel_tests::{BitzelServer, PostgresqlServer, Site, WorkerProcess, poll_until};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A load balancer: connections go to the first server of a list that accepts them.
pub(super) struct LoadBalancer {
    address: SocketAddr,
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    /// Ends with the load balancer.
    _task: JoinSet<()>,
}

impl LoadBalancer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let servers = Arc::new(Mutex::new(vec![]));
        let mut task = JoinSet::new();
        task.spawn(balance(listener, servers.clone()));
        Self {
            address,
            servers,
            _task: task,
        }
    }

    fn prefer(&self, servers: Vec<SocketAddr>) {
        *self.servers.lock().expect("no panic") = servers;
    }
}

async fn balance(listener: TcpListener, servers: Arc<Mutex<Vec<SocketAddr>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await.expect("a connection");
        let servers = servers.lock().expect("no panic").clone();
        connections.spawn(async move {
            for server in servers {
                if let Ok(mut server) = TcpStream::connect(server).await {
                    // Either side may end the connection, as on any network.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                    return;
                }
            }
        });
    }
}

/// Two schedulers. The first one leads at the start.
pub(super) struct SchedulerGroup {
    pub(super) servers: [BitzelServer; 2],
    pub(super) balancer: LoadBalancer,
    pub(super) postgresql: PostgresqlServer,
    pub(super) sites: [Site; 2],
    store: (BitzelServer, Site),
}

impl SchedulerGroup {
    /// Starts everything, or prints that the test is skipped.
    pub(super) async fn start_or_skip() -> Option<Self> {
        Self::start_with("", |_| {}).await
    }

    /// As [`Self::start_or_skip`]. The text continues the table of PostgreSQL in the configuration of both
    /// servers; `prepare` writes further files
    /// for them.
    pub(super) async fn start_with(configuration: &str, prepare: impl Fn(&Site)) -> Option<Self> {
        let postgresql = PostgresqlServer::start_or_skip()?;
        let store_site = Site::empty();
        std::fs::write(store_site.path("store.toml"), "[execution]\nenabled = false\n").expect("a file");
        let store = BitzelServer::start_with(&store_site, &["--config", "store.toml"]);
        let sites = [Site::empty(), Site::empty()];
        let servers = sites.each_ref().map(|site| {
            prepare(site);
            let configuration = format!(
                "[execution.journal]\nmedium = \"postgresql\"\n\
                 [execution.journal.postgresql]\nurl = \"{}\"\n{configuration}\
                 [blobs.grpc]\nendpoint = \"{store}\"\n[actions.grpc]\nendpoint = \"{store}\"\n",
                postgresql.url(),
                store = store.url(),
            );
            std::fs::write(site.path("server.toml"), configuration).expect("a file");
            let server = BitzelServer::start_with(site, &ARGUMENTS);
            // The first one leads before the second one is there.
            poll_until("the server knows the leader", || {
                knows_leader(&server).then_some(())
            });
            server
        });
        assert!(leads(&servers[0]));
        let balancer = LoadBalancer::start().await;
        let group = Self {
            servers,
            balancer,
            postgresql,
            sites,
            store: (store, store_site),
        };
        group.prefer([0, 1]);
        Some(group)
    }

    /// Sends new connections to these servers, in this order.
    pub(super) fn prefer(&self, order: [usize; 2]) {
        let addresses = order.map(|index| self.servers[index].address());
        self.balancer.prefer(addresses.to_vec());
    }

    /// Address of the store, which takes no Actions.
    pub(super) fn store_url(&self) -> String {
        self.store.0.url()
    }

    /// Address of the load balancer.
    pub(super) fn url(&self) -> String {
        format!("grpc://{}", self.balancer.address)
    }

    /// Starts a worker that knows the load balancer only.
    pub(super) fn start_worker(&self, machine: &Site, slots: &str) -> WorkerProcess {
        // Its Actions connect to the test on loopback.
        let arguments = ["--jobs", slots, "--action-network", "host"];
        WorkerProcess::start_with(machine, &self.url(), &arguments)
    }

    pub(super) fn leads(&self, server: usize) -> bool {
        leads(&self.servers[server])
    }

    /// Waits until a server leads.
    pub(super) fn wait_for_leader(&self, server: usize) {
        poll_until("the server leads", || self.leads(server).then_some(()));
    }

    /// Starts a server again that was killed, and waits until it knows the leader.
    pub(super) fn restart(&mut self, server: usize) {
        self.servers[server].kill_and_restart(&self.sites[server], &ARGUMENTS);
        poll_until("the server knows the leader", || {
            knows_leader(&self.servers[server]).then_some(())
        });
    }
}

fn knows_leader(server: &BitzelServer) -> bool {
    leads(server) || server.metrics().contains("bitzel_scheduler_follows 1")
}

const ARGUMENTS: [&str; 4] = ["--config", "server.toml", "--admin", "127.0.0.1:0"];

fn leads(server: &BitzelServer) -> bool {
    server.metrics().contains("bitzel_scheduler_leads 1")
}
