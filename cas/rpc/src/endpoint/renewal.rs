//! Renewal of a connection when its certificates change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bitzel_proto::with_causes;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint, Uri};

use super::credentials::ClientCredentials;
use super::tuned;
use crate::error::Error;
use crate::watched_files::WatchedFiles;

/// Replaces the connection when the files of its certificates change. Requests under way end on the old connection.
#[derive(Debug)]
pub(super) struct Renewal {
    uri: Uri,
    credentials: ClientCredentials,
    watched: WatchedFiles,
    current: Mutex<Channel>,
    /// Number of the connection, which grows with each new one.
    generation: AtomicU64,
}

impl Renewal {
    /// Watches the files of `credentials`, with which `current` was connected to `uri`. `None` if there are no files.
    pub(super) fn of(uri: Uri, credentials: &ClientCredentials, current: Channel) -> Option<Arc<Self>> {
        let mut paths: Vec<_> = credentials.ca.iter().cloned().collect();
        if let Some((certificate, key)) = &credentials.certificate {
            paths.extend([certificate.clone(), key.clone()]);
        }
        (!paths.is_empty()).then(|| {
            Arc::new(Self {
                uri,
                credentials: credentials.clone(),
                watched: WatchedFiles::new(paths),
                current: Mutex::new(current),
                generation: AtomicU64::new(0),
            })
        })
    }

    /// The connection for the next request, if it is not the one numbered `generation`, which is updated. Unusable
    /// files, such as those in the middle of a replacement, change nothing.
    pub(super) fn newer(&self, generation: &mut u64) -> Option<Channel> {
        if self.watched.changed() {
            match self.endpoint() {
                // It connects with the first request.
                Ok(endpoint) => {
                    *self.current.lock() = endpoint.connect_lazy();
                    self.generation.fetch_add(1, Ordering::Release);
                    tracing::info!(server = %self.uri, "certificates read again");
                }
                Err(error) => tracing::warn!(
                    server = %self.uri,
                    error = with_causes(&error),
                    "cannot read the certificates again; those from before are used"
                ),
            }
        }
        let newest = self.generation.load(Ordering::Acquire);
        (*generation != newest).then(|| {
            *generation = newest;
            self.current.lock().clone()
        })
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        let endpoint = tuned(Endpoint::from(self.uri.clone())).tls_config(self.credentials.tls()?);
        endpoint.map_err(|source| Error::Connect {
            endpoint: self.uri.to_string(),
            source,
        })
    }
}
