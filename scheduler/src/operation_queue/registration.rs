//! Registration of a worker.

use bitzel_proto::worker::Hello;

use super::ids::{LeaseId, OperationId};

/// A worker that connects.
#[derive(Debug, Clone, Copy)]
pub struct Registration<'a> {
    /// The worker's description of itself.
    pub hello: &'a Hello,
    /// Leases that it held on an earlier stream and still works on.
    pub leases: &'a [(OperationId, LeaseId)],
    /// True if the worker ends with the server. Its leases are not recorded: nobody comes back with them.
    pub ends_with_server: bool,
}

impl<'a> From<&'a Hello> for Registration<'a> {
    /// Registration of a worker on another machine that was not connected before.
    fn from(hello: &'a Hello) -> Self {
        Self {
            hello,
            leases: &[],
            ends_with_server: false,
        }
    }
}
