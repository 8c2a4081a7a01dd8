//! Registration of a worker.

use bitzel_access::Identity;
use bitzel_proto::worker::Hello;

use super::ids::{LeaseHolder, LeaseId, OperationId};
use crate::worker_identity::WorkerIdentity;

/// A worker that connects.
#[derive(Debug, Clone)]
pub struct Registration<'a> {
    /// The worker's description of itself.
    pub hello: &'a Hello,
    /// The worker as the holder of leases.
    pub holder: LeaseHolder,
    /// Leases that it held on an earlier stream and still works on.
    pub leases: &'a [(OperationId, LeaseId)],
    /// Its way to this server.
    pub route: Route,
}

/// Way of a worker to the server that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// It is in the same process and ends with it. Its leases are not recorded: nobody comes back with them.
    SameProcess,
    /// It is on another machine, and connected to this server.
    Direct,
    /// It is connected to another server, which forwards its messages. That server may be lost while the worker goes on.
    Forwarded,
}

impl<'a> From<&'a Hello> for Registration<'a> {
    /// Registration of a worker without credentials on another machine that was not connected before.
    fn from(hello: &'a Hello) -> Self {
        Self {
            hello,
            holder: WorkerIdentity::new(hello, &Identity::anonymous()).holder(),
            leases: &[],
            route: Route::Direct,
        }
    }
}
