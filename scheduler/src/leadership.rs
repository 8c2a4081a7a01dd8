//! Several schedulers on one PostgreSQL: one leads, the others forward calls to it.
//!
//! * `election` decides which server leads: a state machine without I/O.
//! * `campaign` executes its statements, and renews the lease of the leader: its `tenure`.
//! * [`SchedulerGroup`] starts an operation queue with the journal in PostgreSQL when this server begins to lead, and drops
//!   it when it ends.
//! * `services` are the gRPC services of every server. By the `router`, they call the queue if this server leads, and
//!   forward (`leader_connection`) the call to the leader otherwise, in the name of the caller (`forwarded_identity`).
//!
//! ```text
//!  client, worker ──▶ load balancer ──▶ server A ─────────────────▶ its queue ──▶ journal ──┐
//!                                  └──▶ server B ── forwards to A                        PostgreSQL
//!                                       └─ sees that A does not renew its lease: leads ──┘
//! ```

mod campaign;
pub(crate) mod election;
mod forwarded_identity;
mod group;
mod leader_connection;
mod lent_messages;
mod readiness;
mod router;
mod services;
pub(crate) mod statements;
mod tenure;

pub use forwarded_identity::ForwardedIdentities;
pub use group::{GroupGauges, GroupSettings, SchedulerGroup};
pub use readiness::GroupReadiness;
pub use services::{
    ForwardedScalerService, GroupBuildsService, GroupExecutionService, GroupFarmService, GroupScalerService,
    GroupWorkerQueueService,
};
