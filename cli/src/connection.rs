//! The server that a command works with: one in this process, or a remote one.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;

use bitzel_cas::{CountingBlobStore, DenialToleratingActionCache, RemoteActionCache, RemoteBlobStore};
use bitzel_proto::InstanceName;
use bitzel_rpc::endpoint::{self, Channel, ClientCredentials};

use tonic::Code;

use crate::arguments::RemoteArguments;
use crate::command_error::CommandError;
use crate::directories::Directories;
use crate::embedded::Embedded;
use crate::remote_cache;

/// Tasks under way at the same time on a farm whose size is not known.
const REMOTE_JOBS: usize = 200;

/// Clients of one server, and the server itself where it is embedded.
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) instance: InstanceName,
    pub(crate) store: Arc<CountingBlobStore>,
    pub(crate) action_cache: Arc<DenialToleratingActionCache>,
    pub(crate) jobs: usize,
    embedded: Option<Embedded>,
}

impl Connection {
    /// Connects to the remote server that was asked for, else starts an embedded one.
    pub(crate) async fn open(
        directories: &Directories,
        arguments: &RemoteArguments,
        jobs: Option<usize>,
    ) -> Result<Self, CommandError> {
        let instance = InstanceName::new(arguments.instance.clone())?;
        let mut credentials = ClientCredentials::default();
        let (mut embedded, address, jobs) = match &arguments.remote {
            Some(remote) => {
                credentials = arguments.credentials.credentials()?;
                (None, remote.clone(), jobs.unwrap_or(REMOTE_JOBS))
            }
            None => {
                let slots = jobs.unwrap_or_else(processors);
                // Without slots nothing is built, so there is nothing to share.
                let remote_cache = match slots {
                    0 => None,
                    _ => remote_cache::open(arguments).await?,
                };
                let size = arguments.store_size << 30;
                let embedded = Embedded::start(directories, size, slots, remote_cache).await?;
                let address = embedded.endpoint();
                (Some(embedded), address, slots)
            }
        };
        let connect = async {
            let channel = endpoint::connect_with(&address, &credentials)
                .await
                .map_err(|error| {
                    CommandError::from(error).hint(format!(
                        "is a server running at {address}? `bitzel serve` starts one"
                    ))
                })?;
            let store = RemoteBlobStore::connect(channel.clone(), instance.clone())
                .await
                .map_err(refused)?;
            Ok((channel, store))
        };
        // An embedded server that cannot start says why; the connection could only say that nobody is there.
        let connected: Result<_, CommandError> = match &mut embedded {
            None => connect.await,
            Some(embedded) => tokio::select! {
                connected = connect => connected,
                error = embedded.ended() => Err(error),
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

    /// Why the embedded server ended by itself; never returns for a remote one.
    pub(crate) async fn broke_down(&mut self) -> CommandError {
        match &mut self.embedded {
            Some(embedded) => embedded.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Stops what was started.
    pub(crate) async fn close(self) -> Result<(), CommandError> {
        match self.embedded {
            Some(embedded) => embedded.stop().await,
            None => Ok(()),
        }
    }
}

/// What to do about a server that does not let this client in.
fn refused(error: bitzel_cas::Error) -> CommandError {
    let code = match &error {
        bitzel_cas::Error::Remote { source, .. } => source.code(),
        _ => return error.into(),
    };
    let hint = match code {
        Code::Unauthenticated => {
            "say who you are with --token-file FILE, --tls-cert and --tls-key, or BITZEL_USER and BITZEL_PASSWORD; a \
             token may have expired"
        }
        Code::PermissionDenied => {
            "ask who runs the server for a rule that lets you in, or give another --instance"
        }
        _ => return error.into(),
    };
    CommandError::from(error).hint(hint)
}

/// Processors that this process may use.
pub(crate) fn processors() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}
