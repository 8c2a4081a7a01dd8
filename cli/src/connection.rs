//! Connection of a command to its server: a remote one, or one embedded in this process.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;

use bitzel_cas::{CountingBlobStore, DenialToleratingActionCache, RemoteActionCache, RemoteBlobStore};
use bitzel_proto::InstanceName;
use bitzel_rpc::endpoint::{self, Channel, ClientCredentials};
use bitzel_worker::{Bounds, RootIdentity};

use crate::arguments::RemoteArguments;
use crate::command_error::CommandError;
use crate::directories::Directories;
use crate::embedded::Embedded;
use crate::remote_cache;
use crate::status_hint::with_status_hint;

/// Default of `--jobs` with `--remote`, because the size of the farm is not known.
const MAX_CONCURRENT_REMOTE_TASKS: usize = 200;

/// Clients of one server, and the server itself if it is embedded.
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) instance: InstanceName,
    pub(crate) store: Arc<CountingBlobStore>,
    pub(crate) action_cache: Arc<DenialToleratingActionCache>,
    pub(crate) jobs: usize,
    embedded: Option<Embedded>,
}

impl Connection {
    /// Connects to the server of `--remote`, or starts an embedded one with a worker on this root, whose Actions have
    /// `bounds`.
    pub(crate) async fn open(
        directories: &Directories,
        arguments: &RemoteArguments,
        jobs: Option<usize>,
        root_identity: &RootIdentity,
        bounds: Bounds,
    ) -> Result<Self, CommandError> {
        let instance = InstanceName::new(arguments.instance.clone())?;
        let mut credentials = ClientCredentials::default();
        let (mut embedded, address, jobs) = match &arguments.remote {
            Some(remote) => {
                credentials = arguments.credentials.credentials()?;
                (None, remote.clone(), jobs.unwrap_or(MAX_CONCURRENT_REMOTE_TASKS))
            }
            None => {
                let slots = jobs.unwrap_or_else(processors);
                // Without slots nothing is built, so there is nothing to share.
                let remote_cache = match slots {
                    0 => None,
                    _ => remote_cache::open(arguments).await?,
                };
                let size = arguments.store_size << 30;
                let embedded = Embedded::start(
                    directories,
                    size,
                    slots,
                    Some(root_identity.clone()),
                    bounds,
                    remote_cache,
                )
                .await?;
                let address = embedded.endpoint();
                (Some(embedded), address, slots)
            }
        };
        let connect = async {
            let channel = connect(&address, &credentials).await?;
            let store = RemoteBlobStore::connect(channel.clone(), instance.clone())
                .await
                .map_err(with_status_hint)?;
            Ok((channel, store))
        };
        // An embedded server that cannot start has the real cause; the connection would only be refused.
        let connected: Result<_, CommandError> = match &mut embedded {
            None => connect.await,
            Some(embedded) => tokio::select! {
                connected = connect => connected,
                error = embedded.failure() => Err(error),
            },
        };
        let (channel, store) = match (connected, embedded.take()) {
            (Ok((channel, store)), running) => {
                embedded = running;
                (channel, store)
            }
            (Err(error), running) => {
                if let Some(running) = running {
                    running.stop().await.ok();
                }
                return Err(error);
            }
        };
        Ok(Self {
            action_cache: Arc::new(DenialToleratingActionCache::new(Arc::new(
                RemoteActionCache::new(channel.clone()),
            ))),
            store: Arc::new(CountingBlobStore::new(Arc::new(store))),
            channel,
            instance,
            jobs,
            embedded,
        })
    }

    /// Waits until the embedded server ends by itself, and returns the cause. Never returns for a remote server.
    pub(crate) async fn server_failure(&mut self) -> CommandError {
        match &mut self.embedded {
            Some(embedded) => embedded.failure().await,
            None => std::future::pending().await,
        }
    }

    /// Stops the embedded server, if any.
    pub(crate) async fn close(self) -> Result<(), CommandError> {
        match self.embedded {
            Some(embedded) => embedded.stop().await,
            None => Ok(()),
        }
    }
}

/// Connects to a server.
pub(crate) async fn connect(address: &str, credentials: &ClientCredentials) -> Result<Channel, CommandError> {
    let channel = endpoint::connect_with(address, credentials).await;
    channel.map_err(|error| {
        CommandError::from(error).hint(format!(
            "is a server running at {address}? `bitzel serve` starts one"
        ))
    })
}

/// Number of processors that this process may use.
pub(crate) fn processors() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}
